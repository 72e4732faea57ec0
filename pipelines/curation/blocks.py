"""The arithmetic of block permutation: how 64 bits are cut, so that near hashes are sure to meet.

A hash is cut into `count` blocks. Two hashes that differ in at most d bits touch at most d blocks; with take = count -
d they agree on all blocks of at least one choice of `take` out of `count`. There is one *table* for each choice: the
hashes sorted by the bits of its blocks, where equal bits make a *bucket*. Every pair within d therefore shares a bucket
of some table; beyond d, `recall` says how likely that is. What this does *not* do: search the buckets (`near`).
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
BITS = 64
FINEST_TABLES = 128
"""Most tables that hashes of full buckets are searched again in."""
CANDIDATE_COST = 0.2
"""Cost of verifying a candidate pair, relative to sorting a hash into a table (measured: 20 ns to 100 ns)."""
GREATEST_TAKE = 4


def distinct(hashes: Hashes) -> Hashes:
    """uint64[M]: the different hashes, ascending. By sorting, which is several times faster than numpy's hash table."""
    ordered = np.sort(hashes)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


@dataclass(frozen=True)
class Blocks:
    """A cut of 64 bits into `count` blocks of nearly equal width, and tables for each choice of `take` of them.

    Example:
        >>> blocks = Blocks(5, 2)
        >>> len(blocks.tables), blocks.guaranteed, [round(blocks.recall(d), 3) for d in (3, 4, 5)]
        (10, 3, [1.0, 0.789, 0.54])
    """

    count: int
    """Blocks that the bits are cut into."""
    take: int
    """Blocks on which two hashes must agree to meet in a table."""

    @property
    def guaranteed(self) -> int:
        """Greatest Hamming distance, bits, at which every pair meets in some table."""
        return self.count - self.take

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Width of each block, bits, from the highest bit down."""
        return tuple(BITS // self.count + (block < BITS % self.count) for block in range(self.count))

    @cached_property
    def tables(self) -> tuple[tuple[int, ...], ...]:
        """The chosen blocks of each table, in ascending order."""
        return tuple(combinations(range(self.count), self.take))

    def key_bits(self, table: int) -> int:
        """Bits on which the hashes of a bucket of this table agree."""
        return sum(self.widths[block] for block in self.tables[table])

    @cached_property
    def masks(self) -> tuple[int, ...]:
        """The bits of each table's blocks, in the order of the hash."""
        return tuple(sum(self._block_mask(block) for block in blocks) for blocks in self.tables)

    def _low_bit(self, block: int) -> int:
        return BITS - sum(self.widths[: block + 1])

    def _block_mask(self, block: int) -> int:
        return ((1 << self.widths[block]) - 1) << self._low_bit(block)

    def recall(self, distance: int) -> float:
        """Share of pairs at this distance (bits that differ anywhere, equally likely) that meet in some table."""
        ways = [[1] + [0] * distance]
        for width in self.widths:
            untouched = [*ways, [0] * (distance + 1)]
            touched = [[0] * (distance + 1), *ways]
            ways = [
                [left[m] + sum(right[m - j] * comb(width, j) for j in range(1, m + 1)) for m in range(distance + 1)]
                for left, right in zip(untouched, touched, strict=True)
            ]
        return sum(row[distance] for row in ways[: self.guaranteed + 1]) / comb(BITS, distance)

    def candidates(self, rows: int) -> float:
        """Candidate pairs expected among so many hashes of random bits, over all tables."""
        return rows * (rows - 1) / 2 * sum(2.0 ** -self.key_bits(table) for table in range(len(self.tables)))

    def permute(self, hashes: Hashes, table: int, *, back: bool = False) -> Hashes:
        """Move the bits of a table's blocks to the top, the others keeping their order, or back again."""
        order = [*self.tables[table], *(block for block in range(self.count) if block not in self.tables[table])]
        moved = np.zeros_like(hashes)
        top = BITS
        for block in order:
            top -= self.widths[block]
            source, target = (top, self._low_bit(block)) if back else (self._low_bit(block), top)
            mask = np.uint64((1 << self.widths[block]) - 1)
            moved |= ((hashes >> np.uint64(source)) & mask) << np.uint64(target)
        return moved


def choose_blocks(rows: int, distance: int) -> Blocks:
    """The cut that guarantees a distance at the least work for so many hashes.

    Example:
        >>> [choose_blocks(rows, 3) for rows in (10**5, 10**7, 10**9)]
        [Blocks(count=4, take=1), Blocks(count=5, take=2), Blocks(count=6, take=3)]
    """
    choices = [Blocks(distance + take, take) for take in range(1, GREATEST_TAKE + 1)]
    return min(choices, key=lambda blocks: len(blocks.tables) * rows + CANDIDATE_COST * blocks.candidates(rows))


def finest_blocks(blocks: Blocks) -> Blocks:
    """The finest cut with the same guarantee, and finer than `blocks`, that needs no more than `FINEST_TABLES` tables.

    Example:
        >>> finest_blocks(Blocks(5, 2))
        Blocks(count=10, take=7)
    """
    distance = blocks.guaranteed
    takes = range(1, BITS // 2 - distance)
    fitting = [take for take in takes if comb(distance + take, take) <= FINEST_TABLES]
    take = max(*fitting, blocks.take + 1)
    return Blocks(distance + take, take)
