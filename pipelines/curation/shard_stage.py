"""Stage 4 on Ray: each shard is a task; what is written stays written, and one commit makes all of it visible.

A worker leaves its receipt beside its files (`_staged/{run}/{shard}.json`), so that a run that was killed goes on where
it was, while readers of the table see either the old set of shards or the new one: rows are never in two shards.
Shards whose rows have not changed are in the table under the same name, and are neither read nor written again.
What this does *not* do: choose rows, or read anything but the rows of shards that are missing.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
from deltalake import DeltaTable

from llava_core.errors import TesseraError
from pipelines import record, tables
from pipelines.corpus_settings import DEFAULT_COLUMNS, DEFAULT_SETTINGS, CorpusColumns, CorpusSettings
from pipelines.curation.shard import ShardSettings, ShardWork, write_shard
from pipelines.curation.shard_plan import ShardPlan, pieces_of, plan_shards
from pipelines.fragments import Fragment
from pipelines.parts import PARTITION, Receipt
from pipelines.stages import receipt_of
from pipelines.storage import exists, filesystem, join_uri, read_json, write_json
from pipelines.table_files import run_files
from pipelines.tables import CommitReport
from pipelines.upkeep import replace_table
from schemas.shard import SHARD

log = logging.getLogger(__name__)

STAGE_VERSION = 3
"""Raised when the same rows and settings give other bytes."""
MAX_RETRIES = 2
"""Times that a shard whose worker died is begun again."""
STAGED = "_staged"


class ShardError(TesseraError):
    """A worker found a broken contract and says so; stops the job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSpec:
    """What a worker needs beside its shard."""

    settings: ShardSettings
    """Everything that changes bytes."""
    table_uri: str
    """Where shards go."""
    storage_options: Mapping[str, str] = field(default_factory=dict)
    """Of the stores; see `pipelines.storage.storage_options`."""
    columns: CorpusColumns = DEFAULT_COLUMNS
    """Where rows keep their images and texts."""
    corpus: CorpusSettings = DEFAULT_SETTINGS
    """How the corpus is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharded:
    """What one call came to."""

    report: CommitReport
    """What the commit did."""
    shards: int
    """Shards that the selection has."""
    written: int
    """Shards that this call wrote."""


def shard_run(settings: Mapping[str, Any]) -> str:
    """Name the shards by everything that changes their bytes, but for their rows.

    Args:
        settings: `dataclasses.asdict` of ShardSettings, columns and corpus settings; `run_id` in them is left out.
    """
    identity = {name: value for name, value in settings.items() if name != "run_id"}
    return record.run_id({"stage": ["shard", STAGE_VERSION], **identity})


def shard_stage(
    kept: pa.Table, fragments: Sequence[Fragment], spec: ShardSpec, *, retry_rejected: bool = False
) -> Sharded:
    """Bring the table `shards` to what a selection keeps, in one commit: all else leaves. Ray has to be started.

    Args:
        kept: `PLANNED_BY` of the rows that the selection keeps, in any order.
        fragments: the frozen corpus.
        spec: where and how.
        retry_rejected: write shards again that have rejected rows.

    Raises:
        ShardError: a worker found a broken contract.
        TableError: the selection and the corpus do not fit.
    """
    settings, options = spec.settings, spec.storage_options
    plans = plan_shards(kept, fragments, settings.size, tile_bytes=settings.tile_bytes)
    table = tables.create_table(spec.table_uri, SHARD, storage_options=options)
    kept_shards = tables.live_fragments(table, settings.run_id) & {plan.shard_id for plan in plans}
    if retry_rejected:
        kept_shards -= _with_rejected(table, settings.run_id)
    missing = [plan for plan in plans if plan.shard_id not in kept_shards]
    receipts = [found for plan in missing if (found := staged_receipt(spec, plan.shard_id)) is not None]
    there = {receipt.fragment_id for receipt in receipts}
    by_id = {one.fragment_id: one for one in fragments}
    todo = [plan for plan in missing if plan.shard_id not in there]
    log.info("%d shards, %d to write, %d of an earlier start", len(plans), len(todo), len(there))
    receipts += stream_shards((shard_work(plan, by_id) for plan in todo), spec)
    # shards of other settings hold the same rows: whoever reads the whole table would read them twice
    report = replace_table(
        spec.table_uri, receipts, run_id=settings.run_id, schema=SHARD, kept=kept_shards, storage_options=options
    )
    _remove_staged(spec)
    return Sharded(report=report, shards=len(plans), written=len(todo))


def _with_rejected(table: DeltaTable, run_id: str) -> set[str]:
    """Shards of a run that have a file of rejected rows."""
    own, _ = run_files(table, run_id)
    return {name for name, files in own.items() if any(file[f"partition.{PARTITION}"] == "rejected" for file in files)}


def shard_work(plan: ShardPlan, fragments: dict[str, Fragment]) -> ShardWork:
    """What a worker gets for a shard."""
    rows = plan.rows
    return ShardWork(
        shard_id=plan.shard_id,
        pieces=tuple(pieces_of(plan, fragments)),
        source=tuple(rows["source"].to_pylist()),
        n_image_tokens=tuple(rows["n_image_tokens"].to_pylist()),
        n_text_tokens=tuple(rows["n_text_tokens"].to_pylist()),
    )


def stream_shards(works: Iterator[ShardWork], spec: ShardSpec) -> Iterator[Receipt]:
    """Send shards to workers, no more at once than the cluster has CPUs, and give receipts as they come."""
    remote: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_write_staged)
    cluster = ray.cluster_resources()  # type: ignore[no-untyped-call]
    window = max(1, int(cluster.get("CPU", 1)))
    shared = ray.put(spec)
    running: list[Any] = []
    for work in works:
        running.append(remote.remote(work, shared))
        if len(running) >= window:
            done, running = ray.wait(running)
            yield from map(_receipt, ray.get(done))
    while running:
        done, running = ray.wait(running)
        yield from map(_receipt, ray.get(done))


def staged_receipt(spec: ShardSpec, shard_id: str) -> Receipt | None:
    """The receipt that an earlier call of this run left, if its files are still there."""
    try:
        values = read_json(_staged_uri(spec, shard_id), spec.storage_options)
    except FileNotFoundError:
        return None
    receipt = receipt_of(values)
    whole = all(exists(join_uri(spec.table_uri, file.path), spec.storage_options) for file in receipt.files)
    return receipt if whole else None


def _write_staged(work: ShardWork, spec: ShardSpec) -> dict[str, Any]:
    """One task: write a shard and its receipt. A broken contract comes back as "broken": exceptions lose their type."""
    try:
        receipt = write_shard(
            work,
            spec.settings,
            table_uri=spec.table_uri,
            storage_options=spec.storage_options,
            columns=spec.columns,
            corpus=spec.corpus,
        )
    except TesseraError as error:
        return {"broken": f"{type(error).__name__}: {error}"}
    values = dataclasses.asdict(receipt)
    write_json(_staged_uri(spec, work.shard_id), values, spec.storage_options)
    return values


def _receipt(values: dict[str, Any]) -> Receipt:
    if "broken" in values:
        raise ShardError(values["broken"])
    return receipt_of(values)


def _staged_uri(spec: ShardSpec, shard_id: str) -> str:
    return join_uri(spec.table_uri, STAGED, spec.settings.run_id, f"{shard_id}.json")


def _remove_staged(spec: ShardSpec) -> None:
    store, path = filesystem(join_uri(spec.table_uri, STAGED, spec.settings.run_id), spec.storage_options)
    if store.exists(path):
        store.rm(path, recursive=True)
