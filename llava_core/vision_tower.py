"""The vision tower: tiles in, one feature for each patch out.

    tiles uint8 or float[N, 3, S, S] ─ normalise ─▶ embeddings ─ layers up to the selected one ─▶ features[N, P², D]

Legend: N tiles, S tile side (px), P patches along a side, D tower width. The tower itself is transformers'
`CLIPVisionModel` or `SiglipVisionModel`, or our own `StemVisionModel` (`stem_tower`), kept under `encoder` with its own
tensor names; only its layers are walked here, because those beyond the selected one need not run.

What this does *not* do: choose or cut tiles (`geometry`, `tiling`), project features (`connector`), read checkpoints.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedModel, SiglipVisionConfig, SiglipVisionModel

from llava_core.config import TileConfig, VisionConfig
from llava_core.errors import ConfigError
from llava_core.geometry import TilePlan
from llava_core.stem_tower import StemVisionConfig, StemVisionModel

TOWERS: dict[str, tuple[type[Any], type[Any]]] = {
    "clip_vision_model": (CLIPVisionConfig, CLIPVisionModel),
    "siglip_vision_model": (SiglipVisionConfig, SiglipVisionModel),
    "stem_vision_model": (StemVisionConfig, StemVisionModel),
}
HEAD_DIM = 64
"""Width of an attention head of CLIP-L and SigLIP-L; gives the number of heads where only a width is known."""


def tower_settings(
    hidden_dim: int, base_size: int, patch_size: int, num_layers: int, model_type: str = "clip_vision_model"
) -> dict[str, Any]:
    """The transformers config, as a dict, of a tower of which the document gives only width and sizes.

    Args:
        hidden_dim: tower width D.
        base_size: tile side, pixels.
        patch_size: patch side, pixels.
        num_layers: transformer layers.
        model_type: "clip_vision_model" or "siglip_vision_model".

    Returns:
        `VisionConfig.tower`; at 1024, 336, 14, 24 the shape of CLIP-L/14-336.
    """
    return {
        "model_type": model_type,
        "hidden_size": hidden_dim,
        "intermediate_size": 4 * hidden_dim,
        "num_hidden_layers": num_layers,
        "num_attention_heads": max(hidden_dim // HEAD_DIM, 1),
        "image_size": base_size,
        "patch_size": patch_size,
        **({"vision_use_head": False} if model_type == "siglip_vision_model" else {}),
    }


class DynamicImageProcessor(nn.Module):
    """Encodes tiles with a CLIP or SigLIP tower, in chunks where a memory budget asks for it.

    Args:
        base_size: tile side, pixels.
        max_patches: most tiles in a grid, base tile not counted (the document's word for tiles).
        patch_size: side of a ViT patch, pixels.
        hidden_dim: tower width.
        num_layers: tower layers; 24 is CLIP-L, the tower that the other defaults describe.
        vision: the whole tower's settings; replaces `base_size`, `patch_size`, `hidden_dim` and `num_layers`.
        tiles: the whole tiling's settings; replaces `max_patches`.

    Raises:
        ConfigError: an unknown tower, or a layer that it does not have.
    """

    encoder: PreTrainedModel
    max_memory_mb: int | None
    """Bound on the tower's activations without gradients, MiB; None runs all tiles at once."""

    def __init__(
        self,
        base_size: int = 336,
        max_patches: int = 5,
        patch_size: int = 14,
        hidden_dim: int = 1024,
        *,
        num_layers: int = 24,
        vision: VisionConfig | None = None,
        tiles: TileConfig | None = None,
    ) -> None:
        super().__init__()
        if vision is None:
            vision = VisionConfig(tower=tower_settings(hidden_dim, base_size, patch_size, num_layers))
        self.vision = vision
        self.tiles = tiles or TileConfig(policy="grid", tile_size=base_size, max_tiles=max_patches)
        self.max_memory_mb = None
        self.encoder = _build(vision)
        # The document switches checkpointing on by this attribute, which transformers' class does not have.
        self.encoder.gradient_checkpointing = False
        self.num_layers_run = _layers_to_run(vision)

    def forward(self, tiles: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            tiles: uint8[N, 3, S, S], RGB, which are normalised here; or float[N, 3, S, S], taken as normalised.

        Returns:
            Patch features, float[N, P², D], in the tower's dtype; with `select_feature="full"` and a class token,
            float[N, 1 + P², D].

        Raises:
            ValueError: tiles of another shape.
        """
        side = self.tiles.tile_size
        if tiles.ndim != 4 or tuple(tiles.shape[1:]) != (3, side, side):
            raise ValueError(f"tiles have shape {tuple(tiles.shape)}; expected [N, 3, {side}, {side}]")
        size = tiles.shape[0] if self.max_memory_mb is None else self.tiles_per_chunk(self.max_memory_mb)
        if tiles.shape[0] <= size:
            return self._encode(tiles)
        return torch.cat([self._encode(chunk) for chunk in torch.split(tiles, size)])

    def normalize(self, tiles: Tensor) -> Tensor:
        """Turn uint8 tiles into what the tower was trained on, (x / 255 − mean) / std, in its dtype, on its device."""
        weight = next(self.encoder.parameters())
        tiles = tiles.to(weight.device)
        if not tiles.is_floating_point():
            mean = torch.tensor(self.tiles.image_mean, device=tiles.device).view(3, 1, 1)
            std = torch.tensor(self.tiles.image_std, device=tiles.device).view(3, 1, 1)
            tiles = (tiles.float() / 255 - mean) / std
        return tiles.to(weight.dtype)

    def tiles_per_chunk(self, max_memory_mb: int) -> int:
        """How many tiles the tower may see at once, so that its activations stay under a budget; at least one.

        Args:
            max_memory_mb: the budget, MiB, without the weights and without gradients.
        """
        config, element = self.encoder.config, next(self.encoder.parameters()).element_size()
        tokens = self.vision.patches_per_side**2 + 1
        # Alive at once in an MLP: its hidden three times (before, inside and after the activation), and the residual
        # with its copies. For CLIP-L in fp32 that is 44.4 MiB a tile; measured on a CPU: 39.0.
        width = 6 * config.hidden_size + 3 * config.intermediate_size
        pixels = 3 * self.tiles.tile_size**2 * (4 + 4 + element)
        fitting: int = max(max_memory_mb * 2**20 // (tokens * width * element + pixels), 1)
        return fitting

    def plan_and_tile(self, images: Sequence[Tensor], plans: Sequence[TilePlan]) -> Tensor:
        """Cut images into tiles.

        Args:
            images: uint8[3, H, W], or float[3, H, W] in 0..1.
            plans: a plan for each.

        Returns:
            uint8[ΣN, 3, S, S]: each image's base tile and then its grid, row by row.

        Raises:
            ValueError: a float image outside 0..1.
        """
        from llava_core.tiling import tile_image

        arrays = [_channels_last(image) for image in images]
        tiles = [tile_image(a, plan, self.tiles) for a, plan in zip(arrays, plans, strict=True)]
        return torch.cat([torch.from_numpy(own) for own in tiles])

    def squash(self, frames: Tensor) -> Tensor:
        """Make each frame one tile; [N, 3, H, W], uint8 or float in 0..1, to uint8[N, 3, S, S]."""
        from llava_core.tiling import squash_frames

        return torch.from_numpy(squash_frames(_channels_last(frames), self.tiles.tile_size))

    def unused_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that no feature depends on: layers beyond the selected one, final norm, pooling head.

        They are kept so that a checkpoint is written as it was read; training should freeze them, because they never
        get a gradient.
        """
        for name, parameter in self.encoder.named_parameters():
            parts = name.split(".")
            beyond = parts[:2] == ["encoder", "layers"] and int(parts[2]) >= self.num_layers_run
            if beyond or parts[0] in ("post_layernorm", "head"):
                yield f"encoder.{name}", parameter

    def _encode(self, tiles: Tensor) -> Tensor:
        encoder: Any = self.encoder
        hidden: Tensor = encoder.embeddings(self.normalize(tiles))
        if hasattr(encoder, "pre_layrnorm"):
            hidden = encoder.pre_layrnorm(hidden)
        for layer in encoder.encoder.layers[: self.num_layers_run]:
            # Switched on through transformers, layers checkpoint themselves; by the attribute, they do not.
            if encoder.gradient_checkpointing and self.training and not layer.gradient_checkpointing:
                hidden = checkpoint(layer, hidden, None, use_reentrant=False)
            else:
                hidden = layer(hidden, None)
        has_class_token = hasattr(encoder.embeddings, "class_embedding")
        return hidden[:, 1:] if has_class_token and self.vision.select_feature == "patch" else hidden


def _build(vision: VisionConfig) -> PreTrainedModel:
    settings = {name: value for name, value in vision.tower.items() if name not in ("model_type", "dtype")}
    model_type = vision.tower.get("model_type")
    if model_type not in TOWERS:
        raise ConfigError(f"vision.tower.model_type is {model_type!r}; expected one of {', '.join(TOWERS)}")
    config_class, tower_class = TOWERS[model_type]
    tower: PreTrainedModel = tower_class(config_class(**settings))
    return tower


def _layers_to_run(vision: VisionConfig) -> int:
    """Index of the selected hidden state, counted from the embeddings (0): as many layers as must run."""
    total = int(vision.tower.get("num_hidden_layers", TOWERS[vision.tower["model_type"]][0]().num_hidden_layers))
    index = vision.select_layer if vision.select_layer >= 0 else vision.select_layer + total + 1
    if not 0 <= index <= total:
        raise ConfigError(f"vision.select_layer is {vision.select_layer}; the tower has {total} layers")
    return index


def _channels_last(images: Tensor) -> NDArray[np.uint8]:
    """uint8[..., H, W, 3] of uint8 or float[..., 3, H, W]."""
    return np.ascontiguousarray(_to_uint8(images).movedim(-3, -1).cpu().numpy())


def _to_uint8(image: Tensor) -> Tensor:
    if not image.is_floating_point():
        return image.to(torch.uint8)
    low, high = image.aminmax()
    if low < 0 or high > 1:
        raise ValueError(f"float images lie in {low:.3g}..{high:.3g}; expected 0..1 (normalised tiles: pixel_values)")
    return (image * 255).round().to(torch.uint8)
