"""The form in which the document builds and feeds the model: `images=`, `text_embeds=`, `visual_encoder_dim=` …

    [START] visual features [END] text        one sequence for each sample, padded on the left

The same modules as everywhere else; only the settings are spelled differently, and features are concatenated with
text instead of replacing `<image>` in it (decision 4).

Legend: B samples, T tokens, D text width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from llava_core.config import ConnectorConfig, Family, ModelConfig, TileConfig, VideoConfig, VisionConfig
from llava_core.errors import ConfigError
from llava_core.labels import IGNORE_INDEX
from llava_core.vision_tower import tower_settings

PATCH_SIZE = 14


class DocumentSettings(TypedDict, total=False):
    """Keyword arguments of the document's `LLaVANeXT` and `LLaVAOneVision`, and a few that it leaves open."""

    visual_encoder_dim: int
    """Tower width; 1024."""
    language_model_dim: int
    """Width of the language model's embeddings; 4096."""
    num_visual_tokens: int
    """Patches of one tile, a square number; 576 is 24×24 patches of 14 pixels, a tile of 336."""
    max_images: int
    """Most images in a sample, and most tiles of its images together, base tiles counted; 8."""
    projector_layers: int
    """Linear layers of the connector; 2."""
    use_video: bool
    """Whether there is a temporal encoder; False for `LLaVANeXT`, True for `LLaVAOneVision`."""
    max_frames: int
    """Most frames of a video; 32."""
    compression_ratio: int
    """Average pooling of each tile's patches by this, a side; 1."""
    max_patches: int
    """Most tiles in a grid, base tile not counted; 5."""
    visual_encoder_layers: int
    """Layers of the tower; 24, as the tower has that the document's widths describe (CLIP-L/14-336)."""


DEFAULTS: DocumentSettings = {
    "visual_encoder_dim": 1024,
    "language_model_dim": 4096,
    "num_visual_tokens": 576,
    "max_images": 8,
    "projector_layers": 2,
    "max_frames": 32,
    "compression_ratio": 1,
    "max_patches": 5,
    "visual_encoder_layers": 24,
}


def document_config(settings: DocumentSettings, family: Family) -> ModelConfig:
    """Make a `ModelConfig` of the document's keyword arguments.

    Args:
        settings: those given; the others have the document's defaults.
        family: "llava_next" (CLIP) or "llava_onevision" (SigLIP, video).

    Returns:
        A config without language model, placing images by concatenation, with the document's position embeddings.

    Raises:
        ConfigError: an unknown keyword, or a number of visual tokens that is not a square.
    """
    onevision = family == "llava_onevision"
    if unknown := sorted(set(settings) - set(DocumentSettings.__annotations__)):
        known = ", ".join(DocumentSettings.__annotations__)
        raise ConfigError(f"{', '.join(unknown)}: not a keyword of the model; expected some of {known}")
    values: DocumentSettings = {**DEFAULTS, "use_video": onevision, **settings}
    per_side = math.isqrt(values["num_visual_tokens"])
    if per_side**2 != values["num_visual_tokens"] or per_side == 0:
        raise ConfigError(f"num_visual_tokens is {values['num_visual_tokens']}; expected a square, as 576 = 24²")
    side, model_type = per_side * PATCH_SIZE, "siglip_vision_model" if onevision else "clip_vision_model"
    tower = tower_settings(
        values["visual_encoder_dim"], side, PATCH_SIZE, values["visual_encoder_layers"], model_type=model_type
    )
    return ModelConfig(
        family=family,
        vision=VisionConfig(
            tower=tower, select_layer=-1 if onevision else -2, select_feature="full" if onevision else "patch"
        ),
        text_dim=values["language_model_dim"],
        connector=ConnectorConfig(
            num_layers=values["projector_layers"],
            compression_ratio=values["compression_ratio"],
            position_embedding=True,
            max_grid=values["max_patches"],
        ),
        tiles=TileConfig(
            policy="grid", tile_size=side, max_tiles=values["max_patches"], max_images=values["max_images"]
        ),
        # The document's encode_video neither pools nor adds newlines.
        video=VideoConfig(
            max_frames=values["max_frames"],
            pool_stride=1,
            newline_position="no_token",
            temporal_encoder=values["use_video"],
        ),
        packing="spatial_unpad",
        placement="concatenate",
        trained=False,
    )


@dataclass(frozen=True, slots=True)
class Concatenated:
    """What the language model reads when features stand before the text."""

    embeds: Tensor
    """float[B, T, D]: [START] visual [END] text."""
    attention_mask: Tensor
    """int64[B, T], 0 on padding."""
    position_ids: Tensor
    """int64[B, T], counted over what is not padding."""
    labels: Tensor | None
    """int64[B, T], −100 before the text; None where no labels were given."""


def concatenate(
    visual: Sequence[Tensor],
    text: Tensor,
    boundaries: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
) -> Concatenated:
    """Put each sample's features before its text.

    Args:
        visual: float[T_i, D] of each sample; without rows for a sample without images, which gets no boundaries.
        text: float[B, L, D].
        boundaries: the vectors [START] and [END], float[1, 1, D].
        attention_mask: of the text, [B, L]; None for all ones.
        labels: of the text, int64[B, L].

    Returns:
        Sequences of one length, shorter ones padded on the left with zeros.

    Raises:
        ValueError: features and text have different numbers of samples.
    """
    if len(visual) != text.shape[0]:
        raise ValueError(f"{len(visual)} samples have images, but there are texts for {text.shape[0]}")
    start, end = (boundary[0].to(text) for boundary in boundaries)
    prefixes = [torch.cat([start, part.to(text), end]) if part.shape[0] else part.to(text) for part in visual]
    prefix, prefix_mask = pad_left(prefixes)
    if attention_mask is None:
        attention_mask = prefix_mask.new_ones(text.shape[:2])
    mask = torch.cat([prefix_mask.to(attention_mask), attention_mask], dim=1)
    if labels is not None:
        labels = torch.cat([labels.new_full(prefix_mask.shape, IGNORE_INDEX), labels], dim=1)
    return Concatenated(
        embeds=torch.cat([prefix, text], dim=1),
        attention_mask=mask,
        position_ids=(mask.long().cumsum(1) - 1).clamp(min=0),
        labels=labels,
    )


def pad_left(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack sequences of different lengths, zeros before the shorter ones.

    Args:
        sequences: float[T_i, D].

    Returns:
        float[B, T, D] and its mask int64[B, T].

    Example:
        >>> padded, mask = pad_left([torch.ones(1, 2), torch.ones(3, 2)])
        >>> padded.shape, mask.tolist()
        (torch.Size([2, 3, 2]), [[0, 0, 1], [1, 1, 1]])
    """
    longest = max(sequence.shape[0] for sequence in sequences)
    gaps = [longest - sequence.shape[0] for sequence in sequences]
    rows = [torch.cat([s.new_zeros(gap, s.shape[1]), s]) for s, gap in zip(sequences, gaps, strict=True)]
    mask = torch.ones(len(rows), longest, dtype=torch.long, device=rows[0].device)
    for row, gap in zip(mask, gaps, strict=True):
        row[:gap] = 0
    return torch.stack(rows), mask


def group_by_sample(images: Sequence[Tensor], num_images_per_sample: Sequence[int] | None) -> list[Tensor]:
    """Concatenate each sample's images.

    Args:
        images: float[T_i, D] of each image.
        num_images_per_sample: how many belong to each sample; None for one each.

    Returns:
        float[T, D] of each sample.

    Raises:
        ValueError: the numbers do not add up.
    """
    if num_images_per_sample is None:
        return list(images)
    if sum(num_images_per_sample) != len(images):
        raise ValueError(f"num_images_per_sample adds up to {sum(num_images_per_sample)}, but there are {len(images)}")
    samples, start = [], 0
    for count in num_images_per_sample:
        group = images[start : start + count]
        samples.append(torch.cat(list(group)) if group else images[0][:0])
        start += count
    return samples
