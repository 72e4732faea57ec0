"""Pillow's resampling, to the last level, several times as fast.

    uint8[H, W, C] ─ widths: strips of rows, transposed ─▶ uint8[H, w, C] ─ heights ─▶ uint8[h, w, C]

Legend: H, W sides of the image; h, w sides wanted; C channels, or none.

Pillow multiplies each output value's inputs by integer weights, rounds to uint8, and does so once for each side. The
same integers are added here, so every value is the same; what is faster is the order. Weights differ along the
resampled side and are equal along the other, so it is the other that lies in memory one value after the next, and many
values are summed at once (`vectors`): rows two by two, their levels and the weights' halves as 16-bit integers. For the
pass over the widths an image's rows are turned by 90°, few at a time, in the cache. The sums are compiled when the
first image comes (seconds), and kept for the next process.

What this does *not* do: choose a size (`geometry`), colours or padding (`tiling`).
"""

import math
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from llava_core.geometry import Size
from llava_core.vectors import LANES, PART_BITS, WEIGHT_BITS, weigh

Kernel = Literal["bicubic", "lanczos"]

STRIP_VALUES = 192
"""Values of a column that are turned at once, of 64 rows of RGB; with their pairs they stay in the second cache."""

LOBES: dict[Kernel, float] = {"bicubic": 2.0, "lanczos": 3.0}
"""How many inputs to either side a kernel reaches where nothing shrinks."""

Weights = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int16]]
"""int64[wanted] first pair of inputs, int64[wanted] number of pairs, int16[wanted, N, 2, 2] upper and lower part of
the weights of each pair's two inputs."""


def resample(image: NDArray[np.uint8], size: Size, kernel: Kernel = "bicubic") -> NDArray[np.uint8]:
    """Resize with antialiasing.

    Args:
        image: uint8[H, W, C], or uint8[H, W].
        size: (height, width) wanted.
        kernel: bicubic (a = -0.5) or Lanczos (3 lobes), stretched where the image shrinks.

    Returns:
        uint8[height, width, C], or uint8[height, width]: what Pillow 13's `Image.resize` makes, every value the same;
        the same array if nothing changes.

    Raises:
        ValueError: the image is not of bytes or is empty, or the size is; the sums check no bounds.

    Source: `ImagingResample` of Pillow's Resample.c. Rounding and clipping between the passes makes their order matter
    (by up to 24 levels on noise), so it is Pillow 13's: the heights first where they lose more than twice as many
    pixels as the widths.

    Example:
        >>> ramp = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
        >>> resample(ramp, Size(2, 3)).tolist()
        [[40, 60, 80], [150, 170, 190]]
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0 or min(size) < 1:
        raise ValueError(f"cannot resize {image.dtype}{list(image.shape)} to {tuple(size)}")
    lost = image.shape[0] - size.height
    if lost > max(0, 2 * (image.shape[1] - size.width)):
        return _widths(_heights(image, size.height, kernel), size.width, kernel)
    return _heights(_widths(image, size.width, kernel), size.height, kernel)


def prepare() -> None:
    """Compile the sums, or load what was compiled before, now and not with the first image."""
    resample(np.zeros((2, 2), np.uint8), Size(1, 1))


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
    rows = max(1, STRIP_VALUES // math.prod(image.shape[2:]))
    for top in range(0, height, rows):
        turned = np.asarray(cv2.transpose(image[top : top + rows]), np.uint8)
        resized = _weighed(turned.reshape(width, -1), weights).reshape(wanted, *turned.shape[1:])
        strip = out[top : top + rows]
        strip[:] = cv2.transpose(resized).reshape(strip.shape)
    return out


@lru_cache(maxsize=128)
def _weights(length: int, wanted: int, kernel: Kernel) -> Weights:
    """Which inputs make an output, and how much of each.

    Source: `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's Resample.c, whose order of operations is kept.
    """
    scale = length / wanted
    stretch = max(scale, 1.0)
    reach = LOBES[kernel] * stretch
    centres = (np.arange(wanted) + 0.5) * scale
    firsts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    lasts = np.minimum((centres + reach + 0.5).astype(np.int64), length)
    pairs = firsts // 2
    counts = (lasts + 1) // 2 - pairs
    inputs = 2 * pairs[:, None] + np.arange(2 * counts.max())
    used = (inputs >= firsts[:, None]) & (inputs < lasts[:, None])
    values = np.where(used, _kernel((inputs - centres[:, None] + 0.5) * (1.0 / stretch), kernel), 0.0)
    scaled = values / np.cumsum(values, axis=1)[:, -1:] * 2**WEIGHT_BITS
    whole = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32).reshape(wanted, -1, 2)
    parts = np.stack([whole >> PART_BITS, whole & (1 << PART_BITS) - 1], axis=2)
    return pairs, counts, parts.astype(np.int16)


def _kernel(offsets: NDArray[np.float64], kernel: Kernel) -> NDArray[np.float64]:
    if kernel == "lanczos":
        return np.where((offsets >= -3) & (offsets < 3), np.sinc(offsets) * np.sinc(offsets / 3), 0.0)
    apart = np.abs(offsets)
    near = (1.5 * apart - 2.5) * apart * apart + 1
    far = (((apart - 5) * apart + 8) * apart - 4) * -0.5
    return np.where(apart < 1, near, np.where(apart < 2, far, 0.0))


def _weighed(levels: NDArray[np.uint8], weights: Weights) -> NDArray[np.uint8]:
    """Each output row as the weighted sum of its input rows, a view of its own: uint8[H, X] → uint8[h, X]."""
    width = levels.shape[1]
    if width < LANES:
        levels = np.pad(levels, ((0, 0), (0, LANES - width)))
    # an array that may be written is another type than one that may not, and each would be compiled for
    levels.flags.writeable = False
    out = np.empty((len(weights[0]), levels.shape[1]), np.uint8)
    weigh(levels, *weights, out)
    return out if width >= LANES else np.ascontiguousarray(out[:, :width])
