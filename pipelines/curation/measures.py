"""What can be measured on an image's pixels without a model, each on a fixed scale, so that thresholds mean the same.

    blur            variance of the Laplacian of grey, longest side brought to 512: below ~50 blurred, ~1000 crisp
    brightness      levels of grey (0 to 1) that 1, 5, 50, 95 and 99 % of pixels do not exceed
    contrast        standard deviation of grey, 0 to 0.5
    entropy         of the histogram of grey, bits, 0 to 8
    saturation      mean distance of the strongest from the weakest channel, 0 (grey) to 1
    blockiness      steps at the 8-pixel grid of JPEG, relative to steps elsewhere: 1 none, above ~1.5 visible
    border          share of the area that lies in uniform bars along the edges (letterbox), 0 to 1

Legend: H height, W width in pixels. Grey is ITU-R 601, as Pillow converts. What this does *not* do: decode, judge.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.curation.pixel_loops import laplacian_sums, spread_sum, step_sums, weigh_grey

BLUR_SIDE = 512
"""Pixels that the longest side has while blur is measured."""
JPEG_BLOCK = 8
BAR_LEVELS = 10
"""Levels of grey that a row of a uniform bar may span: what JPEG adds to black."""
QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
SATURATION_ROWS = 64
"""Rows on which saturation is measured, at least, evenly apart (all of images with fewer)."""

Grey = NDArray[np.uint8]
# one core is what a decoding process has
cv2.setNumThreads(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelMeasures:
    """What `measure_pixels` found; each as in the module's list."""

    blur: float
    """Levels squared."""
    brightness_p01: float
    """1 % of pixels are not brighter."""
    brightness_p05: float
    """5 % of pixels are not brighter."""
    brightness_p50: float
    """The median."""
    brightness_p95: float
    """95 % of pixels are not brighter."""
    brightness_p99: float
    """99 % of pixels are not brighter."""
    contrast: float
    """0 to 0.5."""
    entropy: float
    """Bits."""
    saturation: float
    """0 to 1."""
    blockiness: float
    """1 and above; 1.0 for a flat or tiny image."""
    border: float
    """0 to 1."""


def measure_pixels(image: NDArray[np.uint8], *, grey: Grey | None = None, block: int = JPEG_BLOCK) -> PixelMeasures:
    """Measure an image.

    Args:
        image: uint8[H, W, 3], RGB, upright.
        grey: `to_grey(image)`, if it is at hand.
        block: pixels between grid lines of JPEG in this image: 4 where it was decoded at half its size.

    Returns:
        The measures.

    Example:
        >>> flat = measure_pixels(np.full((20, 30, 3), (255, 0, 0), np.uint8))
        >>> flat.blur, round(flat.brightness_p50, 3), flat.contrast, flat.entropy, flat.saturation, flat.border
        (0.0, 0.298, 0.0, 0.0, 1.0, 1.0)
    """
    grey = to_grey(image) if grey is None else grey
    shares = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel().astype(np.float64) / grey.size
    levels = np.searchsorted(np.cumsum(shares), np.array(QUANTILES) - 1e-9) / 255
    mean = shares @ _LEVELS
    held = shares[shares > 0]
    bits: NDArray[np.float64] = np.log2(held)
    return PixelMeasures(
        blur=blur(grey),
        brightness_p01=float(levels[0]),
        brightness_p05=float(levels[1]),
        brightness_p50=float(levels[2]),
        brightness_p95=float(levels[3]),
        brightness_p99=float(levels[4]),
        contrast=math.sqrt(float(shares @ (_LEVELS - mean) ** 2)) / 255,
        entropy=abs(float(held @ bits)),
        saturation=saturation(image),
        blockiness=blockiness(grey, block),
        border=border(grey),
    )


_LEVELS = np.arange(256, dtype=np.float64)


def to_grey(image: NDArray[np.uint8]) -> Grey:
    """ITU-R 601 grey of uint8[H, W, 3], as Pillow has it: uint8[H, W].

    Exactly, because OpenCV's, which has a bit less of weights, turns a bit of one pHash in 300 (measured).
    """
    out = np.empty(image.shape[:2], np.uint8)
    weigh_grey(_read_only(image).reshape(-1), out.reshape(-1))
    return out


def _read_only(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The array, contiguous, as the loops take it; a view, so that its owner may go on writing."""
    view = np.ascontiguousarray(image).view()
    view.flags.writeable = False
    return view


def blur(grey: Grey) -> float:
    """Variance of the Laplacian (4 neighbours) with the longest side brought to 512 pixels, levels squared.

    Args:
        grey: uint8[H, W].

    Returns:
        0 for an image that is flat, or less than 3 pixels wide or high on that scale.

    Example:
        >>> edge = np.zeros((512, 512), np.uint8); edge[:, 256:] = 100
        >>> round(blur(edge), 2)
        39.22
    """
    scale = BLUR_SIDE / max(grey.shape)
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    if min(height, width) < 3:
        return 0.0
    if scale != 1:
        # an even shrink takes means, so that fine grain does not alias into sharpness
        how = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        grey = np.asarray(cv2.resize(grey, (width, height), interpolation=how), np.uint8)
    total, squares = laplacian_sums(_read_only(grey))
    size = (height - 2) * (width - 2)
    return max(0.0, float(squares / size - (total / size) ** 2))


def saturation(image: NDArray[np.uint8]) -> float:
    """Mean of max(R, G, B) - min(R, G, B), 0 to 1, on rows that lie evenly apart.

    Example:
        >>> round(saturation(np.full((4, 4, 3), (200, 149, 98), np.uint8)), 3)
        0.4
    """
    height, width = image.shape[:2]
    every = max(1, height // SATURATION_ROWS)
    looked_at = math.ceil(height / every) * width
    return float(spread_sum(_read_only(image).reshape(height, -1), every) / looked_at / 255)


def blockiness(grey: Grey, block: int = JPEG_BLOCK) -> float:
    """How much stronger steps are at the lines of a grid than elsewhere, the mean of both axes.

    The phase of the grid is found, so a cropped or turned JPEG, or one that was saved as PNG, is measured as well.

    Args:
        grey: uint8[H, W].
        block: pixels between lines.

    Returns:
        1 and above.

    Example:
        >>> checks = np.kron(np.arange(16).reshape(4, 4) % 5, np.ones((8, 8))).astype(np.uint8) * 9
        >>> noise = np.random.default_rng(0).integers(0, 3, (32, 32), dtype=np.uint8)
        >>> blockiness(checks + noise) > 5 > 1.3 > blockiness(noise)
        True
    """
    height, width = grey.shape
    across, down = np.zeros(width - 1, np.int32), np.zeros(height - 1, np.int32)
    step_sums(_read_only(grey), across, down)
    return (_grid_strength(across / height, block) + _grid_strength(down / width, block)) / 2


def _grid_strength(steps: NDArray[Any], block: int) -> float:
    """The strongest phase of a fold by `block`, relative to the mean of the other phases."""
    whole = len(steps) // block * block
    if block < 2 or whole < 2 * block:
        return 1.0
    phases = steps[:whole].reshape(-1, block).mean(axis=0)
    strongest = float(phases.max())
    others = (float(phases.sum()) - strongest) / (block - 1)
    # half a level keeps a nearly flat image from looking like all grid
    return (strongest + 0.5) / (others + 0.5)


def border(grey: Grey) -> float:
    """Share of the area that lies in bars of one level along the edges.

    Example:
        >>> film = (np.arange(20_000) * 37 % 251).reshape(100, 200).astype(np.uint8); film[:12] = film[-13:] = 3
        >>> border(film), border(np.zeros((9, 8), np.uint8))
        (0.25, 1.0)
    """
    edges = (grey[0], grey[-1], grey[:, 0], grey[:, -1])
    if all(int(edge.max()) - int(edge.min()) > BAR_LEVELS for edge in edges):
        # the common case, told without a look at the rest: no line at an edge is of one level
        return 0.0
    top, bottom = _inner(grey, axis=1)
    left, right = _inner(grey[top:bottom], axis=0) if bottom > top else (0, 0)
    return 1 - (bottom - top) * (right - left) / grey.size


def _inner(grey: Grey, axis: int) -> tuple[int, int]:
    """From the first line that is not in the bar at its edge to one past the last; (0, 0) if the bar is everything."""
    most, least = grey.max(axis=axis), grey.min(axis=axis)
    first = _bar(most, least)
    return (first, len(most) - _bar(most[::-1], least[::-1])) if first < len(most) else (0, 0)


def _bar(most: Grey, least: Grey) -> int:
    """How many lines, from the first on, are together within `BAR_LEVELS`."""
    inside = np.maximum.accumulate(most) - np.minimum.accumulate(least) <= BAR_LEVELS
    return len(inside) if inside.all() else int(inside.argmin())
