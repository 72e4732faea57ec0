"""Any-resolution arithmetic: from an image's size to a canvas, a grid of tiles and a number of image tokens.

    image 480×640 (H×W) ─ select_canvas ─▶ canvas 672×672 ─ ÷ tile 336 ─▶ grid 2×2 tiles ─ ÷ patch 14 ─▶ 48×48 patches
          ─ unpad ─▶ 36×48 image features ─ + one newline a row, + the base tile's 24×24 ─▶ 2340 image tokens

Integers in, integers out; no tensors, because rounding decides how many tokens a prompt has. Where a released
implementation computes in double precision, the same operations are done here in the same order, so that its
rounding is reproduced and not approximated. Sizes are `Size(height, width)` everywhere.

Source: `llava/mm_utils.py` and `llava/model/llava_arch.py` of haotian-liu/LLaVA@c121f04 ("original"), transformers
5.23 `image_processing_utils.py` and `modeling_llava_next.py` ("hf").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

AxisOrder = Literal["original", "hf"]
Rounding = Literal["original", "hf"]

SHRINK_THRESHOLD = 1.1
"""`anyres_max_N` shrinks only grids whose side exceeds the allowed one by this factor (llava_arch.py)."""


class Size(NamedTuple):
    """Height before width, in pixels, tiles or patches; PIL's (width, height) is turned round where it enters."""

    height: int
    width: int


class Box(NamedTuple):
    """A half-open rectangle: rows top..bottom, columns left..right."""

    top: int
    bottom: int
    left: int
    right: int


def select_grid(H: int, W: int, max_patches: int = 5, waste_weight: Fraction | float = Fraction(1, 10)) -> Size:
    """Choose the grid of tiles that distorts an image least, for the document's own policy.

    Minimises `|cols/rows − W/H| + waste_weight·(max_patches − rows·cols)/max_patches` over every grid with
    `rows·cols ≤ max_patches`, in exact fractions. Ties go to fewer rows, then fewer columns.

    Args:
        H: image height, pixels, ≥ 1.
        W: image width, pixels, ≥ 1.
        max_patches: most tiles allowed, ≥ 1.
        waste_weight: λ of the objective.

    Returns:
        (rows, cols) of the grid.

    Raises:
        ValueError: a size or the budget is below 1.

    Source: the document, "Any-Resolution Grid Selection"; its sample loop stops at √max_patches rows, which its
    objective does not (decision 1).

    Example:
        >>> select_grid(1080, 1920)
        Size(height=1, width=2)
        >>> select_grid(2000, 400)
        Size(height=5, width=1)
        >>> select_grid(336, 336)
        Size(height=2, width=2)
    """
    if H < 1 or W < 1 or max_patches < 1:
        raise ValueError(f"select_grid needs H, W, max_patches >= 1, got {H}, {W}, {max_patches}")
    ratio, weight = Fraction(W, H), Fraction(waste_weight).limit_denominator(10**9)

    def score(grid: Size) -> tuple[Fraction, int, int]:
        waste = Fraction(max_patches - grid.height * grid.width, max_patches)
        return abs(Fraction(grid.width, grid.height) - ratio) + weight * waste, grid.height, grid.width

    grids = (Size(r, c) for r in range(1, max_patches + 1) for c in range(1, max_patches // r + 1))
    return min(grids, key=score)


def select_canvas(size: Sequence[int], pinpoints: Sequence[Sequence[int]], axis_order: AxisOrder = "original") -> Size:
    """Choose the pinpoint that keeps most of an image's pixels, then wastes least of the canvas.

    Args:
        size: (height, width) of the image, pixels.
        pinpoints: allowed canvases as (height, width), in the checkpoint's order for `axis_order="hf"`. For
            "original" the list is walked as the released code walks it: its entries mean (width, height) there, so
            the entry `[336, 672]` is a canvas 672 high; ties keep the first entry either way.
        axis_order: how the checkpoint reads its list. The released LLaVA models were trained with "original".

    Returns:
        The canvas.

    Raises:
        ValueError: no pinpoints, or a size below 1.

    Source: `select_best_resolution` in LLaVA `mm_utils.py` ("original") and transformers ("hf").

    Example:
        The axis order matters wherever two canvases tie, as they do for any image smaller than both.

        >>> pinpoints = [(336, 672), (672, 336)]
        >>> select_canvas((300, 200), pinpoints, "hf")
        Size(height=336, width=672)
        >>> select_canvas((300, 200), pinpoints, "original")
        Size(height=672, width=336)
    """
    height, width = int(size[0]), int(size[1])
    if height < 1 or width < 1 or not pinpoints:
        raise ValueError(f"select_canvas needs a size >= 1 and pinpoints, got {tuple(size)} and {list(pinpoints)}")
    best, best_effective, best_waste = Size(0, 0), 0, math.inf
    for first, second in pinpoints:
        canvas = Size(first, second) if axis_order == "hf" else Size(second, first)
        scale = min(canvas.width / width, canvas.height / height)
        scaled = int(width * scale) * int(height * scale)
        effective = min(scaled, width * height)
        waste = canvas.width * canvas.height - effective
        if effective > best_effective or (effective == best_effective and waste < best_waste):
            best, best_effective, best_waste = canvas, effective, waste
    # At an extreme aspect ratio every canvas scales one side to zero pixels: then the one that wastes least is left.
    return best


def fit_inside(size: Sequence[int], canvas: Sequence[int]) -> Size:
    """The largest size of an image's aspect ratio inside a canvas, one side touching, rounded up.

    Args:
        size: (height, width) of the image.
        canvas: (height, width) to fit into.

    Returns:
        Size with 1 ≤ height ≤ canvas height, and the same for the width.

    Source: `resize_and_pad_image` (original), `get_patch_output_size` (hf): equal arithmetic.

    Example:
        >>> fit_inside((480, 640), (672, 672))
        Size(height=504, width=672)
    """
    height, width = int(size[0]), int(size[1])
    scale_w, scale_h = canvas[1] / width, canvas[0] / height
    if scale_w < scale_h:
        return Size(min(math.ceil(height * scale_w), canvas[0]), canvas[1])
    return Size(canvas[0], min(math.ceil(width * scale_h), canvas[1]))


def padding_inside(inner: Sequence[int], canvas: Sequence[int]) -> Box:
    """Where an image of size `inner` lies, centred, in a canvas; an odd remainder goes below and right.

    Example:
        >>> padding_inside((504, 671), (672, 672))
        Box(top=84, bottom=588, left=0, right=671)
    """
    top, left = (canvas[0] - inner[0]) // 2, (canvas[1] - inner[1]) // 2
    return Box(top, top + inner[0], left, left + inner[1])


def unpadded_box(features: Sequence[int], size: Sequence[int], rounding: Rounding = "original") -> Box:
    """The part of a canvas's patch grid that the image covers, after the padding is taken off again.

    The cut is symmetric, so an odd remainder keeps one row or column of padding, as the released models do. Beyond
    an aspect ratio of about 72:1 the released arithmetic leaves no rows; here at least the middle one stays.

    Args:
        features: (rows, cols) of patches on the whole canvas.
        size: (height, width) of the original image, pixels.
        rounding: "original" truncates the double-precision product; "hf" rounds it to 7 decimals first. They differ
            where the exact product is an integer.

    Returns:
        Box inside `features`, never empty.

    Source: `unpad_image` in `llava_arch.py`; transformers `modeling_llava_next.py`.

    Example:
        >>> unpadded_box((48, 48), (480, 640))
        Box(top=6, bottom=42, left=0, right=48)
        >>> unpadded_box((48, 48), (10, 2000))
        Box(top=23, bottom=25, left=0, right=48)
    """
    rows, cols = int(features[0]), int(features[1])
    height, width = int(size[0]), int(size[1])
    if width / height > cols / rows:
        cut = _padding(rows, height * (cols / width), rounding)
        return Box(cut, rows - cut, 0, cols)
    cut = _padding(cols, width * (rows / height), rounding)
    return Box(0, rows, cut, cols - cut)


def _padding(full: int, kept: float, rounding: Rounding) -> int:
    kept_whole = int(round(kept, 7)) if rounding == "hf" else int(kept)
    return (full - max(kept_whole, 1)) // 2


def shrunk_size(features: Sequence[int], patches_per_side: int, max_tiles: int) -> Size:
    """Size of an unpadded feature grid after `anyres_max_N` has bounded it.

    Args:
        features: (rows, cols) after unpadding.
        patches_per_side: P, patches along one side of a tile.
        max_tiles: N of `anyres_max_N`.

    Returns:
        (rows, cols), both ≥ 1; unchanged unless the grid exceeds N·P² patches by more than 1.1² = 1.21.

    Source: `llava_arch.py` of LLaVA-VL/LLaVA-NeXT@df17966.

    Example:
        >>> shrunk_size((135, 108), 27, 9)
        Size(height=90, width=72)
        >>> shrunk_size((81, 81), 27, 9)
        Size(height=81, width=81)
    """
    rows, cols = int(features[0]), int(features[1])
    times = math.sqrt(rows * cols / (max_tiles * patches_per_side**2))
    if times <= SHRINK_THRESHOLD:
        return Size(rows, cols)
    return Size(max(int(rows // times), 1), max(int(cols // times), 1))


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Everything that follows from an image's size: known before one pixel is decoded."""

    canvas: Size
    """Resolution that the image is fitted into, pixels; equal to one tile when there is no grid."""
    grid: Size
    """(rows, cols) of tiles; (0, 0) when the base tile stands alone."""
    num_tiles: int
    """Tiles that the vision tower sees, base tile included."""
    crop: Box
    """Part of the grid's features that is kept (all of it without unpadding)."""
    features: Size
    """(rows, cols) of the grid's features after unpadding and shrinking; (0, 0) without a grid."""
    num_image_tokens: int
    """Image tokens in the prompt, newlines included."""


def square_plan(tile_size: int, num_image_tokens: int) -> TilePlan:
    """The plan of an image that is seen as one square tile."""
    side = Size(tile_size, tile_size)
    return TilePlan(side, Size(0, 0), 1, Box(0, 0, 0, 0), Size(0, 0), num_image_tokens)
