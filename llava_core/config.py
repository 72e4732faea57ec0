"""Settings of a model: one frozen dataclass for each part, together a `ModelConfig`.

Plain values only, checked when made, equal to their JSON. `ModelConfig` says everything that a checkpoint's tensors do
not: which tower, which connector, how an image becomes tiles, how features are packed, which prompt template.
`plan_tiles` is here because it is the one place where all of them meet.

What this does *not* do: read checkpoint folders (`checkpoints`), build modules (`model`).
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from llava_core.errors import ConfigError
from llava_core.geometry import (
    AxisOrder,
    Box,
    Rounding,
    Size,
    TilePlan,
    select_canvas,
    select_grid,
    shrunk_size,
    square_plan,
    unpadded_box,
)

Family = Literal["llava", "llava_next", "llava_onevision"]
TilePolicy = Literal["pinpoints", "grid", "single"]
SquareFit = Literal["squash", "pad", "crop"]
Packing = Literal["flat", "spatial", "spatial_unpad"]
Placement = Literal["placeholder", "concatenate"]
NewlinePosition = Literal["one_token", "grid", "frame", "no_token"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def check_choice(owner: str, name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise `ConfigError` unless a field's value is one of its choices."""
    if value not in choices:
        raise ConfigError(f"{owner}.{name} is {value!r}; expected one of {', '.join(map(repr, choices))}")


def check_at_least(owner: str, name: str, value: float, least: float) -> None:
    """Raise `ConfigError` where a field's value is below its least, or no finite number."""
    if not least <= value < math.inf:
        finite = "" if value < least else " and finite"
        raise ConfigError(f"{owner}.{name} is {value}; expected at least {least}{finite}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TileConfig:
    """How one image becomes tiles."""

    policy: TilePolicy = "pinpoints"
    """"pinpoints": the released checkpoints' list of canvases. "grid": the document's `select_grid`. "single": one
    square tile, no grid (LLaVA 1.0 and 1.5)."""
    tile_size: int = 336
    """Side of a tile, pixels; the vision tower's input size."""
    pinpoints: tuple[Size, ...] = ()
    """Allowed canvases, in the checkpoint's order and spelling (see `select_canvas`). Only for "pinpoints"."""
    axis_order: AxisOrder = "original"
    """How the checkpoint reads its pinpoints: the released models were trained with "original" (width, height)."""
    rounding: Rounding = "original"
    """How the unpadded size is rounded: "original" truncates, "hf" rounds to 7 decimals first."""
    max_tiles: int = 5
    """Most tiles in a grid, base tile not counted: `max_patches` of the document. Only for "grid"."""
    base_tile: SquareFit = "squash"
    """How the whole image is made square for the base tile: "squash" (as released for any-res), "pad" with the mean
    colour (LLaVA 1.5), "crop" its centre (CLIP's own, LLaVA 1.0 and transformers' LLaVA)."""
    anyres_max: int | None = None
    """N of `anyres_max_N`: grids above about N tiles of features are shrunk after the connector. None: never."""
    multi_image: Literal["anyres", "single"] = "anyres"
    """Samples with several images: each any-res, or ("single", OneVision) each padded to one square tile."""
    max_images: int | None = None
    """Most images in one sample, and most tiles of its images together, base tiles counted: `max_images` of the
    document, where lowering it saves memory. None: no bound but `max_tiles`. Only for "grid"."""
    image_mean: tuple[float, float, float] = CLIP_MEAN
    """Per-channel mean of pixels scaled to 0..1, from `preprocessor_config.json`."""
    image_std: tuple[float, float, float] = CLIP_STD
    """Per-channel standard deviation of pixels scaled to 0..1."""

    def __post_init__(self) -> None:
        check_choice("tiles", "policy", self.policy, get_args(TilePolicy))
        check_choice("tiles", "axis_order", self.axis_order, get_args(AxisOrder))
        check_choice("tiles", "rounding", self.rounding, get_args(Rounding))
        check_choice("tiles", "base_tile", self.base_tile, get_args(SquareFit))
        check_choice("tiles", "multi_image", self.multi_image, ("anyres", "single"))
        check_at_least("tiles", "tile_size", self.tile_size, 1)
        check_at_least("tiles", "max_tiles", self.max_tiles, 1)
        for name in ("anyres_max", "max_images"):
            if getattr(self, name) is not None:
                check_at_least("tiles", name, getattr(self, name), 1)
        if self.policy == "pinpoints" and not self.pinpoints:
            raise ConfigError('tiles.policy is "pinpoints", but tiles.pinpoints is empty')
        for canvas in self.pinpoints:
            if canvas[0] % self.tile_size or canvas[1] % self.tile_size or min(canvas) < 1:
                raise ConfigError(
                    f"tiles.pinpoints has {tuple(canvas)}; each side must be a multiple of {self.tile_size}"
                )
        object.__setattr__(self, "pinpoints", tuple(Size(*canvas) for canvas in self.pinpoints))
        object.__setattr__(self, "image_mean", tuple(self.image_mean))
        object.__setattr__(self, "image_std", tuple(self.image_std))

    @property
    def pad_color(self) -> tuple[int, int, int]:
        """uint8[3] of the mean colour, used by base tile "pad" (`expand2square`); canvases are padded black."""
        red, green, blue = (int(channel * 255) for channel in self.image_mean)
        return red, green, blue


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """Which vision tower, and which of its hidden states become features."""

    tower: dict[str, Any] = field(default_factory=dict)
    """The tower's transformers config as a dict; `model_type` is "clip_vision_model", "siglip_vision_model" or our own
    "stem_vision_model"."""
    select_layer: int = -2
    """Index into the hidden states (0 is the embeddings, -1 the last layer); -2 in every CLIP LLaVA."""
    select_feature: Literal["patch", "full"] = "patch"
    """"patch" drops the class token (CLIP); "full" keeps everything (SigLIP has no class token)."""

    def __post_init__(self) -> None:
        check_choice("vision", "select_feature", self.select_feature, ("patch", "full"))
        for name in ("hidden_size", "image_size", "patch_size"):
            if not isinstance(self.tower.get(name), int):
                raise ConfigError(f"vision.tower.{name} is {self.tower.get(name)!r}; expected an integer")

    @property
    def num_class_tokens(self) -> int:
        """Features of a tile beside its patches: 1 where "full" keeps CLIP's class token."""
        return int(self.select_feature == "full" and self.tower.get("model_type") == "clip_vision_model")

    @property
    def hidden_size(self) -> int:
        """Width of one patch's feature."""
        return int(self.tower["hidden_size"])

    @property
    def patches_per_side(self) -> int:
        """P: patches along one side of a tile, e.g. 336 // 14 = 24."""
        return int(self.tower["image_size"]) // int(self.tower["patch_size"])


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectorConfig:
    """What stands between the tower's features and the language model's embeddings."""

    num_layers: int = 2
    """Linear layers, with GELU between them: 1 is LLaVA 1.0, 2 is 1.5 and later (`mlp2x_gelu`)."""
    bias: bool = True
    """Whether the linear layers have a bias; true in every released checkpoint."""
    compression_ratio: int = 1
    """Adaptive average pooling of each tile's P×P patches to ceil(P/ratio) a side, before projection. 1: off."""
    position_embedding: bool = False
    """Learned embedding by a tile's grid (row, col), added after projection; off in released checkpoints."""
    max_grid: int = 6
    """Rows and columns for which there are position embeddings."""
    image_newline: bool = False
    """One learned vector that ends each row of a packed grid; true in LLaVA-NeXT and OneVision."""
    cross_image_attention: bool = False
    """Attention between the images of one sample, after projection; off in released checkpoints."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "compression_ratio", "max_grid"):
            check_at_least("connector", name, getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoConfig:
    """How frames become tokens (OneVision)."""

    max_frames: int = 32
    """Frames sampled evenly from a longer video."""
    pool_stride: int = 2
    """Bilinear pooling of each frame's P×P features to ceil(P/stride) a side: 27 → 14, 196 tokens a frame."""
    newline_position: NewlinePosition = "one_token"
    """"one_token": one newline after the whole video (released checkpoints, transformers); "grid": after each row;
    "frame": after each frame; "no_token": none."""
    temporal_encoder: bool = False
    """Transformer over all frames' tokens, as the document has it; off in released checkpoints."""
    temporal_layers: int = 1
    """Layers of the temporal encoder, where there is one."""

    def __post_init__(self) -> None:
        check_choice("video", "newline_position", self.newline_position, get_args(NewlinePosition))
        check_at_least("video", "max_frames", self.max_frames, 1)
        check_at_least("video", "pool_stride", self.pool_stride, 1)
        check_at_least("video", "temporal_layers", self.temporal_layers, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A whole model."""

    family: Family = "llava_next"
    """Which transformers class it corresponds to."""
    vision: VisionConfig
    """The vision tower."""
    text: dict[str, Any] | None = None
    """The language model's transformers config as a dict; None for a model without one (the document's examples)."""
    text_dim: int
    """Width of the language model's embeddings; equals `text["hidden_size"]` where there is one."""
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)
    """From tower features to the language model's width."""
    tiles: TileConfig = field(default_factory=TileConfig)
    """How images become tiles."""
    video: VideoConfig = field(default_factory=VideoConfig)
    """How videos become frames and tokens."""
    packing: Packing = "spatial_unpad"
    """How a grid's features become a sequence: tile after tile ("flat"), row by row of the whole canvas ("spatial"),
    or the same without the padding ("spatial_unpad")."""
    placement: Placement = "placeholder"
    """"placeholder": features replace `<image>` in the prompt (released); "concatenate": [start] visual [end] text."""
    image_token_id: int = 32000
    """Placeholder id in `input_ids`."""
    video_token_id: int | None = None
    """Placeholder id of video tokens; None where the family has no video."""
    template: str = "vicuna_v1"
    """Name of the prompt template (`prompts.TEMPLATES`)."""
    trained: bool = True
    """False for random weights, so that a job can say so."""

    def __post_init__(self) -> None:
        check_choice("model", "family", self.family, get_args(Family))
        check_choice("model", "packing", self.packing, get_args(Packing))
        check_choice("model", "placement", self.placement, get_args(Placement))
        check_at_least("model", "text_dim", self.text_dim, 1)
        if self.text is not None and self.text.get("hidden_size") != self.text_dim:
            raise ConfigError(f"text_dim is {self.text_dim}, but text.hidden_size is {self.text.get('hidden_size')}")
        if self.tiles.tile_size != self.vision.tower["image_size"]:
            raise ConfigError(
                f"tiles.tile_size is {self.tiles.tile_size}, but the tower takes {self.vision.tower['image_size']}"
            )
        if self.vision.num_class_tokens and (self.packing != "flat" or self.connector.compression_ratio > 1):
            raise ConfigError(
                'vision.select_feature "full" keeps the class token, which has no place on a grid of patches: it goes '
                f'with packing "flat" and no pooling, not with "{self.packing}" and {self.connector.compression_ratio}'
            )

    @property
    def patches_per_side(self) -> int:
        """P after the connector's pooling: image features along one side of a tile."""
        return -(-self.vision.patches_per_side // self.connector.compression_ratio)

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-ready plain values; `from_dict` reads it back equal."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: an unknown or missing key, or a value out of its range.
        """
        parts = {"vision": VisionConfig, "connector": ConnectorConfig, "tiles": TileConfig, "video": VideoConfig}
        try:
            built = {name: parts[name](**value) if name in parts else value for name, value in values.items()}
            return cls(**built)
        except TypeError as error:
            known = [one.name for one in dataclasses.fields(cls)]
            raise ConfigError(f"model config: {error}; known keys: {known}") from error


def plan_tiles(size: Size, config: ModelConfig, *, num_images: int = 1, max_tiles: int | None = None) -> TilePlan:
    """Plan one image's tiles and tokens from its size alone.

    Args:
        size: (height, width) of the image, pixels, both ≥ 1.
        config: the model.
        num_images: images in the same sample; with `multi_image="single"` more than one means a square tile each.
        max_tiles: lower the tiles of a grid (base tile not counted) below the config's; 0 leaves the base tile alone.

    Returns:
        The plan; `num_image_tokens` equals what the model makes of the image.

    Source: `prepare_inputs_labels_for_multimodal` (LLaVA), `_get_number_of_features` (transformers).

    Example:
        >>> tower = {"model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "patch_size": 14}
        >>> pinpoints = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
        >>> config = ModelConfig(vision=VisionConfig(tower=tower), text_dim=4096,
        ...                      connector=ConnectorConfig(image_newline=True), tiles=TileConfig(pinpoints=pinpoints))
        >>> [plan_tiles(Size(h, w), config).num_image_tokens for w, h in [(336, 336), (640, 480), (1920, 1080)]]
        [1176, 2340, 1948]
    """
    canvas = _canvas(size, config.tiles, num_images, max_tiles)
    side = config.tiles.tile_size
    grid = Size(0, 0) if canvas is None else Size(canvas.height // side, canvas.width // side)
    return plan_grid(size, grid, config)


def plan_grid(size: Size, grid: Size, config: ModelConfig) -> TilePlan:
    """Complete the plan of an image whose grid has been chosen.

    Args:
        size: (height, width) of the image, pixels, both ≥ 1.
        grid: (rows, cols) of tiles; (0, 0) for the base tile alone.
        config: the model.

    Returns:
        The plan, as `plan_tiles` returns it.
    """
    per_side, newline = config.patches_per_side, int(config.connector.image_newline)
    unpads, class_tokens = config.packing == "spatial_unpad", config.vision.num_class_tokens
    if grid == (0, 0):
        # The released models end a lone tile with one newline only where they unpad; "flat" and "spatial" do not.
        return square_plan(config.tiles.tile_size, per_side**2 + class_tokens + newline * unpads)
    full = Size(grid.height * per_side, grid.width * per_side)
    crop = unpadded_box(full, size, config.tiles.rounding) if unpads else Box(0, full.height, 0, full.width)
    features = Size(crop.bottom - crop.top, crop.right - crop.left)
    if unpads and config.tiles.anyres_max is not None:
        features = shrunk_size(features, per_side, config.tiles.anyres_max)
    count = per_side**2 + features.height * (features.width + newline * unpads)
    count += class_tokens * (1 + grid.height * grid.width)
    canvas = Size(grid.height * config.tiles.tile_size, grid.width * config.tiles.tile_size)
    return TilePlan(canvas, grid, 1 + grid.height * grid.width, crop, features, count)


def _canvas(size: Size, tiles: TileConfig, num_images: int, max_tiles: int | None) -> Size | None:
    """The canvas for an image, or None when the base tile stands alone."""
    if tiles.policy == "single" or max_tiles == 0 or (num_images > 1 and tiles.multi_image == "single"):
        return None
    if tiles.policy == "grid":
        budget = tiles.max_tiles if max_tiles is None else min(max_tiles, tiles.max_tiles)
        if tiles.max_images is not None:
            budget = min(budget, tiles.max_images // num_images - 1)
            if budget < 2:  # a single tile would only repeat the base tile
                return None
        grid = select_grid(size.height, size.width, budget)
        return Size(grid.height * tiles.tile_size, grid.width * tiles.tile_size)
    area = tiles.tile_size**2
    allowed = [c for c in tiles.pinpoints if max_tiles is None or c.height * c.width <= max_tiles * area]
    return select_canvas(size, allowed, tiles.axis_order) if allowed else None
