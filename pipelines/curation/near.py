"""All pairs of 64-bit hashes within a Hamming distance: every pair that shares a bucket, verified by XOR and popcount.

Recall is 1 up to `guaranteed_distance` by construction (`blocks`), and precision is 1 whatever the distance. Hashes are
unique: equal ones collapse before they come here. Hashes in buckets above the cap are searched again, all together,
under the finest blocks, which keeps the guarantee; only where a bucket of those is above the cap as well are its hashes
compared with their next neighbours alone, and reported.

The units that Ray distributes are here too, as plain functions: `slices` cuts a table into ranges of its sort order,
`search_slice` searches one range. What this does *not* do: join pairs into clusters (`components`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava_core.errors import ConfigError
from pipelines.curation.blocks import BITS, Blocks, Hashes, choose_blocks, distinct, finest_blocks

GREATEST_DISTANCE = 8
WINDOW = 32
"""Neighbours in sort order that a hash of a capped bucket is compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NearConfig:
    """What counts as near."""

    max_distance: int = 3
    """Greatest Hamming distance of two 64-bit pHashes that makes them near-duplicates, 0 to 8 bits. 0: equal hashes."""
    guaranteed_distance: int = 3
    """Distance up to which recall is 1 by construction; pairs between it and `max_distance` are found with the recall
    that the report states (`Blocks.recall`). Each bit more costs tables."""
    bucket_cap: int = 4096
    """Hashes in one bucket that are compared all with all; fuller buckets are cut finer, and capped if that fails."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for values out of range."""
        for name, value in (("max_distance", self.max_distance), ("guaranteed_distance", self.guaranteed_distance)):
            if not 0 <= value <= GREATEST_DISTANCE:
                raise ConfigError(f"NearConfig.{name} is {value}; expected 0 to {GREATEST_DISTANCE} bits")
        if self.bucket_cap < WINDOW:
            raise ConfigError(f"NearConfig.bucket_cap is {self.bucket_cap}; expected at least {WINDOW} hashes")

    def blocks(self, rows: int) -> Blocks:
        """The cut for so many hashes."""
        return choose_blocks(rows, min(self.max_distance, self.guaranteed_distance))


@dataclass(frozen=True, slots=True)
class NearPairs:
    """Pairs of hashes within the distance: left < right, in ascending order, each once."""

    left: Hashes
    """uint64[P], the lesser hash."""
    right: Hashes
    """uint64[P], the greater hash."""
    full: Hashes
    """uint64[C], ascending: hashes in buckets above the cap, some of whose pairs are missing."""

    def __len__(self) -> int:
        return len(self.left)

    @property
    def distance(self) -> NDArray[np.uint8]:
        """uint8[P], bits in which left and right differ."""
        bits: NDArray[np.uint8] = np.bitwise_count(self.left ^ self.right)
        return bits


def gather(parts: Iterable[NearPairs]) -> NearPairs:
    """Join results of several slices into one, in an order that does not depend on theirs."""
    found = [NearPairs(*(np.empty(0, np.uint64),) * 3), *parts]
    left, right = (np.concatenate([getattr(part, side) for part in found]) for side in ("left", "right"))
    order = np.lexsort((right, left))
    left, right = left[order], right[order]
    first = np.ones(len(left), bool)
    first[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return NearPairs(left[first], right[first], distinct(np.concatenate([part.full for part in found])))


def near_pairs(
    hashes: Hashes, config: NearConfig, fresh: Hashes | None = None, blocks: Blocks | None = None
) -> NearPairs:
    """Find all pairs of hashes within `config.max_distance`.

    Args:
        hashes: uint64[N], in any order; equal ones count once.
        config: distance, guarantee, cap.
        fresh: uint64[M], unique and ascending, some of the hashes: only pairs with at least one of these are
            returned. None: all pairs. For matching new data against an index.
        blocks: the cut; None: `config.blocks(N)`.

    Returns:
        NearPairs, the same for every order of `hashes`.

    Example:
        >>> pairs = near_pairs(np.array([0b0111, 0, 2**63, 0b1111_0000], np.uint64), NearConfig())
        >>> pairs.left.tolist(), pairs.right.tolist(), pairs.distance.tolist()
        ([0, 0], [7, 9223372036854775808], [3, 1])
    """
    unique = distinct(hashes)
    blocks = blocks or config.blocks(len(unique))
    found = _search_tables(unique, blocks, config, fresh, last=False)
    if not len(found.full):
        return found
    again = _search_tables(found.full, finest_blocks(blocks), config, fresh, last=True)
    return gather([NearPairs(found.left, found.right, again.full), again])


def _search_tables(
    unique: Hashes, blocks: Blocks, config: NearConfig, fresh: Hashes | None, *, last: bool
) -> NearPairs:
    return gather(
        search_slice(np.sort(blocks.permute(unique, table)), table, blocks, config, fresh, last=last)
        for table in range(len(blocks.tables))
    )


def slices(hashes: Hashes, blocks: Blocks, table: int, bits: int) -> Iterator[tuple[int, Hashes]]:
    """Cut one table into 2^bits ranges of its sort order; a bucket is never cut.

    Args:
        hashes: uint64[N], unique.
        blocks: the cut of the hash.
        table: which table of `blocks`.
        bits: leading bits that name a slice; at most the table's key bits.

    Yields:
        Number of the slice in the table, and uint64[n] its permuted hashes, ascending; empty slices left out.
    """
    permuted = np.sort(blocks.permute(hashes, table))
    edges = np.arange(1, 2**bits, dtype=np.uint64) << np.uint64((BITS - bits) % BITS)
    for number, part in enumerate(np.split(permuted, np.searchsorted(permuted, edges))):
        if len(part):
            yield number, part


def search_slice(
    permuted: Hashes, table: int, blocks: Blocks, config: NearConfig, fresh: Hashes | None = None, *, last: bool = False
) -> NearPairs:
    """Find the pairs of one table, or slice of it, that no table before it finds; with `last`, all of its pairs.

    Args:
        permuted: uint64[n], unique, ascending, permuted for this table; whole buckets.
        table: which table of `blocks`.
        blocks: the cut of the hash.
        config: distance, cap.
        fresh: see `near_pairs`.
        last: whether hashes of buckets above the cap are compared with their next neighbours, because no finer
            search follows.

    Returns:
        NearPairs of hashes in their own bit order.
    """
    is_fresh = None if fresh is None else among(blocks.permute(permuted, table, back=True), fresh)
    prefix = permuted >> np.uint64(BITS - blocks.key_bits(table))
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(prefix)), bool), prefix[1:] != prefix[:-1]]))
    sizes = np.diff(starts, append=len(prefix))
    full = np.repeat(sizes > config.bucket_cap, sizes)
    found = [_compare(permuted, prefix, np.flatnonzero(~full), is_fresh, config.max_distance)]
    if last and full.any():
        found.append(_compare(permuted, prefix, np.flatnonzero(full), is_fresh, config.max_distance, WINDOW))
    left, right = (blocks.permute(np.concatenate(side), table, back=True) for side in zip(*found, strict=True))
    difference = left ^ right
    keep = np.ones(len(left), bool)
    # of the last search, a bucket of an earlier table that a pair shares may have been above the cap
    for mask in () if last else blocks.masks[:table]:
        keep &= (difference & np.uint64(mask)) != 0
    left, right = left[keep], right[keep]
    return NearPairs(np.minimum(left, right), np.maximum(left, right), blocks.permute(permuted[full], table, back=True))


def among(hashes: Hashes, some: Hashes) -> NDArray[np.bool_]:
    """Which hashes are in the ascending array `some`: bool[N]."""
    if not len(some):
        return np.zeros(len(hashes), bool)
    found: NDArray[np.bool_] = some[np.minimum(np.searchsorted(some, hashes), len(some) - 1)] == hashes
    return found


def _compare(
    permuted: Hashes,
    prefix: Hashes,
    begin: NDArray[np.int64],
    is_fresh: NDArray[np.bool_] | None,
    max_distance: int,
    reach: int | None = None,
) -> tuple[Hashes, Hashes]:
    """Compare each hash at `begin` with those after it in its bucket, nearest in sort order first, at most `reach`."""
    lefts, rights = [permuted[:0]], [permuted[:0]]
    step = 1
    while len(begin) and (reach is None or step <= reach):
        begin = begin[begin < len(permuted) - step]
        begin = begin[prefix[begin] == prefix[begin + step]]
        left, right = permuted[begin], permuted[begin + step]
        near = np.bitwise_count(left ^ right) <= max_distance
        if is_fresh is not None:
            near &= is_fresh[begin] | is_fresh[begin + step]
        lefts.append(left[near])
        rights.append(right[near])
        step += 1
    return np.concatenate(lefts), np.concatenate(rights)
