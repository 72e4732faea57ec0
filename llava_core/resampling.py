"""Pillow's resampling, to the last level, several times as fast.

    uint8[H, W, C] ─ widths: strips of rows, transposed ─▶ uint8[H, w, C] ─ heights ─▶ uint8[h, w, C]

Legend: H, W sides of the image; h, w sides wanted; C channels, or none.

Pillow multiplies each output value's inputs by integer weights, rounds to uint8, and does so once for each side. The
same integers are added here, so every value is the same; what is faster is the order. Weights differ along the
resampled side and are equal along the other, so it is the other that lies in memory one value after the next, and 8 or
16 values are multiplied at once. An image's rows are turned by 90° for the pass over the widths, few at a time, in the
cache. Numba compiles the sums when the first image comes (seconds), and keeps the result for the next process.

What this does *not* do: choose a size (`geometry`), colours or padding (`tiling`).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, ParamSpec, TypeVar, cast

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from llava_core.geometry import Size

Kernel = Literal["bicubic", "lanczos"]

WEIGHT_BITS = 22
"""Fraction bits of the weights: `PRECISION_BITS` of Pillow's Resample.c."""

STRIP_ROWS = 64
"""Rows that are turned at once; with their result they stay in the processor's second cache."""

STRIP_LEVELS = 512
"""Values of a row that are summed at once; their sums stay in the first cache."""

LOBES: dict[Kernel, float] = {"bicubic": 2.0, "lanczos": 3.0}
"""How many inputs to either side a kernel reaches where nothing shrinks."""

Weights = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]
"""int64[wanted] first input, int64[wanted] number of inputs, int32[wanted, N] their weights times 2^22."""

P = ParamSpec("P")
R = TypeVar("R")


def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    try:
        return cast(Callable[P, R], njit(nogil=True, cache=True)(function))
    except RuntimeError:
        # no folder where the compiled function could be kept for the next process
        return cast(Callable[P, R], njit(nogil=True)(function))


def resample(image: NDArray[np.uint8], size: Size, kernel: Kernel = "bicubic") -> NDArray[np.uint8]:
    """Resize with antialiasing.

    Args:
        image: uint8[H, W, C], or uint8[H, W].
        size: (height, width) wanted.
        kernel: bicubic (a = -0.5) or Lanczos (3 lobes), stretched where the image shrinks.

    Returns:
        uint8[height, width, C], or uint8[height, width]: what Pillow 13's `Image.resize` makes, every value the same;
        the same array if nothing changes.

    Source: `ImagingResample` of Pillow's Resample.c. Rounding and clipping between the passes makes their order matter
    (by up to 24 levels on noise), so it is Pillow 13's: the heights first where they lose more than twice as many
    pixels as the widths.

    Example:
        >>> ramp = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
        >>> resample(ramp, Size(2, 3)).tolist()
        [[40, 60, 80], [150, 170, 190]]
    """
    lost = image.shape[0] - size.height
    if lost > max(0, 2 * (image.shape[1] - size.width)):
        return _widths(_heights(image, size.height, kernel), size.width, kernel)
    return _heights(_widths(image, size.width, kernel), size.height, kernel)


def _heights(image: NDArray[np.uint8], wanted: int, kernel: Kernel) -> NDArray[np.uint8]:
    """uint8[H, W, …] → uint8[wanted, W, …]."""
    height = image.shape[0]
    if height == wanted:
        return image
    levels = np.ascontiguousarray(image).reshape(height, -1)
    return _weighed(levels, _weights(height, wanted, kernel)).reshape(wanted, *image.shape[1:])


def _widths(image: NDArray[np.uint8], wanted: int, kernel: Kernel) -> NDArray[np.uint8]:
    """uint8[H, W, …] → uint8[H, wanted, …]."""
    height, width = image.shape[:2]
    if width == wanted:
        return image
    weights = _weights(width, wanted, kernel)
    out = np.empty((height, wanted, *image.shape[2:]), np.uint8)
    for top in range(0, height, STRIP_ROWS):
        turned = np.asarray(cv2.transpose(image[top : top + STRIP_ROWS]), np.uint8)
        resized = _weighed(turned.reshape(width, -1), weights).reshape(wanted, *turned.shape[1:])
        strip = out[top : top + STRIP_ROWS]
        strip[:] = cv2.transpose(resized).reshape(strip.shape)
    return out


@lru_cache(maxsize=1024)
def _weights(length: int, wanted: int, kernel: Kernel) -> Weights:
    """Which inputs make an output, and how much of each.

    Source: `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's Resample.c, whose order of operations is kept.
    """
    scale = length / wanted
    stretch = max(scale, 1.0)
    reach = LOBES[kernel] * stretch
    centres = (np.arange(wanted) + 0.5) * scale
    firsts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    counts = np.minimum((centres + reach + 0.5).astype(np.int64), length) - firsts
    taps = np.arange(counts.max())
    offsets = (taps + firsts[:, None] - centres[:, None] + 0.5) * (1.0 / stretch)
    values = np.where(taps < counts[:, None], _kernel(offsets, kernel), 0.0)
    scaled = values / np.cumsum(values, axis=1)[:, -1:] * 2**WEIGHT_BITS
    return firsts, counts, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32)


def _kernel(offsets: NDArray[np.float64], kernel: Kernel) -> NDArray[np.float64]:
    if kernel == "lanczos":
        return np.where((offsets >= -3) & (offsets < 3), np.sinc(offsets) * np.sinc(offsets / 3), 0.0)
    apart = np.abs(offsets)
    near = (1.5 * apart - 2.5) * apart * apart + 1
    far = (((apart - 5) * apart + 8) * apart - 4) * -0.5
    return np.where(apart < 1, near, np.where(apart < 2, far, 0.0))


def _weighed(levels: NDArray[np.uint8], weights: Weights) -> NDArray[np.uint8]:
    """Each output row as the weighted sum of its input rows, a view of its own: uint8[H, X] → uint8[h, X]."""
    # an array that may be written is another type than one that may not, and each would be compiled for
    levels.flags.writeable = False
    out = np.empty((len(weights[0]), levels.shape[1]), np.uint8)
    _weigh(levels, *weights, out)
    return out


@_compiled
def _weigh(
    levels: NDArray[np.uint8],
    firsts: NDArray[np.int64],
    counts: NDArray[np.int64],
    weights: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> None:
    buffer = np.empty(STRIP_LEVELS, np.int32)
    for left in range(0, levels.shape[1], STRIP_LEVELS):
        right = min(levels.shape[1], left + STRIP_LEVELS)
        sums = buffer[: right - left]
        for output in range(out.shape[0]):
            sums[:] = 1 << (WEIGHT_BITS - 1)
            row, last, taps = firsts[output], firsts[output] + counts[output], weights[output]
            tap = 0
            while row + 4 <= last:
                four = levels[row : row + 4, left:right]
                _add_four(sums, taps[tap : tap + 4], four[0], four[1], four[2], four[3])
                row, tap = row + 4, tap + 4
            while row < last:
                _add_one(sums, taps[tap], levels[row, left:right])
                row, tap = row + 1, tap + 1
            _round(sums, out[output, left:right])


# Products stand inside int32 as they are, for the compiler then multiplies in 32 bits; whole sums would take 64.


@_compiled
def _add_four(
    sums: NDArray[np.int32],
    taps: NDArray[np.int32],
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    c: NDArray[np.uint8],
    d: NDArray[np.uint8],
) -> None:
    at, bt, ct, dt = taps[0], taps[1], taps[2], taps[3]
    for i in range(sums.shape[0]):
        early = np.int32(np.int32(at * a[i]) + np.int32(bt * b[i]))
        late = np.int32(np.int32(ct * c[i]) + np.int32(dt * d[i]))
        sums[i] += np.int32(early + late)


@_compiled
def _add_one(sums: NDArray[np.int32], tap: np.int32, row: NDArray[np.uint8]) -> None:
    for i in range(sums.shape[0]):
        sums[i] += np.int32(tap * row[i])


@_compiled
def _round(sums: NDArray[np.int32], out: NDArray[np.uint8]) -> None:
    for i in range(sums.shape[0]):
        out[i] = np.uint8(min(max(sums[i] >> WEIGHT_BITS, 0), 255))
