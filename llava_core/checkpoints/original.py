"""Settings of the original LLaVA layout (haotian-liu/LLaVA, LLaVA-VL/LLaVA-NeXT), translated both ways.

One config.json mixes the language model's settings with `mm_*` ones. Rules where the file leaves something open:

    family       image_aspect_ratio "anyres_max_N" is OneVision, "anyres" is NeXT, "pad" and "square" are LLaVA 1.x
    base tile    any-res squashes; "pad" pads with the mean colour; "square" (and an absent value) crops the centre
    tower        `mm_vision_config` (written here), else the known tower of that name, else the one supplied
    SigLIP       last layer deleted, so features are layer -1 and "full", whatever `mm_vision_select_layer` says
    mean, std    0.5 for SigLIP, CLIP's own otherwise
    <image>      not in the vocabulary: the id after the last one, where the processor adds it
    template     `template_for`

What this does *not* do: read tensors. Perceivers, Q-Formers and `<im_start>` wrappers are refused.
Source: `llava/model/{llava_arch,multimodal_encoder,multimodal_projector}` and `llava/mm_utils.py`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import CONFIG_MAPPING

from llava_core.checkpoints.standard import TEXT_MODELS, TOWERS, VOLATILE, legacy_rope, standard_config, template_for
from llava_core.checkpoints.towers import HALF, name_of_tower, tower_by_name
from llava_core.config import (
    CLIP_MEAN,
    CLIP_STD,
    ConnectorConfig,
    Family,
    ModelConfig,
    SquareFit,
    TileConfig,
    VideoConfig,
    VisionConfig,
)
from llava_core.errors import CheckpointReason, CheckpointRefused
from llava_core.geometry import AxisOrder, Size

TEXT_OF = {"llavallama": "llama", "llavamistral": "mistral", "llavaqwen": "qwen2"}
"""Class or model type without its decoration → transformers' model type of the language model."""
WRITTEN_AS = {
    "llama": ("llava_llama", "LlavaLlamaForCausalLM"),
    "mistral": ("llava_mistral", "LlavaMistralForCausalLM"),
    "qwen2": ("llava_qwen", "LlavaQwenForCausalLM"),
}
UNNAMED_TOWER = "clip-vision-tower-in-this-checkpoint"


def read(
    raw: Mapping[str, Any],
    *,
    tower: Mapping[str, Any] | None = None,
    next_token_id: int | None = None,
    axis_order: AxisOrder | None = None,
    template: str | None = None,
) -> ModelConfig:
    """Translate an original config.

    Args:
        raw: config.json.
        tower: standard config of a supplied tower, used where the file neither holds nor names a known one.
        next_token_id: id after the tokenizer's last, where there is a tokenizer; else that of the released vocabulary.
        axis_order: how pinpoints are read; default "original".
        template: prompt template; default by `template_for`.

    Returns:
        The model's config.

    Raises:
        CheckpointRefused: NOT_EXPRESSIBLE, UNKNOWN_LAYOUT or NOT_FOUND (the tower), naming the setting.
    """
    _refuse_strangers(raw)
    text = _read_text(raw)
    vision = _read_vision(raw, tower)
    aspect = raw.get("image_aspect_ratio") or "square"
    merge: Any = raw.get("mm_patch_merge_type") or "flat"
    family = _family(aspect)
    if merge not in ("flat", "spatial", "spatial_unpad"):
        raise _unsupported("mm_patch_merge_type", merge, '"flat", "spatial" or "spatial_unpad"')
    name = template or template_for(text)
    image_token = next_token_id if next_token_id is not None else _released_rows(text, name)
    return ModelConfig(
        family=family,
        vision=vision,
        text=text,
        text_dim=text["hidden_size"],
        connector=ConnectorConfig(
            num_layers=_depth(raw.get("mm_projector_type") or "linear"), image_newline="unpad" in merge
        ),
        tiles=_read_tiles(raw, vision, family, axis_order or "original"),
        video=_read_video(raw) if family == "llava_onevision" else VideoConfig(),
        packing=merge,
        image_token_id=image_token,
        video_token_id=image_token + 1 if family == "llava_onevision" else None,
        template=name,
    )


def _unsupported(name: str, value: object, expected: str) -> CheckpointRefused:
    detail = f"config.json has {name} = {value!r}; this model has {expected}"
    return CheckpointRefused(CheckpointReason.NOT_EXPRESSIBLE, detail)


def _refuse_strangers(raw: Mapping[str, Any]) -> None:
    if raw.get("mm_use_im_start_end"):
        raise _unsupported("mm_use_im_start_end", True, "no <im_start> and <im_end> around images in its prompts")
    if raw.get("mm_resampler_type"):
        raise _unsupported("mm_resampler_type", raw["mm_resampler_type"], "no resampler")


def _read_text(raw: Mapping[str, Any]) -> dict[str, Any]:
    named = [*(raw.get("architectures") or []), raw.get("model_type") or ""]
    for name in named:
        bare = re.sub(r"(_|ForCausalLM$|Model$)", "", str(name)).lower()
        if bare in TEXT_OF or (bare == "llava" and name == named[-1]):
            kind = TEXT_OF.get(bare, "llama")
            fields = {field.name for field in dataclasses.fields(CONFIG_MAPPING[kind])} | {"rope_theta", "rope_scaling"}
            return standard_config({**{k: v for k, v in raw.items() if k in fields}, "model_type": kind})
    detail = f"architectures and model_type are {named}; expected LLaVA over one of {TEXT_MODELS}"
    raise CheckpointRefused(CheckpointReason.UNKNOWN_LAYOUT, detail)


def _read_vision(raw: Mapping[str, Any], supplied: Mapping[str, Any] | None) -> VisionConfig:
    name = str(raw.get("mm_vision_tower") or raw.get("vision_tower") or "")
    stated = raw.get("mm_vision_config")
    tower = standard_config(stated) if isinstance(stated, dict) else tower_by_name(name) or supplied
    if tower is None:
        raise CheckpointRefused(
            CheckpointReason.NOT_FOUND,
            f"config.json only names its vision tower ({name!r}), which is not a known one; give vision_tower=, a "
            "local folder or hub name with its config.json",
        )
    if tower["model_type"] == "siglip_vision_model":
        return VisionConfig(tower=dict(tower), select_layer=-1, select_feature="full")
    feature = raw.get("mm_vision_select_feature") or "patch"
    if feature not in ("patch", "cls_patch"):
        raise _unsupported("mm_vision_select_feature", feature, '"patch" or "cls_patch"')
    return VisionConfig(
        tower=dict(tower),
        select_layer=int(raw.get("mm_vision_select_layer", -2)),
        select_feature="patch" if feature == "patch" else "full",
    )


def _family(aspect: str) -> Family:
    if aspect in ("square", "pad"):
        return "llava"
    if aspect == "anyres":
        return "llava_next"
    if re.fullmatch(r"anyres_max_\d+", aspect):
        return "llava_onevision"
    raise _unsupported("image_aspect_ratio", aspect, '"square", "pad", "anyres" or "anyres_max_N"')


def _depth(projector: str) -> int:
    """Linear layers of a projector type: "linear" or "mlpNx_gelu"."""
    layers = re.fullmatch(r"mlp(\d+)x_gelu", projector)
    if projector != "linear" and not layers:
        raise _unsupported("mm_projector_type", projector, '"linear" or "mlpNx_gelu"')
    return int(layers[1]) if layers else 1


def _released_rows(text: Mapping[str, Any], template: str) -> int:
    """The `<image>` id where there is no tokenizer to ask: after the released vocabulary's last token."""
    released = {"qwen_1_5": 151_646, "llava_llama_3": 128_256, "chatml_direct": 64_000}
    rows = int(text["vocab_size"])
    return min(released.get(template, rows), rows)


def _read_tiles(raw: Mapping[str, Any], vision: VisionConfig, family: Family, order: AxisOrder) -> TileConfig:
    siglip = vision.tower["model_type"] == "siglip_vision_model"
    side = int(vision.tower["image_size"])
    common: dict[str, Any] = {
        "tile_size": side,
        "axis_order": order,
        "image_mean": HALF if siglip else CLIP_MEAN,
        "image_std": HALF if siglip else CLIP_STD,
    }
    if family == "llava":
        fit: SquareFit = "pad" if raw.get("image_aspect_ratio") == "pad" else "crop"
        return TileConfig(policy="single", base_tile=fit, **common)
    common["pinpoints"] = parse_pinpoints(raw.get("image_grid_pinpoints"), side)
    if family == "llava_next":
        return TileConfig(**common)
    bound = int(str(raw["image_aspect_ratio"]).removeprefix("anyres_max_"))
    return TileConfig(**common, anyres_max=bound, multi_image="single")


def parse_pinpoints(value: object, side: int) -> tuple[Size, ...]:
    """Read `image_grid_pinpoints`: a list of pairs, its text, or a range of grids in tiles.

    Args:
        value: as config.json has it.
        side: of a tile, pixels; the unit of a range.

    Returns:
        Pairs in the file's order and spelling (see `select_canvas`).

    Raises:
        CheckpointRefused: CORRUPT for anything else.

    Source: `process_anyres_image` in `llava/mm_utils.py`.

    Example:
        >>> [tuple(pair) for pair in parse_pinpoints("(1x1),...,(2x2)", 384)]
        [(384, 384), (384, 768), (768, 384), (768, 768)]
        >>> [tuple(pair) for pair in parse_pinpoints("[(336, 672), (672, 336)]", 336)]
        [(336, 672), (672, 336)]
    """
    pairs: Sequence[Any] = []
    if isinstance(value, str):
        grids = [(int(a), int(b)) for a, b in re.findall(r"\((\d+)x(\d+)\)", value)]
        if grids:
            (first_a, first_b), (last_a, last_b) = grids[0], grids[-1]
            pairs = [(a * side, b * side) for a in range(first_a, last_a + 1) for b in range(first_b, last_b + 1)]
        else:
            pairs = re.findall(r"[(\[]\s*(\d+)\s*,\s*(\d+)\s*[)\]]", value)
    elif isinstance(value, list):
        pairs = value
    try:
        sizes = tuple(Size(int(a), int(b)) for a, b in pairs)
    except (TypeError, ValueError):
        sizes = ()
    if not sizes:
        detail = f"image_grid_pinpoints is {value!r}; expected pairs of pixels or a range such as (1x1),...,(6x6)"
        raise CheckpointRefused(CheckpointReason.CORRUPT, detail)
    return sizes


def _read_video(raw: Mapping[str, Any]) -> VideoConfig:
    mode = raw.get("mm_spatial_pool_mode") or "bilinear"
    if mode != "bilinear":
        raise _unsupported("mm_spatial_pool_mode", mode, '"bilinear"')
    return VideoConfig(
        pool_stride=int(raw.get("mm_spatial_pool_stride") or 2),
        newline_position=raw.get("mm_newline_position") or "one_token",
    )


def write(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Translate a canonical config to the original config.json.

    Args:
        config: as `canonical` returns it.
        dtype: of the tensors, e.g. "bfloat16".

    Returns:
        The file's content; the caller checks by reading it back that nothing is missing. The tower's whole config goes
        in as `mm_vision_config`, since its weights are in the checkpoint whatever they were tuned from.

    Raises:
        CheckpointRefused: NOT_EXPRESSIBLE for a tower or language model that the layout cannot hold.
    """
    text, tower, tiles = config.text, config.vision.tower, config.tiles
    if text is None or text["model_type"] not in TEXT_MODELS or tower.get("model_type") not in TOWERS:
        raise CheckpointRefused(
            CheckpointReason.NOT_EXPRESSIBLE,
            f'layout "original" is written for language models {TEXT_MODELS} and towers {TOWERS}, not for '
            f'{text and text["model_type"]!r} and {tower.get("model_type")!r}; write layout "own"',
        )
    kind, architecture = WRITTEN_AS[text["model_type"]]
    siglip = tower["model_type"] == "siglip_vision_model"
    unnamed = UNNAMED_TOWER.replace("clip", "siglip") if siglip else UNNAMED_TOWER
    depth = config.connector.num_layers
    raw = {
        **{key: value for key, value in legacy_rope(text).items() if key not in VOLATILE},
        "model_type": kind,
        "architectures": [architecture],
        "torch_dtype": dtype,
        "mm_hidden_size": config.vision.hidden_size,
        "mm_projector_type": "linear" if depth == 1 else f"mlp{depth}x_gelu",
        "mm_patch_merge_type": config.packing,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_vision_config": dict(tower),
        "mm_vision_select_feature": "patch" if siglip or config.vision.select_feature == "patch" else "cls_patch",
        "mm_vision_select_layer": -2 if siglip else config.vision.select_layer,
        "mm_vision_tower": name_of_tower(tower) or unnamed,
        "unfreeze_mm_vision_tower": True,
        "image_aspect_ratio": _written_aspect(config),
    }
    if tiles.policy == "pinpoints":
        raw["image_grid_pinpoints"] = [[width, height] for height, width in tiles.pinpoints]
    if config.family == "llava_onevision":
        raw["mm_newline_position"] = config.video.newline_position
        raw["mm_spatial_pool_stride"] = config.video.pool_stride
        raw["mm_spatial_pool_mode"] = "bilinear"
    return raw


def _written_aspect(config: ModelConfig) -> str:
    if config.family == "llava":
        return "pad" if config.tiles.base_tile == "pad" else "square"
    return "anyres" if config.tiles.anyres_max is None else f"anyres_max_{config.tiles.anyres_max}"
