"""Stage 3 between tables: read the columns that the rules look at, decide, replace the selection in one commit.

Reads `scores` and `clusters` only, so thresholds change without an image being touched. What this does *not* do:
decide (`select`), run on Ray: a million rows are a few seconds' work of one process.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from pyarrow.fs import LocalFileSystem

from llava_core.errors import ConfigError
from pipelines import record
from pipelines.curation.overrides import Overrides
from pipelines.curation.rules import RulesConfig, active_rules, unmeasured
from pipelines.curation.select import (
    CLUSTER_COLUMNS,
    NO_OVERRIDES,
    SelectConfig,
    count_reasons,
    score_columns,
    select_rows,
)
from pipelines.parts import write_fragment
from pipelines.storage import StorageOptions, filesystem, is_local, join_uri
from pipelines.tables import CommitReport, dataset, open_table
from pipelines.upkeep import replace_table
from schemas.selection import SELECTION, DropReason

STAGE_VERSION = 1
"""Raised when the same scores and settings give other rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """What one selection came to."""

    table: pa.Table
    """SELECTION, ascending by uid."""
    report: CommitReport
    """What the commit did."""
    run_id: str
    """Of the selection."""
    unmeasured: dict[DropReason, int]
    """Rows that had no value for a rule, by its reason; they went as `rules.missing` says."""


def select_stage(
    scores_uri: str,
    clusters_uri: str,
    selection_uri: str,
    config: SelectConfig,
    *,
    scores_run: str,
    clusters_run: str,
    overrides: Overrides = NO_OVERRIDES,
    storage_options: StorageOptions | None = None,
) -> Selected:
    """Select, and replace the table `selection` unless it holds just that already.

    Args:
        scores_uri: table of the probe.
        clusters_uri: table of dedupe.
        selection_uri: where the selection goes; made if it is missing.
        config: what is wanted.
        scores_run: run of the probe whose rows are looked at.
        clusters_run: run of dedupe.
        overrides: decisions of people.
        storage_options: see `storage.storage_options`; None reads the environment.

    Raises:
        ConfigError: a table is not there.
        TableError: the tables do not fit each other.
    """
    run_id = selection_run(
        config, overrides, [(scores_uri, scores_run), (clusters_uri, clusters_run)], storage_options=storage_options
    )
    scores = read_rows(scores_uri, score_columns(config), run_id=scores_run, storage_options=storage_options)
    clusters = read_rows(clusters_uri, CLUSTER_COLUMNS, run_id=clusters_run, storage_options=storage_options)
    table = select_rows(scores, clusters, config, run_id=run_id, overrides=overrides)
    report = commit_selection(table, selection_uri, run_id=run_id, storage_options=storage_options)
    return Selected(table=table, report=report, run_id=run_id, unmeasured=_unmeasured(scores, config.rules))


def selection_run(
    config: SelectConfig,
    overrides: Overrides,
    read: Sequence[tuple[str, str]],
    *,
    storage_options: StorageOptions | None = None,
) -> str:
    """Name a selection by its settings and by what it reads: the content-addressed files of those tables.

    Args:
        config: what is wanted.
        overrides: decisions of people.
        read: (table, run) of each table that it reads.
        storage_options: see `storage.storage_options`; None reads the environment.
    """
    identity = {
        "stage": ["select", STAGE_VERSION],
        "config": dataclasses.asdict(config),
        "overrides": overrides.to_json(),
        "read": [[run, table_digest(uri, storage_options)] for uri, run in read],
    }
    return record.run_id(identity)


def table_digest(table_uri: str, storage_options: StorageOptions | None = None) -> str:
    """Name what a table holds now: a hash of the names of its files, which are named by their content.

    Raises:
        ConfigError: no table is there.
    """
    files = pa.table(_open(table_uri, storage_options).get_add_actions(flatten=True))
    paths = sorted(files["path"].to_pylist())
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]


def read_rows(
    table_uri: str, columns: Sequence[str], *, run_id: str, storage_options: StorageOptions | None = None
) -> pa.Table:
    """Read some columns of one run's rows of a table, in no order.

    Args:
        table_uri: the table.
        columns: names; `status` is among a table's columns too.
        run_id: the run.
        storage_options: see `storage.storage_options`; None reads the environment.

    Raises:
        ConfigError: no table is there.
    """
    table = _open(table_uri, storage_options)
    schema = pa.schema(table.schema().to_arrow())
    files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    paths = [file["path"] for file in files if file["min.run_id"] <= run_id <= file["max.run_id"]]
    store, root = filesystem(table_uri, storage_options)
    if not paths:
        return schema.empty_table().select(list(columns))
    # One scan over all files at once: delta's own dataset gives each file a fragment with its own filter, 3 × slower.
    found = ds.dataset(
        [join_uri(root, path) for path in paths],
        schema=schema,
        format="parquet",
        # Arrow's own file system reads on several threads; fsspec's goes through Python
        filesystem=LocalFileSystem() if is_local(table_uri) else store,
        partitioning=ds.partitioning(pa.schema([pa.field("status", pa.string())]), flavor="hive"),
        partition_base_dir=root,
    )
    return found.to_table(columns=list(columns), filter=ds.field("run_id") == run_id)


def commit_selection(
    table: pa.Table, selection_uri: str, *, run_id: str, storage_options: StorageOptions | None = None
) -> CommitReport:
    """Replace the table by a selection, in one commit.

    Args:
        table: SELECTION of one run.
        selection_uri: the table; made if it is missing.
        run_id: the run; where the table holds it already, nothing is committed.
        storage_options: see `storage.storage_options`; None reads the environment.
    """
    blocks = table["fragment_id"].unique().to_pylist()
    receipts = [
        write_fragment(
            table.filter(pc.equal(table["fragment_id"], block)),
            SELECTION,
            table_uri=selection_uri,
            fragment_id=block,
            run_id=run_id,
            storage_options=storage_options,
        )
        for block in blocks
    ]
    return replace_table(selection_uri, receipts, run_id=run_id, schema=SELECTION, storage_options=storage_options)


def read_selection(
    selection_uri: str,
    *,
    version: int | None = None,
    storage_options: StorageOptions | None = None,
) -> pa.Table | None:
    """Read a selection as it is now, or as it was at a version of the table; None where there is none.

    Returns:
        SELECTION, ascending by uid.
    """
    table = open_table(selection_uri, storage_options)
    if table is None:
        return None
    if version is not None:
        table.load_as_version(version)
    rows = pa.table(dataset(table).to_table(columns=SELECTION.names))
    return rows.cast(SELECTION).sort_by("uid")


def read_kept(
    selection_uri: str, columns: Sequence[str], *, storage_options: StorageOptions | None = None
) -> pa.Table | None:
    """Read some columns of the rows that a selection keeps, in no order; None where there is no selection."""
    table = open_table(selection_uri, storage_options)
    if table is None:
        return None
    return pa.table(dataset(table).to_table(columns=list(columns), filter=ds.field("status") == "ok"))


def selection_counts(selection_uri: str, storage_options: StorageOptions | None = None) -> Counter[str]:
    """Count a selection's rows as `count_reasons` does, reading that one column.

    Raises:
        ConfigError: no table is there.
    """
    rows = dataset(_open(selection_uri, storage_options)).to_table(columns=["error"])
    return count_reasons(pa.table(rows))


def _open(table_uri: str, storage_options: StorageOptions | None) -> DeltaTable:
    table = open_table(table_uri, storage_options)
    if table is None:
        raise ConfigError(f"no table at {table_uri}; run the stage before this one")
    return table


def _unmeasured(scores: pa.Table, rules: RulesConfig) -> dict[DropReason, int]:
    return unmeasured(scores.filter(pc.equal(scores["status"], "ok")), active_rules(rules))
