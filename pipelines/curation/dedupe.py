"""Stage 2, `scores` → `clusters`: exact copies, near-duplicates, and contamination by evaluation images.

`dedupe_table` does it in one process; `dedupe_dataset` does the same on Ray Data with the same arithmetic: one
shuffle of hashes alone finds the pairs, the driver joins them into components, one shuffle of narrow rows by component
finds the survivors. No actors, no state that a retried task could spoil, and no decision by arrival, so
block order, retries and the number of nodes do not show in the result.

What this does *not* do: read or commit tables (the flow), compare embeddings (`semantic_stage`), drop rows (`select`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset

from llava_core.config import check_at_least
from pipelines.curation.blocks import Blocks, Hashes, distinct
from pipelines.curation.clusters import (
    FRESH,
    HASH_COLUMNS,
    INDEX,
    NARROW,
    REFERENCE,
    check_columns,
    cluster_rows,
    group_keys,
    hash_columns,
    narrow,
    phashes,
    usable,
)
from pipelines.curation.components import component_labels
from pipelines.curation.near import NearConfig, NearPairs, among, near_pairs
from pipelines.curation.near_stage import BATCH_ROWS, NO_HASHES, search_pairs, tables_of
from pipelines.curation.semantic import SemanticConfig
from pipelines.curation.survivors import SurvivorPolicy

log = logging.getLogger(__name__)

Labels = tuple[Hashes, Hashes]
Finish = Callable[[int, pa.Table], pa.Table]
PARTITION_ROWS = 2**18
"""Narrow rows that one clustering task gets, about: 40 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DedupeConfig:
    """What counts as a duplicate, and which copy survives."""

    near: NearConfig = field(default_factory=NearConfig)
    """Perceptual near-duplicates."""
    survivor: SurvivorPolicy = field(default_factory=SurvivorPolicy)
    """The best of several copies."""
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    """Different pictures of one thing; of rows that have an embedding, see `--scorers`."""
    local_rows: int = 1_000_000
    """Up to so many new rows are deduplicated in one process, more by Ray Data's shuffle; the rows that come out are
    the same."""

    def __post_init__(self) -> None:
        check_at_least("dedupe", "local_rows", self.local_rows, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairReport:
    """How near-duplicates were searched."""

    rows: int
    """Rows of all origins."""
    blocks: Blocks
    """The cut of the hashes."""
    recall: tuple[float, ...]
    """Share of pairs found at Hamming distance 0, 1, … `max_distance`, outside capped buckets; 1.0 where guaranteed."""
    pairs: int
    """Pairs of different hashes within the distance."""
    capped: int
    """Hashes in buckets too full to be searched pair by pair; their rows carry the flag `bucket_capped`."""


def dedupe_table(
    rows: pa.Table,
    config: DedupeConfig,
    *,
    index: pa.Table | None = None,
    against: pa.Table | None = None,
    vetoes: frozenset[str] = frozenset(),
) -> tuple[pa.Table, PairReport]:
    """Deduplicate in this process.

    Args:
        rows: the columns of `clusters.ROWS`, and any others.
        config: settings.
        index: survivors of earlier runs, with `cluster_id` where their clusters should keep their names; none of
        `rows`.
        against: evaluation images: uid and hashes.
        vetoes: uids that are nobody's duplicate, because a person said so.

    Returns:
        CLUSTER, ascending by uid, one row for each of `rows`; how pairs were searched.

    Raises:
        TableError: a column is missing, or a uid occurs twice.

    Example:
        Two encodings of a picture, the larger of which survives:
        >>> hashes = {"content_hash": [b"1" * 16, b"2" * 16], "pixel_hash": [b"3" * 16, b"4" * 16],
        ...     "phash": pa.array([0b0110, 0b0100], pa.uint64()), "low_information": [False, False]}
        >>> rows = pa.table({"uid": ["a", "b"], "width": [640, 800], "height": [480, 600], "source": ["x", "x"],
        ...     "quality": [None, 0.5], **hashes})
        >>> clusters, report = dedupe_table(rows, DedupeConfig())
        >>> clusters.select(["uid", "survivor_uid", "kind", "distance", "role"]).to_pylist()[0]
        {'uid': 'a', 'survivor_uid': 'b', 'kind': 'near', 'distance': 1.0, 'role': 'duplicate'}
    """
    tables = [
        narrow(table, origin, vetoes)
        for table, origin in ((rows, FRESH), (index, INDEX), (against, REFERENCE))
        if table is not None
    ]
    everything = pa.concat_tables(tables)
    fresh = _unique_keys(tables[0]) if len(tables) > 1 else None
    blocks = config.near.blocks(everything.num_rows)
    pairs = near_pairs(phashes(everything)[usable(everything)], config.near, fresh, blocks)
    groups = group_keys(everything, component_labels(pairs.left, pairs.right))
    clusters = cluster_rows(everything, groups, config.near, config.survivor, pairs.full)
    return clusters, _report(everything.num_rows, blocks, pairs, config)


def dedupe_dataset(
    rows: Dataset,
    config: DedupeConfig,
    *,
    index: Dataset | None = None,
    against: Dataset | None = None,
    vetoes: frozenset[str] = frozenset(),
    finish: Finish | None = None,
) -> tuple[Dataset, PairReport]:
    """Deduplicate on Ray. The pairs are searched at once, the clusters when the dataset that is returned is consumed.

    Args:
        rows: as for `dedupe_table`; read twice, or three times with an index or references.
        config: settings.
        index: as for `dedupe_table`.
        against: as for `dedupe_table`.
        vetoes: as for `dedupe_table`.
        finish: called in the worker for each partition with its number and its CLUSTER table, ascending by uid; what
            it returns is what the dataset holds. To write partitions where they are made. Partitions depend on the
            rows and on how many they are, on nothing else.

    Returns:
        Dataset of CLUSTER rows, in no order; how pairs were searched.
    """
    given = ((rows, FRESH), (index, INDEX), (against, REFERENCE))
    origins = [(dataset, origin) for dataset, origin in given if dataset is not None]
    for dataset, origin in origins:
        schema = dataset.schema()
        check_columns(schema.names if schema else [], origin)
    parts = [
        _select(dataset, NARROW.names).map_batches(
            partial(narrow, origin=origin, vetoes=vetoes), batch_format="pyarrow"
        )
        for dataset, origin in origins
    ]
    hashes = [
        _select(dataset, HASH_COLUMNS).map_batches(hash_columns, batch_format="pyarrow") for dataset, _ in origins
    ]
    everything = _union(parts)
    fresh = _collect_fresh(parts[0]) if len(parts) > 1 else None
    size = sum(dataset.count() for dataset, _ in origins)
    blocks = config.near.blocks(size)
    pairs = search_pairs(_union(hashes), blocks, config.near, size, fresh)
    shared = ray.put((component_labels(pairs.left, pairs.right), pairs.full, fresh))
    partitions = -(-size // PARTITION_ROWS) or 1
    partition = partial(_partition, shared=shared, partitions=partitions)
    cluster = partial(_cluster, shared=shared, config=config, finish=finish)
    clusters = (
        everything.map_batches(partition, batch_format="pyarrow")
        .groupby("partition", num_partitions=partitions)
        .map_groups(cluster, batch_format="pyarrow")
    )
    return clusters, _report(size, blocks, pairs, config)


def count_clusters(tables: Iterable[pa.Table]) -> dict[str, int]:
    """Count rows of CLUSTER tables: `rows`, each role, each kind, and `flag:` with each flag.

    Example:
        >>> count_clusters([pa.table({"role": ["survivor"], "kind": [None], "flags": [["vetoed"]]})])
        {'rows': 1, 'survivor': 1, 'flag:vetoed': 1}
    """
    counts: Counter[str] = Counter()
    for table in tables:
        counts["rows"] += table.num_rows
        flags = table["flags"].combine_chunks().flatten()
        for column, prefix in ((table["role"], ""), (table["kind"].drop_null(), ""), (flags, "flag:")):
            for entry in column.value_counts():
                counts[prefix + entry["values"].as_py()] += entry["counts"].as_py()
    return dict(counts)


def describe_search(near: NearConfig, clusters: pa.Table) -> str:
    """Say which near-duplicates are found, and which rows were not searched as others were.

    Args:
        near: by which was searched.
        clusters: CLUSTER rows.

    Example:
        >>> rows = pa.table({"role": ["survivor"], "kind": [None], "flags": [["bucket_capped"]]})
        >>> describe_search(NearConfig(max_distance=4), rows)
        'Pairs up to 3 bits apart are all found, about 90 % at 4 bits; 1 rows in buckets above the cap may lack some.'
    """
    blocks, counts = near.blocks(clusters.num_rows), count_clusters([clusters])
    beyond = range(blocks.guaranteed + 1, near.max_distance + 1)
    parts = [f"Pairs up to {blocks.guaranteed} bits apart are all found"]
    parts += [f"about {100 * blocks.recall(distance):.0f} % at {distance} bits" for distance in beyond]
    notes = [", ".join(parts)]
    if capped := counts.get("flag:bucket_capped", 0):
        notes.append(f"{capped:,} rows in buckets above the cap may lack some")
    if flat := counts.get("flag:low_information", 0):
        notes.append(f"{flat:,} rows whose hash says too little are matched exactly only")
    return "; ".join(notes) + "."


def _report(rows: int, blocks: Blocks, pairs: NearPairs, config: DedupeConfig) -> PairReport:
    if len(pairs.full):
        log.warning("%d hashes lie in buckets above the cap; near-duplicates of theirs may be missing", len(pairs.full))
    recall = tuple(blocks.recall(distance) for distance in range(config.near.max_distance + 1))
    return PairReport(rows=rows, blocks=blocks, recall=recall, pairs=len(pairs), capped=len(pairs.full))


def _unique_keys(rows: pa.Table) -> Hashes:
    return distinct(group_keys(rows, (NO_HASHES, NO_HASHES)))


def _select(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Read only the columns with these names, so that readers of Parquet skip the others."""
    given = dataset.schema()
    return dataset.select_columns([name for name in names if given is not None and name in given.names])


def _union(datasets: Sequence[Dataset]) -> Dataset:
    return datasets[0].union(*datasets[1:]) if len(datasets) > 1 else datasets[0]


def _collect_fresh(rows: Dataset) -> Hashes:
    """The keys of fresh rows, 8 bytes each, on the driver."""

    def keys(batch: pa.Table) -> pa.Table:
        return pa.table({"key": _unique_keys(batch)})

    found = rows.map_batches(keys, batch_format="pyarrow", batch_size=BATCH_ROWS)
    return distinct(np.concatenate([NO_HASHES, *(batch["key"].to_numpy() for batch in tables_of(found))]))


def _partition(batch: pa.Table, shared: "ray.ObjectRef[Any]", partitions: int) -> pa.Table:
    """Add `group` and `partition`; leave out what has an origin other than fresh and no fresh row to meet."""
    labels, _, fresh = ray.get(shared)
    groups = group_keys(batch, labels)
    batch = batch.append_column("group", pa.array(groups)).append_column("partition", _spread(groups, partitions))
    if fresh is None:
        return batch
    own = group_keys(batch, (NO_HASHES, NO_HASHES))
    return batch.filter(pa.array(among(own, fresh) | among(own, labels[0])))


def _spread(groups: Hashes, partitions: int) -> pa.Array:
    """int64[N]: the partition of each key. Multiplying first, because the least hashes of components are all small."""
    mixed = (groups ^ (groups >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return pa.array(((mixed >> np.uint64(32)) % np.uint64(partitions)).astype(np.int64))


def _cluster(
    group: pa.Table, shared: "ray.ObjectRef[Any]", config: DedupeConfig, finish: Finish | None
) -> Iterator[pa.Table]:
    """All rows of one partition → their clusters."""
    _, capped, _ = ray.get(shared)
    rows = group.drop_columns(["group", "partition"])
    clusters = cluster_rows(rows, group["group"].to_numpy(), config.near, config.survivor, capped)
    yield finish(group["partition"][0].as_py(), clusters) if finish else clusters
