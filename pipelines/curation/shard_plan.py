"""Which kept rows go into which shard: by place in the corpus, cut where content says, so that growth moves little.

Rows are sorted by *place*: the uri of the file or container that their fragment begins in, its first row, then the row.
A shard ends once it holds `least_bytes`, after the first row whose hash falls below a bound (on average a quarter of
the way to `most_bytes`), and at `most_bytes` at the latest. So the same rows give the same shards whatever the order
of inputs, and rows that come or go change the shard that they are in and, as a rule, one more; the others keep their
names, and are not written again. What this does *not* do: read bytes (`shard`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llava_core.config import check_at_least
from llava_core.errors import ConfigError
from pipelines.curation.balance import uid_fractions
from pipelines.errors import TableError
from pipelines.fragments import Fragment, make_fragment

_CUT_SEED = "cut"
"""Of its own: balancing keeps rows with small numbers, which would all be rows that cut."""
_NAME_BYTES = 2_000
"""What a row weighs beside its images: text, plan, names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSize:
    """How large shards and their row groups are."""

    least_bytes: int = 256 * 2**20
    """A shard is not cut before; the last one may be smaller."""
    most_bytes: int = 512 * 2**20
    """A shard is cut before it exceeds this; a single larger row is a shard of its own."""
    group_rows: int = 128
    """Most rows of a row group, the unit that is read at once."""
    group_bytes: int = 32 * 2**20
    """Most bytes of a row group; a single larger row is a group of its own."""

    def __post_init__(self) -> None:
        for name in ("least_bytes", "group_rows", "group_bytes"):
            check_at_least("shard", name, getattr(self, name), 1)
        if self.most_bytes <= self.least_bytes:
            raise ConfigError(f"shard.most_bytes is {self.most_bytes}; expected more than least_bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Rows of one fragment of the corpus, in order."""

    fragment: Fragment
    """Only the part of the fragment that has to be read."""
    indices: tuple[int, ...]
    """Rows of that part that are wanted, ascending."""
    uids: tuple[str, ...]
    """Their uids, as the selection has them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """One shard before its bytes are read."""

    shard_id: str
    """First 20 hex digits of the sha256 of the rows that are in it, what they are made of and what they carry."""
    rows: pa.Table
    """uid, source, corpus_fragment, row_index, n_image_tokens, n_text_tokens; in order of place."""


PLAN_COLUMNS = ("uid", "source", "corpus_fragment", "row_index", "n_image_tokens", "n_text_tokens")
"""Of each row, what its shard has to know."""
PLANNED_BY = (*PLAN_COLUMNS, "n_tiles", "file_bytes")
"""Of each row, what decides where it goes."""


def plan_shards(
    kept: pa.Table, fragments: Sequence[Fragment], size: ShardSize, *, tile_bytes: int = 0
) -> list[ShardPlan]:
    """Cut kept rows into shards.

    Args:
        kept: `PLANNED_BY` of the rows, in any order.
        fragments: the frozen corpus, in any order.
        size: how large shards are.
        tile_bytes: bytes of one tile where tiles are stored too, else 0.

    Returns:
        Shards in order of place; none where nothing is kept.

    Raises:
        TableError: a row's fragment is not in the corpus any more.
    """
    order = {one.fragment_id: place for place, one in enumerate(sorted(fragments, key=_place))}
    place = pc.index_in(kept["corpus_fragment"], value_set=pa.array(list(order), pa.string()))
    if place.null_count:
        lost = kept["corpus_fragment"].filter(pc.is_null(place))[0].as_py()
        raise TableError(
            f"{place.null_count} kept rows are of fragments that the corpus no longer has, {lost} is one; probe again"
        )
    sort_keys = [("place", "ascending"), ("row_index", "ascending")]
    sized = kept.select(PLANNED_BY).append_column("place", place)
    rows = sized.take(pc.sort_indices(sized.select(["place", "row_index"]), sort_keys=sort_keys)).combine_chunks()
    weights = _int64(rows["file_bytes"]) + _NAME_BYTES + tile_bytes * _int64(rows["n_tiles"])
    borders = cut_by_size(weights, uid_fractions(rows["uid"].to_pylist(), _CUT_SEED), size)
    narrow = rows.select(PLAN_COLUMNS)
    by_id = {one.fragment_id: one for one in fragments}
    return [_plan(narrow.slice(start, stop - start), by_id) for start, stop in pairwise(borders)]


def cut_by_size(weights: NDArray[np.int64], fractions: NDArray[np.float64], size: ShardSize) -> list[int]:
    """Borders of shards: 0, then one past the last row of each.

    Args:
        weights: int64[N], bytes of each row, in order.
        fractions: float64[N] in [0, 1), the number of each row.
        size: least and most bytes.

    Example:
        >>> size = ShardSize(least_bytes=20, most_bytes=100)
        >>> cut_by_size(np.full(12, 10), np.array([0.9, 0.1, 0.1, 0.9, 0.4, *[0.9] * 7]), size)
        [0, 2, 5, 12]
    """
    ends = np.cumsum(weights)
    # Each row cuts with a chance of its bytes over a quarter of the span: no mean of the data moves the borders.
    cutters = np.flatnonzero(fractions < weights / ((size.most_bytes - size.least_bytes) / 4))
    borders = [0]
    while borders[-1] < len(weights):
        first = borders[-1]
        before = int(ends[first - 1]) if first else 0
        full = int(np.searchsorted(ends, before + size.most_bytes, side="right"))
        earliest = int(np.searchsorted(ends, before + size.least_bytes))
        at = int(np.searchsorted(cutters, earliest))
        cut = int(cutters[at]) + 1 if at < len(cutters) else full
        borders.append(max(first + 1, min(cut, full)))
    return borders


def pieces_of(plan: ShardPlan, fragments: dict[str, Fragment]) -> Iterator[Piece]:
    """Give the rows of a shard as the parts of fragments that have to be read, in order.

    Args:
        plan: the shard.
        fragments: the corpus by fragment id.
    """
    names = plan.rows["corpus_fragment"].to_pylist()
    indices: list[int] = plan.rows["row_index"].to_pylist()
    uids: list[str] = plan.rows["uid"].to_pylist()
    borders = [0, *(row for row in range(1, len(names)) if names[row] != names[row - 1]), len(names)]
    for start, stop in pairwise(borders):
        yield narrow_piece(fragments[names[start]], indices[start:stop], uids[start:stop])


def narrow_piece(fragment: Fragment, indices: Sequence[int], uids: Sequence[str]) -> Piece:
    """Cut a fragment to what has to be read for some of its rows.

    Args:
        fragment: whole.
        indices: ascending.
        uids: of the same rows.
    """
    if fragment.rows:
        chosen = tuple(fragment.rows[index] for index in indices)
        part = make_fragment(
            kind=fragment.kind,
            source=fragment.source,
            root=fragment.root,
            container=fragment.container,
            start=fragment.start,
            rows=chosen,
        )
        return Piece(fragment=part, indices=tuple(range(len(chosen))), uids=tuple(uids))
    first, last = indices[0], indices[-1]
    part = make_fragment(
        kind=fragment.kind,
        source=fragment.source,
        root=fragment.root,
        container=fragment.container,
        start=fragment.start + first,
        num_rows=last - first + 1,
    )
    return Piece(fragment=part, indices=tuple(index - first for index in indices), uids=tuple(uids))


def _plan(rows: pa.Table, fragments: dict[str, Fragment]) -> ShardPlan:
    digest = hashlib.sha256()
    names = ("corpus_fragment", "row_index", "uid", "source", "n_image_tokens", "n_text_tokens")
    columns = (rows[name].to_pylist() for name in names)
    for name, index, uid, *carried in zip(*columns, strict=True):
        digest.update(f"{_content(fragments[name], index)}/{uid}/{carried}\n".encode())
    return ShardPlan(shard_id=digest.hexdigest()[:20], rows=rows)


def _content(fragment: Fragment, index: int) -> str:
    """Name what a row is made of: its files, else its container, whatever rows lie beside it."""
    if fragment.kind != "files":
        return fragment.fragment_id
    return " ".join(f"{ref.uri} {ref.size} {ref.version}" for ref in fragment.rows[index].objects)


def _place(fragment: Fragment) -> tuple[str, int]:
    container = fragment.container
    return (container.uri if container else fragment.row_uri(0), fragment.start)


def _int64(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(column, 0).cast(pa.int64()).to_numpy())
