"""Stage 2 between tables: what is new in `scores` against what was clustered before, `clusters` replaced in one commit.

*Incremental*: survivors of earlier calls are an index that new rows are matched against and stay survivors, because
their shards may be in use. All is clustered anew where that cannot be: other settings, a survivor that is gone
while its copies are not, or embeddings, since semantic duplicates are not matched against earlier ones.

Up to `DedupeConfig.local_rows` new rows are deduplicated here, more by Ray Data's shuffle.
What this does *not* do: decide what is the same (`dedupe`), drop rows (`select`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import Dataset

from pipelines import record
from pipelines.curation.dedupe import DedupeConfig, dedupe_dataset, dedupe_table, describe_search
from pipelines.curation.near_stage import tables_of
from pipelines.curation.select_stage import read_rows, table_digest
from pipelines.curation.semantic_stage import semantic_dataset, semantic_table
from pipelines.parts import write_fragment
from pipelines.tables import open_table
from pipelines.upkeep import replace_table
from schemas.cluster import CLUSTER, ClusterRole
from schemas.columns import ERROR, FRAGMENT_ID, RUN_ID, STATUS
from schemas.score import SCORE

STAGE_VERSION = 1
"""Raised when the same scores and settings give other rows."""
CLUSTERS = pa.schema([*CLUSTER, pa.field("content_hash", pa.binary()), FRAGMENT_ID, RUN_ID, STATUS, ERROR])
"""`clusters` as a table: CLUSTER, the content that was clustered, and what every table has. All rows are "ok"."""
REFERENCE_COLUMNS = ("uid", "status", "content_hash", "pixel_hash", "phash", "low_information")
"""What is read of evaluation images."""
BLOCK_ROWS = 2**18
_READ = (
    "uid",
    "status",
    "content_hash",
    "pixel_hash",
    "phash",
    "low_information",
    "width",
    "height",
    "source",
    "quality",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterWork:
    """What the stage reads and wants; plain values, it runs on a worker."""

    scores_uri: str
    """Table of the probe."""
    scores_run: str
    """Run of the probe."""
    clusters_uri: str
    """Where clusters go."""
    config: DedupeConfig
    """What counts as a duplicate."""
    references: Sequence[tuple[str, str]]
    """(table, run) of evaluation images that were probed."""
    vetoes: frozenset[str]
    """uids that are nobody's duplicate."""
    storage_options: Mapping[str, str]
    """See `storage.storage_options`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clustered:
    """What one call came to."""

    run_id: str
    """Of the clusters."""
    fresh: int
    """Rows that this call clustered; 0 where the table was up to date."""
    incremental: bool
    """Whether the others were taken over."""
    search: str
    """Of `describe_search`, for all rows; empty where the table was up to date."""


def cluster_stage(work: ClusterWork) -> Clustered:
    """Bring the table `clusters` to what `scores` holds.

    Raises:
        ConfigError: no scores are there.
        TableError: a uid stands twice.
    """
    run_id = clusters_run(work)
    if _is_current(work, run_id):
        return Clustered(run_id=run_id, fresh=0, incremental=True, search="")
    rows = _scores(work)
    clusters, fresh, incremental = _find_clusters(rows, work)
    _write(clusters, rows, work, base_id(work), run_id)
    search = describe_search(work.config.near, clusters)
    return Clustered(run_id=run_id, fresh=fresh, incremental=incremental, search=search)


def clusters_of(work: ClusterWork) -> pa.Table:
    """CLUSTER as `cluster_stage` would make it, read where the table holds it; nothing is written."""
    run_id = clusters_run(work)
    if _is_current(work, run_id):
        return read_rows(work.clusters_uri, CLUSTER.names, run_id=run_id, storage_options=work.storage_options)
    return _find_clusters(_scores(work), work)[0]


def clusters_run(work: ClusterWork) -> str:
    """Name the clusters of the scores as they are now.

    Raises:
        ConfigError: no scores are there.
    """
    return record.run_id({"base": base_id(work), "scores": table_digest(work.scores_uri, work.storage_options)})


def base_id(work: ClusterWork) -> str:
    """Name everything but the rows that changes clusters: what earlier clusters must share to be an index."""
    config = dataclasses.asdict(work.config)
    # where it is done changes nothing
    del config["local_rows"]
    identity = {
        "stage": ["dedupe", STAGE_VERSION],
        "config": config,
        "probe": work.scores_run,
        "vetoes": sorted(work.vetoes),
        "references": [[run, table_digest(uri, work.storage_options)] for uri, run in work.references],
    }
    return record.run_id(identity)


def still_there(earlier: pa.Table, rows: pa.Table) -> pa.Table | None:
    """Clusters of rows that have not changed; None where a survivor changed or went while its copies are there.

    Args:
        earlier: CLUSTERS.
        rows: uid and content_hash of all rows.
    """
    place = pc.index_in(earlier["uid"], value_set=rows["uid"].combine_chunks())
    now = rows["content_hash"].take(place)
    same = pc.fill_null(pc.equal(now, earlier["content_hash"]), False)
    kept = earlier.filter(same)
    members = kept.filter(pc.equal(kept["role"], ClusterRole.DUPLICATE))
    orphans = pc.invert(pc.is_in(members["survivor_uid"], value_set=kept["uid"].combine_chunks()))
    return None if pc.any(orphans, min_count=0).as_py() else kept.select(CLUSTER.names)


def grow(
    kept: pa.Table, rows: pa.Table, config: DedupeConfig, against: pa.Table | None, vetoes: frozenset[str]
) -> tuple[pa.Table, int]:
    """Cluster what is new, with the survivors of what is kept as its index.

    Args:
        kept: CLUSTER of rows that have not changed.
        rows: all rows, as `dedupe_table` takes them.
        config: what counts as a duplicate.
        against: evaluation images.
        vetoes: uids that are nobody's duplicate.

    Returns:
        CLUSTER of all rows, ascending by uid, and how many of them are new.
    """
    known = pc.is_in(rows["uid"], value_set=kept["uid"].combine_chunks())
    fresh = rows.filter(pc.invert(known))
    if not fresh.num_rows:
        return kept.sort_by("uid"), 0
    survivors = kept.filter(pc.equal(kept["role"], ClusterRole.SURVIVOR))
    index = rows.take(pc.index_in(survivors["uid"], value_set=rows["uid"].combine_chunks()))
    index = index.append_column("cluster_id", survivors["cluster_id"])
    added = deduplicate(fresh, config, index=index, against=against, vetoes=vetoes)
    return pa.concat_tables([kept, added]).sort_by("uid").combine_chunks(), fresh.num_rows


def deduplicate(
    rows: pa.Table,
    config: DedupeConfig,
    *,
    index: pa.Table | None = None,
    against: pa.Table | None = None,
    vetoes: frozenset[str] = frozenset(),
) -> pa.Table:
    """Find survivors here, or of many rows on Ray Data; arguments as of `dedupe_table`.

    Returns:
        CLUSTER, ascending by uid.
    """
    if rows.num_rows <= config.local_rows:
        return dedupe_table(rows, config, index=index, against=against, vetoes=vetoes)[0]
    others = [None if table is None or not table.num_rows else _blocks(table) for table in (index, against)]
    found, _ = dedupe_dataset(_blocks(rows), config, index=others[0], against=others[1], vetoes=vetoes)
    return _collected(found)


def drop_semantic(clusters: pa.Table, rows: pa.Table, embeddings: pa.Table, config: DedupeConfig) -> pa.Table:
    """Drop semantic duplicates here, or of many rows on Ray Data; arguments as of `semantic_table`."""
    if rows.num_rows <= config.local_rows:
        return semantic_table(clusters, rows, embeddings, config, config.semantic)
    found = semantic_dataset(_blocks(clusters), _blocks(rows), _blocks(embeddings), config, config.semantic)
    return _collected(found)


def _blocks(table: pa.Table) -> Dataset:
    found: Dataset = ray.data.from_arrow(
        [table.slice(at, BLOCK_ROWS).combine_chunks() for at in range(0, table.num_rows, BLOCK_ROWS)]
    )
    return found


def _collected(clusters: Dataset) -> pa.Table:
    blocks = [block.cast(CLUSTER) for block in tables_of(clusters) if block.num_rows]
    return pa.concat_tables([CLUSTER.empty_table(), *blocks]).sort_by("uid").combine_chunks()


def _scores(work: ClusterWork) -> pa.Table:
    """What is clustered: the rows that the probe has not rejected."""
    columns = [name for name in _READ if name in SCORE.names]
    rows = read_rows(work.scores_uri, columns, run_id=work.scores_run, storage_options=work.storage_options)
    return rows.filter(pc.equal(rows["status"], "ok")).drop_columns(["status"]).combine_chunks()


def _find_clusters(rows: pa.Table, work: ClusterWork) -> tuple[pa.Table, int, bool]:
    """CLUSTER of all rows, how many of them are new, and whether the others were taken over."""
    earlier, embeddings, against = _earlier(work, base_id(work)), _embeddings(work), _references(work)
    kept = None if earlier is None or embeddings.num_rows else still_there(earlier, rows)
    if kept is None:
        clusters, fresh = deduplicate(rows, work.config, against=against, vetoes=work.vetoes), rows.num_rows
    else:
        clusters, fresh = grow(kept, rows, work.config, against, work.vetoes)
    if embeddings.num_rows:
        clusters = drop_semantic(clusters, rows, embeddings, work.config)
    return clusters, fresh, kept is not None


def _embeddings(work: ClusterWork) -> pa.Table:
    """uid and embedding of the rows that have one."""
    columns = ["uid", "status", "embedding"]
    rows = read_rows(work.scores_uri, columns, run_id=work.scores_run, storage_options=work.storage_options)
    held = pc.and_(pc.equal(rows["status"], "ok"), pc.is_valid(rows["embedding"]))
    return rows.filter(held).drop_columns(["status"]).combine_chunks()


def _is_current(work: ClusterWork, run_id: str) -> bool:
    table = open_table(work.clusters_uri, work.storage_options)
    files = [] if table is None else pa.table(table.get_add_actions(flatten=True)).to_pylist()
    return bool(files) and all(file["min.run_id"] == run_id == file["max.run_id"] for file in files)


def _earlier(work: ClusterWork, base: str) -> pa.Table | None:
    """The table as it is, if its rows were made with the same settings."""
    table = open_table(work.clusters_uri, work.storage_options)
    files = [] if table is None else pa.table(table.get_add_actions(flatten=True)).to_pylist()
    if not files or not all(str(file["min.fragment_id"]).startswith(f"{base}-") for file in files):
        return None
    names = [*CLUSTER.names, "content_hash"]
    found = read_rows(work.clusters_uri, names, run_id=files[0]["min.run_id"], storage_options=work.storage_options)
    return found.combine_chunks()


def _references(work: ClusterWork) -> pa.Table | None:
    options = work.storage_options
    found = [read_rows(uri, REFERENCE_COLUMNS, run_id=run, storage_options=options) for uri, run in work.references]
    if not found:
        return None
    # tables that somebody else made differ in what may be null
    schema = pa.schema([SCORE.field(name).with_nullable(True) for name in REFERENCE_COLUMNS])
    rows = pa.concat_tables([one.cast(schema) for one in found])
    rows = rows.filter(pc.equal(rows["status"], "ok")).drop_columns(["status"]).combine_chunks()
    # several probes of one set, or of sets that overlap, say the same of a row
    return rows.group_by(rows.column_names, use_threads=False).aggregate([]).combine_chunks()


def _write(clusters: pa.Table, rows: pa.Table, work: ClusterWork, base: str, run_id: str) -> None:
    """Replace the table in one commit."""
    place = pc.index_in(clusters["uid"], value_set=rows["uid"].combine_chunks())
    content = rows["content_hash"].take(place)
    receipts = []
    for block in range(max(1, -(-clusters.num_rows // BLOCK_ROWS))):
        name = f"{base}-{block:05d}"
        part = clusters.slice(block * BLOCK_ROWS, BLOCK_ROWS)
        size = part.num_rows
        texts = [pa.repeat(pa.scalar(value), size) for value in (name, run_id, "ok")]
        columns = [*part.columns, content.slice(block * BLOCK_ROWS, size), *texts, pa.nulls(size, pa.string())]
        table = pa.table(columns, schema=CLUSTERS)
        receipts.append(
            write_fragment(
                table,
                CLUSTERS,
                table_uri=work.clusters_uri,
                fragment_id=name,
                run_id=run_id,
                storage_options=work.storage_options,
            )
        )
    replace_table(work.clusters_uri, receipts, run_id=run_id, schema=CLUSTERS, storage_options=work.storage_options)
