"""Stage 5: the pages of an output folder, made on a worker, because they decode thumbnails.

`report.html` shows what is; `diff.html` what other thresholds would change, without changing it. What this does *not*
do: read, count or draw (`report_stage`).
"""

from dataclasses import dataclass

import pyarrow as pa

from llava_core.errors import ConfigError
from pipelines.curation import report_stage
from pipelines.curation.cluster_stage import ClusterWork, clusters_of, clusters_run
from pipelines.curation.diff import SelectionDiff, describe, diff_selections
from pipelines.curation.job import CurateJob
from pipelines.curation.report_stage import ReportWork
from pipelines.curation.select import score_columns, select_rows
from pipelines.curation.select_stage import read_rows, read_selection


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Which rows of the tables are shown."""

    scores: str
    """Run of the probe."""
    clusters: str
    """Run of dedupe."""


def write_report(job: CurateJob, runs: Runs) -> None:
    """Write `report.html` from the tables as they are."""
    report_stage.write_report(_work(job, runs), title="What became of a corpus")


def write_diff(job: CurateJob, clustering: ClusterWork) -> list[str]:
    """Cluster and select as the job's settings say, without keeping it, and write `diff.html` against the selection.

    Args:
        job: whose tables they are.
        clustering: by which its clusters are found.

    Returns:
        The difference as lines for people.

    Raises:
        ConfigError: there is no selection yet.
    """
    config, options = job.config.select, job.options
    before = read_selection(job.table("selection"), storage_options=options)
    if before is None:
        raise ConfigError(f"--diff compares with the selection in {job.output}; run without it first")
    scores = read_rows(job.table("scores"), score_columns(config), run_id=job.run_id, storage_options=options)
    after = select_rows(scores, clusters_of(clustering), config, overrides=job.overrides)
    lead = f"the selection in {job.output}, and what these settings would make of it; nothing has been changed"
    work = _work(job, Runs(scores=job.run_id, clusters=clusters_run(clustering)))
    return report_stage.write_diff(work, before, after, lead=lead)[1]


def difference(before: pa.Table | None, after: pa.Table) -> list[str]:
    """What a call changed, as lines for people; none for the first selection."""
    if before is None:
        return []
    diff: SelectionDiff = diff_selections(before, after)
    return describe(diff) if diff.changes else []


def _work(job: CurateJob, runs: Runs) -> ReportWork:
    return ReportWork(
        output=job.output,
        scores_run=runs.scores,
        clusters_run=runs.clusters,
        fragments=job.fragments,
        config=job.config.select,
        dedupe=job.config.dedupe,
        overrides=job.overrides,
        forecast=job.config.forecast,
        columns=job.config.columns,
        corpus=job.config.corpus,
        storage_options=job.options,
    )
