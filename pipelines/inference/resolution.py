"""How many tiles an image may have: the document's resolution strategies.

A task that reads (OCR, documents) needs every tile, captions and questions few, a classification none beyond the base
tile. For a general task the image itself decides: by what would be lost if only the base tile saw it.

Legend: H, W height and width of an image, pixels; S side of a tile, pixels.
What this does *not* do: choose grids or canvases (`llava_core.config.plan_tiles`); it only bounds them.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Resolution = Literal["auto", "low", "medium", "high"]
Task = Literal["general", "caption", "vqa", "classification", "ocr", "text_vqa", "document"]

TASK_RESOLUTION: dict[Task, Resolution] = {
    "ocr": "high",
    "text_vqa": "high",
    "document": "high",
    "caption": "medium",
    "vqa": "medium",
    "classification": "low",
}
"""The document's "Adaptive Resolution Selection"; a general task is not in it, because its images decide."""

MAX_TILES: dict[Resolution, int | None] = {"low": 0, "medium": 2, "high": None}
"""Tiles beyond the base tile: "single patch", "1-2 patches", and all that the checkpoint was trained with ("4-5")."""

DETAIL_THRESHOLD = 5.0
"""Levels of 255. At S = 336, 15 of 20 receipts and charts that were looked at lose more, 8 of 10 plain photos less."""


def choose_resolution(resolution: Resolution, task: Task) -> Resolution:
    """Settle what can be settled without looking at an image.

    Args:
        resolution: what the user asked for; anything but "auto" is the answer.
        task: what the captions are for.

    Returns:
        "low", "medium" or "high"; "auto" where each image decides for itself.

    Source: the document, "Resolution Strategies", `select_resolution`.

    Example:
        >>> [choose_resolution("auto", task) for task in ("document", "caption", "general")]
        ['high', 'medium', 'auto']
        >>> choose_resolution("low", "document")
        'low'
    """
    return resolution if resolution != "auto" else TASK_RESOLUTION.get(task, "auto")


def tile_bound(resolution: Resolution, max_tiles: int | None) -> int | None:
    """The most tiles (base tile not counted) for a settled resolution, below an optional bound of the user.

    Returns:
        A count ≥ 0, or None to leave it to the checkpoint.

    Example:
        >>> tile_bound("medium", None), tile_bound("high", 4), tile_bound("medium", 1), tile_bound("high", None)
        (2, 4, 1, None)
    """
    bounds = [bound for bound in (MAX_TILES[resolution], max_tiles) if bound is not None]
    return min(bounds, default=None)


def image_resolution(image: NDArray[np.uint8], tile_side: int) -> Resolution:
    """The resolution that an image asks for: "high" where the base tile alone would lose detail or small text.

    Args:
        image: uint8[H, W, 3], RGB.
        tile_side: S of the model.

    Returns:
        "high" or "medium".

    Source: the document, `has_small_text(image) or is_detailed_image(image)`, which it leaves undefined.
    """
    return "high" if lost_detail(image, tile_side) > DETAIL_THRESHOLD else "medium"


def lost_detail(image: NDArray[np.uint8], tile_side: int) -> float:
    """How far an image's brightness is, on average, from its average over the area that one base-tile pixel covers.

    Args:
        image: uint8[H, W, 3], RGB.
        tile_side: S of the model; an image that fits into one tile loses nothing.

    Returns:
        Mean absolute difference, levels of 255, ≥ 0.

    Example:
        >>> stripes = np.zeros((4, 8, 3), np.uint8); stripes[:, ::2] = 200
        >>> lost_detail(stripes, 8), lost_detail(stripes, 4)
        (0.0, 100.0)
    """
    height, width = image.shape[:2]
    rows, cols = math.ceil(height / tile_side), math.ceil(width / tile_side)
    if max(rows, cols) == 1:
        return 0.0
    kept = image[: height // rows * rows, : width // cols * cols]
    # green alone stands for brightness: it carries most of it, and costs a third of a weighted sum
    cells = kept[..., 1].reshape(kept.shape[0] // rows, rows, kept.shape[1] // cols, cols).astype(np.float32)
    return float(np.abs(cells - cells.mean(axis=(1, 3), keepdims=True)).mean())
