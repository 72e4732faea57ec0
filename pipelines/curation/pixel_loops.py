"""The loops over pixels behind `measures`, compiled: each reads an image once, and sums in integers.

    weigh_grey          RGB → grey, every level as Pillow has it
    laplacian_sums      sum, and sum of squares, of the Laplacian
    step_sums           sums of absolute differences of neighbours, of each column and of each row
    spread_sum          sum of the distance of the strongest from the weakest channel

Compiled at the first call (seconds), and kept for the next process. The arrays are read-only ones, because one that may
be written is another type, and each would be compiled for. Levels are narrowed to the fewest bits that hold a step, and
a row is stored before it is summed, so that the compiler finds the vector instructions; sums themselves have 64 bits.
What this does *not* do: check types or bounds, or know what a sum is for.
"""

import numpy as np
from numpy.typing import NDArray

from llava_core.vectors import compiled

FLUSH_ROWS = 256
"""Rows whose differences, each at most 255, a 16-bit sum holds."""


@compiled
def weigh_grey(levels: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Write ITU-R 601 grey, in Pillow's 16-bit fractions.

    Args:
        levels: uint8[3 · N], RGB.
        out: uint8[N].

    Source: `L24` in Pillow's Convert.c.
    """
    for i in range(out.shape[0]):
        red, green, blue = np.uint32(levels[3 * i]), np.uint32(levels[3 * i + 1]), np.uint32(levels[3 * i + 2])
        weighted = red * np.uint32(19595) + green * np.uint32(38470) + blue * np.uint32(7471) + np.uint32(1 << 15)
        out[i] = np.uint8(weighted >> np.uint32(16))


@compiled
def laplacian_sums(grey: NDArray[np.uint8]) -> tuple[int, int]:
    """The Laplacian (4 neighbours) within the border: its sum and the sum of its squares.

    Args:
        grey: uint8[H, W].
    """
    height, width = grey.shape
    total = squares = 0
    row = np.empty(width, np.int16)
    for y in range(1, height - 1):
        above, own, below = grey[y - 1], grey[y], grey[y + 1]
        for x in range(1, width - 1):
            around = np.int16(above[x]) + np.int16(below[x]) + np.int16(own[x - 1]) + np.int16(own[x + 1])
            row[x] = np.int16(around - np.int16(4) * np.int16(own[x]))
        row_total = row_squares = np.int32(0)
        for x in range(1, width - 1):
            row_total += np.int32(row[x])
            row_squares += np.int32(row[x]) * np.int32(row[x])
        total += int(row_total)
        squares += int(row_squares)
    return total, squares


@compiled
def step_sums(grey: NDArray[np.uint8], across: NDArray[np.int32], down: NDArray[np.int32]) -> None:
    """Sum absolute differences of neighbours.

    Args:
        grey: uint8[H, W].
        across: int32[W - 1], zeros; takes for each column the sum of its pixels' from those to their right.
        down: int32[H - 1]; takes for each row the sum of its pixels' from those below.
    """
    height, width = grey.shape
    few = np.zeros(width, np.uint16)
    for top in range(0, height, FLUSH_ROWS):
        for y in range(top, min(top + FLUSH_ROWS, height)):
            own = grey[y]
            for x in range(width - 1):
                few[x] += np.uint16(max(own[x], own[x + 1]) - min(own[x], own[x + 1]))
        for x in range(width - 1):
            across[x] += few[x]
            few[x] = 0
    for y in range(height - 1):
        own, below = grey[y], grey[y + 1]
        total = np.int32(0)
        for x in range(width):
            total += abs(np.int32(below[x]) - np.int32(own[x]))
        down[y] = total


@compiled
def spread_sum(levels: NDArray[np.uint8], every: int) -> int:
    """Sum, over the pixels of every so-many-th row, of the largest level less the smallest.

    Args:
        levels: uint8[H, 3 · W], RGB.
        every: rows from one that is looked at to the next.
    """
    width = levels.shape[1] // 3
    spreads = np.empty(width, np.uint8)
    total = 0
    for y in range(0, levels.shape[0], every):
        row = levels[y]
        for x in range(width):
            red, green, blue = row[3 * x], row[3 * x + 1], row[3 * x + 2]
            spreads[x] = max(max(red, green), blue) - min(min(red, green), blue)
        row_total = np.int32(0)
        for x in range(width):
            row_total += np.int32(spreads[x])
        total += int(row_total)
    return total
