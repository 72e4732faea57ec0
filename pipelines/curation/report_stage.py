"""Reads the tables of a curation and the pictures that a page shows, and writes `report.html` and `diff.html`.

Meant for a worker, because it decodes images. What this does *not* do: count (`report`), compare (`diff`), draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.corpus_settings import DEFAULT_COLUMNS, DEFAULT_SETTINGS, CorpusColumns, CorpusSettings
from pipelines.curation.dedupe import DedupeConfig, describe_search
from pipelines.curation.diff import describe, diff_selections, render_diff
from pipelines.curation.overrides import Overrides
from pipelines.curation.report import Forecast, make_report, report_columns
from pipelines.curation.report_page import render_report
from pipelines.curation.select import NO_OVERRIDES, SelectConfig
from pipelines.curation.select_stage import read_rows, read_selection
from pipelines.curation.survivors import SurvivorPolicy
from pipelines.curation.thumbnails import RowPlace, read_thumbnails
from pipelines.fragments import Fragment
from pipelines.storage import StorageOptions, join_uri, write_bytes
from schemas.cluster import CLUSTER

REPORT, DIFF = "report.html", "diff.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportWork:
    """What the pages are about."""

    output: str
    """Folder of the tables `scores`, `clusters` and `selection`; the pages go into it."""
    scores_run: str
    """Run of the probe."""
    clusters_run: str
    """Run of dedupe."""
    fragments: tuple[Fragment, ...]
    """The frozen corpus, for pictures."""
    config: SelectConfig
    """By which was selected."""
    dedupe: DedupeConfig = field(default_factory=DedupeConfig)
    """How copies were found, and who survives among them."""
    overrides: Overrides = NO_OVERRIDES
    """Decisions that stand already."""
    forecast: Forecast = field(default_factory=Forecast)
    """How GPU-hours are estimated."""
    columns: CorpusColumns = DEFAULT_COLUMNS
    """Where a table's rows keep their images."""
    corpus: CorpusSettings = DEFAULT_SETTINGS
    """How the corpus is read."""
    storage_options: StorageOptions | None = None
    """See `storage.storage_options`; None reads the environment."""


def write_report(work: ReportWork, *, title: str = "Curation") -> str:
    """Write `report.html` and return its URI.

    Args:
        work: what it is about.
        title: heading.

    Raises:
        ConfigError: a table is not there.
    """
    options = work.storage_options
    scores = read_rows(
        join_uri(work.output, "scores"), report_columns(work.config), run_id=work.scores_run, storage_options=options
    )
    clusters = read_rows(
        join_uri(work.output, "clusters"), CLUSTER.names, run_id=work.clusters_run, storage_options=options
    )
    selection = _selection(work)
    found = f"{describe_policy(work.dedupe.survivor)} {describe_search(work.dedupe.near, clusters)}"
    report = make_report(scores, clusters, selection, work.config, policy=found)
    places = [one.place for cluster in report.clusters for one in cluster.members if one.place is not None]
    inputs = sorted({fragment.source for fragment in work.fragments})
    page = render_report(
        report,
        _thumbnails(work, places),
        title=title,
        lead=f"{', '.join(inputs)}; tables in {work.output}; probe {work.scores_run}, dedupe {work.clusters_run}",
        forecast=work.forecast,
        overrides=work.overrides,
    )
    uri = join_uri(work.output, REPORT)
    write_bytes(uri, page.encode(), options)
    return uri


def write_diff(work: ReportWork, before: pa.Table, after: pa.Table, *, lead: str) -> tuple[str, list[str]]:
    """Compare two selections: write `diff.html`; return its URI and the difference in lines.

    Args:
        work: what it is about.
        before: SELECTION, as of `select_stage.read_selection`.
        after: SELECTION, as of `select.select_rows`; it need not be in a table.
        lead: what is compared, in a sentence.
    """
    diff = diff_selections(before, after)
    pictures = _thumbnails(work, [sample.place for sample in diff.samples])
    page = render_diff(diff, pictures, title="What other thresholds change", lead=lead)
    uri = join_uri(work.output, DIFF)
    write_bytes(uri, page.encode(), work.storage_options)
    return uri, describe(diff)


def describe_policy(policy: SurvivorPolicy) -> str:
    """Say how survivors are chosen.

    Example:
        >>> describe_policy(SurvivorPolicy(sources=("docs", "web")))
        'Survivors by resolution, then source (docs before web before any other), then quality, then the least uid.'
    """
    ranks = " before ".join([*policy.sources, "any other"])
    words = {"source": f"source ({ranks})" if policy.sources else "source"}
    steps = [words.get(step, step) for step in policy.order]
    return f"Survivors by {', then '.join([*steps, 'the least uid'])}."


def _selection(work: ReportWork) -> pa.Table:
    uri = join_uri(work.output, "selection")
    selection = read_selection(uri, storage_options=work.storage_options)
    return selection if selection is not None else read_rows(uri, (), run_id="")


def _thumbnails(work: ReportWork, places: Sequence[RowPlace]) -> dict[str, bytes]:
    return read_thumbnails(
        places,
        work.fragments,
        storage_options=work.storage_options,
        columns=work.columns,
        corpus=work.corpus,
    )
