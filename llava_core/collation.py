"""Encoded samples, and how several become one batch: rows padded, tiles joined without padding.

Legend: B samples, T tokens, N tiles of an image, S tile side (px), F frames.
What this does *not* do: choose which samples share a batch (`batching`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from llava_core.config import check_choice
from llava_core.errors import ConfigError
from llava_core.geometry import Size

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample, ready to be collated."""

    input_ids: Tensor
    """int64[T], image tokens included."""
    labels: Tensor
    """int64[T]; `IGNORE_INDEX` where the loss does not count."""
    tiles: Tensor
    """uint8[ΣN, 3, S, S] of all its images, each base tile first."""
    image_sizes: tuple[Size, ...]
    """(height, width) of each image, pixels."""
    image_grids: tuple[Size, ...]
    """(rows, cols) of tiles of each image; (0, 0) for a base tile alone."""
    num_image_tokens: int
    """Image and video tokens of the sample."""
    videos: tuple[Tensor, ...] = ()
    """uint8[F, 3, S, S] of each video."""


def pad_rows(rows: Sequence[Sequence[int]], value: int, side: PaddingSide = "left") -> Tensor:
    """Fill rows up to the longest.

    Args:
        rows: ids of each sample.
        value: what to fill with.
        side: where.

    Returns:
        int64[B, T].

    Raises:
        ConfigError: another side.

    Example:
        >>> pad_rows([[5, 6], [7]], 0).tolist()
        [[5, 6], [0, 7]]
    """
    check_choice("processor", "padding_side", side, get_args(PaddingSide))
    longest = max(map(len, rows), default=0)
    fills = [[value] * (longest - len(row)) for row in rows]
    padded = [[*fill, *row] if side == "left" else [*row, *fill] for row, fill in zip(rows, fills, strict=True)]
    return torch.tensor(padded, dtype=torch.int64).view(len(rows), longest)


def text_tensors(rows: Sequence[Sequence[int]], pad_token_id: int, side: PaddingSide = "left") -> dict[str, Any]:
    """input_ids and attention_mask, int64[B, T]; the mask comes from lengths, never from comparing ids."""
    mask = pad_rows([[1] * len(row) for row in rows], 0, side)
    return {"input_ids": pad_rows(rows, pad_token_id, side), "attention_mask": mask}


def visual_tensors(samples: Sequence[Encoded]) -> dict[str, Any]:
    """The images and videos of a batch, in order; nothing where there are none.

    Args:
        samples: of the batch.

    Returns:
        pixel_values uint8[ΣN, 3, S, S], image_sizes and image_grids int64[num_images, 2], num_images_per_sample
        list[int]; pixel_values_videos uint8[num_videos, F, 3, S, S].

    Raises:
        ConfigError: videos of different numbers of frames.
    """
    data: dict[str, Any] = {}
    sizes = [list(size) for sample in samples for size in sample.image_sizes]
    if sizes:
        data["pixel_values"] = torch.cat([sample.tiles for sample in samples])
        data["image_sizes"] = torch.tensor(sizes, dtype=torch.int64)
        grids = [list(grid) for sample in samples for grid in sample.image_grids]
        data["image_grids"] = torch.tensor(grids, dtype=torch.int64)
        data["num_images_per_sample"] = [len(sample.image_sizes) for sample in samples]
    videos = [video for sample in samples for video in sample.videos]
    frames = sorted({len(video) for video in videos})
    if len(frames) > 1:
        raise ConfigError(f"videos of {frames} frames in one batch; expected one number: batch them apart")
    if videos:
        data["pixel_values_videos"] = torch.stack(videos)
    return data
