"""Packing: the features of one image's tiles become one sequence of image tokens.

    [base tile p²] then, by `packing`,
    flat            tile after tile
    spatial         the whole canvas row by row
    spatial_unpad   the part of the canvas that the image covers, row by row, a newline after each row

Legend: N tiles, p image features along a tile's side, D width, T tokens. Which part is kept, and how far it is shrunk,
is arithmetic that `TilePlan` has already done; here tensors only follow it.

What this does *not* do: decide anything from sizes (`geometry`, `config.plan_tiles`).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from llava_core.config import Packing
from llava_core.connector import side_of
from llava_core.geometry import TilePlan


def pack_image(features: Tensor, plan: TilePlan, packing: Packing, newline: Tensor | None) -> Tensor:
    """Put one image's features in the order in which the language model reads them.

    Args:
        features: float[N, p², D] after the connector, base tile first, then the grid row by row.
        plan: of the image.
        packing: "flat", "spatial" or "spatial_unpad".
        newline: float[D], or None for a model without.

    Returns:
        float[T, D], T = `plan.num_image_tokens`.

    Raises:
        ValueError: the features are not those of the plan's tiles.

    Source: `prepare_inputs_labels_for_multimodal` of LLaVA-VL/LLaVA-NeXT@df17966; there and here only
    "spatial_unpad" has newlines, one after each row, and one after a base tile that stands alone.

    Example:
        Two tiles of 2×2 beside a base tile, and an image that fills only the upper row of both.

        >>> from llava_core.geometry import Box, Size
        >>> plan = TilePlan(Size(28, 56), Size(1, 2), 3, Box(0, 1, 0, 4), Size(1, 4), 9)
        >>> features = torch.arange(12).view(3, 4, 1)
        >>> pack_image(features, plan, "spatial_unpad", torch.tensor([99])).flatten()
        tensor([ 0,  1,  2,  3,  4,  5,  8,  9, 99])
    """
    if features.shape[0] != plan.num_tiles:
        raise ValueError(f"features of {features.shape[0]} tiles, but the plan has {plan.num_tiles}")
    newline = None if newline is None else newline.to(features)
    base = features[0]
    if plan.grid == (0, 0):
        return torch.cat([base, newline[None]]) if newline is not None and packing == "spatial_unpad" else base
    if packing == "flat":
        return features.flatten(0, 1)
    canvas = join_tiles(features[1:], plan.grid.height, plan.grid.width)
    if packing == "spatial":
        return torch.cat([base, canvas.flatten(0, 1)])
    kept = canvas[plan.crop.top : plan.crop.bottom, plan.crop.left : plan.crop.right]
    if tuple(kept.shape[:2]) != plan.features:
        kept = resize_features(kept, plan.features.height, plan.features.width)
    if newline is not None:
        kept = torch.cat([kept, newline.expand(kept.shape[0], 1, -1)], dim=1)
    return torch.cat([base, kept.flatten(0, 1)])


def join_tiles(tiles: Tensor, rows: int, cols: int) -> Tensor:
    """Lay a grid of tiles out as one canvas of features.

    Args:
        tiles: float[rows·cols, p², D], row by row.
        rows: of the grid.
        cols: of the grid.

    Returns:
        float[rows·p, cols·p, D].
    """
    side = side_of(tiles.shape[1])
    grid = tiles.view(rows, cols, side, side, tiles.shape[-1])
    return grid.permute(0, 2, 1, 3, 4).reshape(rows * side, cols * side, tiles.shape[-1])


def resize_features(grid: Tensor, height: int, width: int) -> Tensor:
    """Resize a grid of features bilinearly, without antialiasing, as the released models do.

    Args:
        grid: float[h, w, D].
        height: wanted rows.
        width: wanted columns.

    Returns:
        float[height, width, D].

    Source: `F.interpolate(mode="bilinear")` in `llava_arch.py`.
    """
    resized = F.interpolate(grid.permute(2, 0, 1)[None], size=(height, width), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0)
