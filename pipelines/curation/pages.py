"""Stage 5: the pages of an output folder, made on a worker, because they decode thumbnails.

`report.html` shows what is; `diff.html` what other thresholds would change, without changing it. What this does *not*
do: count (`report`, `diff`), draw (`report_page`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from llava_core.errors import ConfigError
from pipelines.curation.diff import SelectionDiff, describe, diff_selections, render_diff
from pipelines.curation.job import CurateJob
from pipelines.curation.report import make_report, report_columns
from pipelines.curation.report_page import render_report
from pipelines.curation.select import score_columns, select_rows
from pipelines.curation.select_stage import read_rows, read_selection
from pipelines.curation.thumbnails import RowPlace, read_thumbnails
from pipelines.storage import join_uri, write_bytes
from schemas.cluster import CLUSTER

REPORT, DIFF = "report.html", "diff.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Which rows of the tables are shown."""

    scores: str
    """Run of the probe."""
    clusters: str
    """Run of dedupe."""


def write_report(job: CurateJob, runs: Runs) -> None:
    """Write `report.html` from the tables as they are."""
    config, options = job.config.select, job.options
    scores = read_rows(job.table("scores"), report_columns(config), run_id=runs.scores, storage_options=options)
    clusters = read_rows(job.table("clusters"), CLUSTER.names, run_id=runs.clusters, storage_options=options)
    selection = read_selection(job.table("selection"), storage_options=options)
    assert selection is not None, "the stage before has written it"
    policy = f"by {', then '.join([*job.config.dedupe.survivor.order, 'uid'])}"
    report = make_report(scores, clusters, selection, config, policy=policy)
    places = [member.place for cluster in report.clusters for member in cluster.members if member.place]
    page = render_report(
        report,
        _pictures(job, places),
        title="What became of a corpus",
        lead=f"{', '.join(job.config.input)} by the recipe {job.config.recipe}; tables in {job.output}",
        forecast=job.config.forecast,
        overrides=job.overrides,
    )
    write_bytes(join_uri(job.output, REPORT), page.encode(), options)


def write_diff(job: CurateJob, runs: Runs) -> list[str]:
    """Select as the job's settings say, without keeping it, and write `diff.html` against the selection that is there.

    Returns:
        The difference as lines for people.

    Raises:
        ConfigError: there is no selection yet.
    """
    before = read_selection(job.table("selection"), storage_options=job.options)
    if before is None:
        raise ConfigError(f"--diff compares with the selection in {job.output}; run without it first")
    diff = diff_selections(before, _select_dry(job, runs))
    page = render_diff(
        diff,
        _pictures(job, [sample.place for sample in diff.samples]),
        title="What other thresholds change",
        lead=f"the selection in {job.output}, and what these settings would make of it; nothing has been changed",
    )
    write_bytes(join_uri(job.output, DIFF), page.encode(), job.options)
    return describe(diff)


def difference(before: pa.Table | None, after: pa.Table) -> list[str]:
    """What a call changed, as lines for people; none for the first selection."""
    if before is None:
        return []
    diff: SelectionDiff = diff_selections(before, after)
    return describe(diff) if diff.changes else []


def _select_dry(job: CurateJob, runs: Runs) -> pa.Table:
    config, options = job.config.select, job.options
    scores = read_rows(job.table("scores"), score_columns(config), run_id=runs.scores, storage_options=options)
    names = ["uid", "survivor_uid", "kind", "role"]
    clusters = read_rows(job.table("clusters"), names, run_id=runs.clusters, storage_options=options)
    return select_rows(scores, clusters, config, overrides=job.overrides)


def _pictures(job: CurateJob, places: Sequence[RowPlace]) -> dict[str, bytes]:
    return read_thumbnails(
        places, job.fragments, storage_options=job.options, columns=job.config.columns, corpus=job.config.corpus
    )
