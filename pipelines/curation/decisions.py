"""Stages 3 and 4 as a worker runs them: tables in, tables out, and a summary of a few numbers for the driver.

A selection has a row for every row of the corpus; here it stays in the worker that makes it and in the one that plans
shards, so that the driver of a large corpus does not hold it. What this does *not* do: decide (`select`), plan shards
(`shard_plan`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.curation.job import CurateJob
from pipelines.curation.pages import difference
from pipelines.curation.select import count_reasons
from pipelines.curation.select_stage import read_kept, read_selection, select_stage
from pipelines.curation.shard_plan import PLANNED_BY
from pipelines.curation.shard_stage import Sharded, shard_stage
from pipelines.errors import TableError
from schemas.selection import DropReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What one selection came to, without its rows."""

    counts: Mapping[str, int]
    """Rows by first reason, kept ones under "kept"."""
    unmeasured: Mapping[DropReason, int]
    """Rows that had no value for a rule, by its reason."""
    changes: tuple[str, ...]
    """What differs from the selection before, for people."""

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(self.counts.values())


def decide(job: CurateJob, clusters_run: str) -> Decided:
    """Select, replace the table `selection`, and say what that changes.

    Args:
        job: whose tables they are.
        clusters_run: run of dedupe.
    """
    before = read_selection(job.table("selection"), storage_options=job.options)
    selected = select_stage(
        job.table("scores"),
        job.table("clusters"),
        job.table("selection"),
        job.config.select,
        scores_run=job.run_id,
        clusters_run=clusters_run,
        overrides=job.overrides,
        storage_options=job.options,
    )
    return Decided(
        counts=dict(count_reasons(selected.table)),
        unmeasured=dict(selected.unmeasured),
        changes=tuple(difference(before, selected.table)),
    )


def write_shards(job: CurateJob) -> Sharded:
    """Bring the table `shards` to the selection as it is; shards are tasks of their own.

    Raises:
        TableError: there is no selection.
        ShardError: a worker found a broken contract.
    """
    kept = read_kept(job.table("selection"), PLANNED_BY, storage_options=job.options)
    if kept is None:
        raise TableError(f"{job.table('selection')} is gone; run it again")
    return shard_stage(kept, job.fragments, job.shard, retry_rejected=job.config.retry_rejected)
