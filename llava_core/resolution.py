"""How many tiles an image may have: the document's resolution strategies.

    "auto" + task "document" ─▶ "high" ─▶ None (all that the checkpoint has)
    "auto" + task "general"  ─▶ what the base tile alone would lose of this image ─▶ "medium" or "high"

Legend: H, W height and width of an image, pixels; S side of a tile, pixels.
What this does *not* do: choose grids or canvases (`config.plan_tiles`); it only bounds them.

Source: the document, "Resolution Strategies", `select_resolution`.
"""

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llava_core.config import check_choice

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
"""The document's choices; a general task is not among them, because its images decide."""

MAX_TILES: dict[Resolution, int | None] = {"low": 0, "medium": 2, "high": None}
"""Tiles beside the base tile: "single patch", "1-2 patches", and all that the checkpoint was trained with."""

DETAIL_THRESHOLD = 500
"""Hundredths of a level, of `lost_detail`; what it divides is in `tests/llava_core/test_resolution.py`."""


def select_resolution(
    resolution: Resolution,
    image: NDArray[np.uint8] | None = None,
    *,
    task: Task = "general",
    tile_side: int = 336,
    max_tiles: int | None = None,
) -> int | None:
    """Bound an image's tiles, by what was asked for, by the task, or by the image itself.

    Args:
        resolution: what the user asked for; "auto" lets the task decide, and where it does not, the image.
        image: uint8[H, W, 3], RGB; needed only where it decides.
        task: what the answer is for.
        tile_side: S of the model.
        max_tiles: a bound of the user's own, never exceeded.

    Returns:
        Most tiles beside the base tile, for `plan_tiles`; None leaves it to the checkpoint.

    Raises:
        ConfigError: no such resolution or task.
        ValueError: the image must decide, but there is none.

    Example:
        >>> select_resolution("auto", task="ocr"), select_resolution("auto", task="classification")
        (None, 0)
        >>> select_resolution("auto", np.zeros((900, 700, 3), np.uint8)), select_resolution("high", max_tiles=4)
        (2, 4)
    """
    settled = choose_resolution(resolution, task)
    if settled == "auto":
        if image is None:
            raise ValueError('resolution "auto" with a general task needs the image')
        settled = image_resolution(image, tile_side)
    return tile_bound(settled, max_tiles)


def choose_resolution(resolution: Resolution, task: Task = "general") -> Resolution:
    """Settle what can be settled without looking at an image.

    Args:
        resolution: what the user asked for; anything but "auto" is the answer.
        task: what the answer is for.

    Returns:
        "low", "medium" or "high"; "auto" where each image decides for itself.

    Raises:
        ConfigError: no such resolution or task.

    Example:
        >>> choose_resolution("auto", "document"), choose_resolution("low", "document"), choose_resolution("auto")
        ('high', 'low', 'auto')
    """
    check_choice("resolution", "resolution", resolution, get_args(Resolution))
    check_choice("resolution", "task", task, get_args(Task))
    return resolution if resolution != "auto" else TASK_RESOLUTION.get(task, "auto")


def tile_bound(resolution: Resolution, max_tiles: int | None = None) -> int | None:
    """The most tiles beside the base tile for a settled resolution, below an optional bound of the user.

    Args:
        resolution: not "auto".
        max_tiles: ≥ 0, or None.

    Returns:
        A count ≥ 0, or None to leave it to the checkpoint.

    Example:
        >>> tile_bound("medium"), tile_bound("high", 4), tile_bound("medium", 1), tile_bound("high")
        (2, 4, 1, None)
    """
    bounds = [bound for bound in (MAX_TILES[resolution], max_tiles) if bound is not None]
    return min(bounds, default=None)


def image_resolution(image: NDArray[np.uint8], tile_side: int = 336) -> Resolution:
    """The resolution that an image asks for: "high" where the base tile alone would lose detail or small text.

    Args:
        image: uint8[H, W, 3], RGB.
        tile_side: S of the model.

    Returns:
        "high" or "medium".
    """
    return "high" if lost_detail(image, tile_side) > DETAIL_THRESHOLD else "medium"


def lost_detail(image: NDArray[np.uint8], tile_side: int = 336) -> int:
    """How far an image's brightness is, on average, from its average over the area that one base-tile pixel covers.

    The document leaves `has_small_text` and `is_detailed_image` undefined; both are detail that squeezing the image
    into one tile takes away. Whole numbers throughout, so that every machine decides alike.

    Args:
        image: uint8[H, W, 3], RGB.
        tile_side: S of the model; an image that fits into one tile loses nothing.

    Returns:
        Mean absolute difference, hundredths of a level of 255, rounded down; ≥ 0.

    Example:
        >>> stripes = np.zeros((4, 8, 3), np.uint8); stripes[:, ::2] = 200
        >>> lost_detail(stripes, 8), lost_detail(stripes, 4)
        (0, 10000)
    """
    height, width = image.shape[:2]
    rows, cols = math.ceil(height / tile_side), math.ceil(width / tile_side)
    if rows * cols == 1:
        return 0
    # Green alone stands for brightness: it carries most of it, and costs a third of a weighted sum.
    kept = image[: height // rows * rows, : width // cols * cols, 1].astype(np.int32)
    cells = kept.reshape(kept.shape[0] // rows, rows, kept.shape[1] // cols, cols)
    # |value − sum/n| summed over n values is Σ|n·value − sum| / n.
    away = np.abs(cells * (rows * cols) - cells.sum(axis=(1, 3), dtype=np.int32, keepdims=True))
    average: int = int(away.sum(dtype=np.int64)) * 100 // (rows * cols * kept.size)
    return average
