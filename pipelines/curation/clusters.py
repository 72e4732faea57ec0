"""Rows into clusters: who shows the same picture as whom, and who survives. Plain arithmetic on narrow tables.

Three origins meet in one table: *reference* rows (evaluation images: what matches them is contaminated), *index* rows
(survivors of
earlier runs: they stay survivors, because their shards may be in use), and *fresh* rows, which alone are answered for.

Rows are grouped by a 64-bit key, the least pHash of their component; a row without a usable pHash by its pixel hash.
Equal files have equal pixels and equal pixels equal pHashes, since the probe is a function of the bytes, so exact
copies share a group too. A group is answered for by itself, whatever else is in the table: that is what Ray
distributes.

What this does *not* do: search pairs (`near`), compare embeddings (`semantic`), run on a cluster (`dedupe`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.curation.blocks import Hashes, distinct
from pipelines.curation.components import Indices, leaders
from pipelines.curation.near import NearConfig, among
from pipelines.curation.survivors import SurvivorPolicy, best_first
from pipelines.errors import TableError
from schemas.cluster import CLUSTER, ClusterFlag, ClusterKind, ClusterRole
from schemas.columns import UID

REFERENCE, INDEX, FRESH = 0, 1, 2

ROWS = pa.schema(
    [
        UID,
        pa.field("content_hash", pa.binary()),
        pa.field("pixel_hash", pa.binary()),
        pa.field("phash", pa.uint64()),
        pa.field("low_information", pa.bool_()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("source", pa.string()),
        pa.field("quality", pa.float64()),
    ]
)
"""What is read of `scores`. Hashes are null where the probe rejected the row; a null `low_information` means false."""

NARROW = pa.schema(
    [*ROWS, pa.field("cluster_id", pa.string()), pa.field("origin", pa.int8()), pa.field("vetoed", pa.bool_())]
)
"""`ROWS` of all origins in one table. `cluster_id` is that of an index row, null elsewhere."""


HASH_COLUMNS = ("phash", "low_information")


def hash_columns(rows: pa.Table) -> pa.Table:
    """The two columns that pairs are searched by; an int64 `phash` is read as the same 64 bits, unsigned."""
    column = rows["phash"]
    if column.type == pa.int64():
        column = pa.chunked_array([chunk.view(pa.uint64()) for chunk in column.chunks], pa.uint64())
    has_low = "low_information" in rows.column_names
    low = rows["low_information"].cast(pa.bool_()) if has_low else pa.nulls(rows.num_rows, pa.bool_())
    return pa.table({"phash": column.cast(pa.uint64()), "low_information": low})


def check_columns(names: Sequence[str], origin: int) -> None:
    """Raise `TableError` where rows of this origin lack a column; an index and references need only uid and hashes."""
    required = ROWS.names if origin == FRESH else ["uid", "content_hash", "pixel_hash", "phash"]
    if missing := [name for name in required if name not in names]:
        raise TableError(f"deduplication reads the columns {required}; {missing} are missing from {list(names)}")


def narrow(rows: pa.Table, origin: int, vetoes: frozenset[str] = frozenset()) -> pa.Table:
    """Bring rows of one origin into the form that they are clustered in.

    Args:
        rows: what `check_columns` asks for, and any others; an index may have `cluster_id`.
        origin: REFERENCE, INDEX or FRESH.
        vetoes: uids that are nobody's duplicate.

    Returns:
        The rows as `NARROW`.

    Raises:
        TableError: a column is missing, or cannot be cast.
    """
    check_columns(rows.column_names, origin)
    hashes = hash_columns(rows)
    columns: list[pa.Array | pa.ChunkedArray] = []
    for field in ROWS:
        if field.name in HASH_COLUMNS:
            columns.append(hashes[field.name])
        elif field.name in rows.column_names:
            columns.append(rows[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(rows.num_rows, field.type))
    has_id = origin == INDEX and "cluster_id" in rows.column_names
    columns.append(rows["cluster_id"].cast(pa.string()) if has_id else pa.nulls(rows.num_rows, pa.string()))
    columns.append(pa.array(np.full(rows.num_rows, origin, np.int8)))
    decided = sorted(vetoes) if origin != REFERENCE else []
    columns.append(pc.is_in(columns[0], value_set=pa.array(decided, pa.string())))
    return pa.table(columns, schema=NARROW)


def usable(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows have a pHash that may be matched: bool[N]."""
    known = pc.is_valid(rows["phash"])
    return _numpy(pc.and_(known, pc.invert(pc.fill_null(rows["low_information"], False))))


def phashes(rows: pa.Table) -> Hashes:
    """uint64[N], 0 where null."""
    return _numpy(pc.fill_null(rows["phash"], 0)).copy()


def group_keys(rows: pa.Table, labels: tuple[Hashes, Hashes]) -> Hashes:
    """The key by which a row meets all rows that could be the same picture.

    Args:
        rows: `NARROW`.
        labels: `component_labels` of the pairs found among usable hashes.

    Returns:
        uint64[N]: label of the pHash, the pHash itself outside any pair, or without a usable one 64 bits of the pixel
        hash, of the content hash, or of the uid.
    """
    mask, keys = usable(rows), phashes(rows)
    keys[~mask] = _exact_keys(rows.filter(pa.array(~mask)))
    paired, label = labels
    inside = mask & among(keys, paired)
    keys[inside] = label[np.searchsorted(paired, keys[inside])]
    return keys


def _exact_keys(rows: pa.Table) -> Hashes:
    """uint64[N]: the first 64 bits of the pixel hash, else of the content hash, else the last of the uid."""
    uid_end = pc.binary_slice(rows["uid"].cast(pa.binary()), -8)
    exact = pc.coalesce(rows["pixel_hash"], rows["content_hash"], uid_end)
    return np.array([int.from_bytes(value[:8], "big") for value in exact.to_pylist()], np.uint64)


def cluster_rows(rows: pa.Table, groups: Hashes, near: NearConfig, policy: SurvivorPolicy, capped: Hashes) -> pa.Table:
    """Find the survivor of every fresh row.

    Args:
        rows: `NARROW`; whole groups, in any order.
        groups: uint64[N], `group_keys` of the rows.
        near: how far a near-duplicate may be from its survivor.
        policy: who survives.
        capped: uint64[C], ascending: hashes whose pairs may be incomplete.

    Returns:
        CLUSTER, one row for each fresh row, ascending by uid.

    Raises:
        TableError: a uid occurs twice in one group.
    """
    ordered_keys = np.sort(groups)
    repeated = distinct(ordered_keys[1:][ordered_keys[1:] == ordered_keys[:-1]])
    hashless = pc.and_(pc.is_null(rows["pixel_hash"]), pc.is_null(rows["content_hash"]))
    alone = ~among(groups, repeated) | (_numpy(hashless) & ~usable(rows))
    parts = [_singles(rows.filter(pa.array(alone)), capped)]
    if not alone.all():
        crowd, crowd_groups = rows.filter(pa.array(~alone)), pa.array(groups[~alone])
        ordered = best_first(crowd, policy, within=(("group", crowd_groups), ("rank", crowd["origin"])))
        parts.append(_crowd(ordered.combine_chunks(), near, capped))
    return pa.concat_tables(parts).sort_by("uid").combine_chunks()


def _singles(rows: pa.Table, capped: Hashes) -> pa.Table:
    """Rows that share their key with no other: each is its own survivor."""
    rows = rows.filter(pc.equal(rows["origin"], FRESH))
    size = rows.num_rows
    role = pa.repeat(pa.scalar(ClusterRole.SURVIVOR.value), size)
    flags = _flags(_own_flags(rows, capped), size)
    kind, distance = pa.nulls(size, pa.string()), pa.nulls(size, pa.float32())
    return pa.table([rows["uid"], rows["uid"], rows["uid"], kind, distance, role, flags], schema=CLUSTER)


def _crowd(rows: pa.Table, near: NearConfig, capped: Hashes) -> pa.Table:
    """Rows that share keys, sorted by group and the best first, given to their survivors."""
    uid, origin, groups = rows["uid"], _numpy(rows["origin"]), _numpy(rows["group"])
    content, pixel = (_codes(rows[name]) for name in ("content_hash", "pixel_hash"))
    hashes, is_usable = phashes(rows), usable(rows)
    # an evaluation image may be a row too, and stand in several sets
    own = origin != REFERENCE
    _check_unique(uid.filter(pa.array(own)), groups[own])

    def matches(member: Indices, leader: Indices) -> NDArray[np.bool_]:
        same = (content[member] >= 0) & (content[member] == content[leader])
        same |= (pixel[member] >= 0) & (pixel[member] == pixel[leader])
        bits = np.bitwise_count(hashes[member] ^ hashes[leader])
        found: NDArray[np.bool_] = same | (is_usable[member] & is_usable[leader] & (bits <= near.max_distance))
        return found

    vetoed = _numpy(rows["vetoed"])
    fixed = (origin != FRESH) | vetoed
    leader = leaders(groups, fixed, matches)
    everyone = np.arange(len(rows))
    is_leader = leader == everyone
    flags = _own_flags(rows, capped)
    flags[ClusterFlag.CHAIN_SPLIT] = is_usable & _in_split_groups(groups, is_leader & ~vetoed, origin)
    flags[ClusterFlag.INDEXED] = origin[leader] == INDEX
    same_content = (content >= 0) & (content == content[leader])
    same_pixel = (pixel >= 0) & (pixel == pixel[leader])
    inexact = np.where(same_pixel, ClusterKind.EXACT_PIXEL, ClusterKind.NEAR)
    kinds = np.where(same_content, ClusterKind.EXACT_CONTENT, inexact)
    distance = np.where(same_content | same_pixel, 0, np.bitwise_count(hashes ^ hashes[leader]))
    roles = np.where(is_leader, ClusterRole.SURVIVOR, ClusterRole.DUPLICATE)
    roles = np.where(origin[leader] == REFERENCE, ClusterRole.CONTAMINATED, roles)
    columns = [
        uid,
        _cluster_ids(rows, leader, origin),
        uid.take(pa.array(leader)),
        pa.array(kinds.astype(object), pa.string(), mask=is_leader),
        pa.array(distance.astype(np.float32), mask=is_leader),
        pa.array(roles.astype(object), pa.string()),
        _flags(flags, len(rows)),
    ]
    return pa.table(columns, schema=CLUSTER).filter(pa.array(origin == FRESH))


def _in_split_groups(groups: Hashes, heads: NDArray[np.bool_], origin: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which rows are in a group with several heads, at least one of them fresh: bool[N]."""
    names, counts = np.unique(groups[heads], return_counts=True)
    several: NDArray[np.bool_] = np.isin(groups, names[counts > 1]) & np.isin(groups, groups[heads & (origin == FRESH)])
    return several


def _cluster_ids(rows: pa.Table, leader: Indices, origin: NDArray[np.int8]) -> pa.ChunkedArray:
    """The least fresh uid of each cluster, or the id that its survivor brought along."""
    of_fresh = pa.table({"leader": leader, "uid": rows["uid"]}).filter(pa.array(origin == FRESH))
    least = of_fresh.group_by("leader", use_threads=False).aggregate([("uid", "min")])
    place = pc.index_in(pa.array(leader), value_set=least["leader"].combine_chunks())
    own = pc.coalesce(rows["cluster_id"], rows["uid"]).take(pa.array(leader))
    return pc.if_else(pa.array(origin[leader] == FRESH), least["uid_min"].take(place), own)


def _check_unique(uid: pa.ChunkedArray, groups: Hashes) -> None:
    """Raise `TableError` where one uid stands twice in a group."""
    seen = pa.table({"uid": uid, "group": groups}).group_by(["uid", "group"], use_threads=False)
    counts = seen.aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))
    if len(twice):
        raise TableError(
            f"{len(twice)} uids occur more than once among the rows and the index; {twice['uid'][0]} is one. Each"
            " row belongs in one of them, once, and an index must not hold rows that are deduplicated again"
        )


def _own_flags(rows: pa.Table, capped: Hashes) -> dict[ClusterFlag, NDArray[np.bool_]]:
    """The flags that follow from a row alone."""
    known, matchable = _numpy(pc.is_valid(rows["phash"])), usable(rows)
    return {
        ClusterFlag.LOW_INFORMATION: known & ~matchable,
        ClusterFlag.NO_PHASH: ~known,
        ClusterFlag.BUCKET_CAPPED: matchable & among(phashes(rows), capped),
        ClusterFlag.VETOED: _numpy(rows["vetoed"]),
    }


def _flags(flags: dict[ClusterFlag, NDArray[np.bool_]], size: int) -> pa.ListArray:
    """list<string>[N]: the names of the flags that hold, in the order of the dictionary."""
    held = np.stack(list(flags.values()), axis=1).reshape(size, len(flags))
    offsets = np.concatenate([[0], held.sum(axis=1).cumsum()]).astype(np.int32)
    names = pa.array([flag.value for flag in flags])
    return pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(np.nonzero(held)[1])))


def _codes(column: pa.ChunkedArray) -> Indices:
    """int64[N]: equal numbers for equal values, -1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    return _numpy(pc.fill_null(encoded.indices, -1)).astype(np.int64)


def _numpy(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    if isinstance(column, pa.Array):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return np.asarray(column.to_numpy())
