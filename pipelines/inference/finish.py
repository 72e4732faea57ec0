"""What surrounds the work of a run: its record, rows that no longer belong, counts, pages, closing table."""

import dataclasses
from collections.abc import Collection
from typing import Any, Literal

import ray

from llava_core.errors import ConfigError
from pipelines import accounts, record, tables, upkeep
from pipelines.accounts import Counts, check_accounts
from pipelines.cli import Accounts, Say, render_accounts
from pipelines.inference.config import InferenceConfig
from pipelines.inference.gallery import write_gallery
from pipelines.inference.job import InferenceJob, missing_works, noted_fragments
from pipelines.inference.run_report_page import write_run_report
from pipelines.inference.work import total_rows
from pipelines.known_rows import find_overlaps
from pipelines.record import RunRecord
from pipelines.storage import is_local, join_uri

GALLERY, REPORT = "gallery.html", "run_report.html"


def stale_fragments(job: InferenceJob) -> set[str]:
    """Find the fragments in the table that have to leave once this job's are in.

    Their file has changed or gone since an earlier call with the same settings, or an earlier call named a part of
    today's inputs by itself, so that its rows are in today's fragments too.

    Raises:
        ConfigError: an earlier call's fragment holds rows of today's inputs and others besides.
    """
    spec = job.spec
    place: dict[str, Any] = {"storage_options": spec.storage_options}
    earlier = RunRecord.read(spec.table_uri, job.run_id, spec.storage_options)
    stale = record.stale_fragments(earlier, job.planned)
    overlaps = find_overlaps(spec.table_uri, job.run_id, noted_fragments(job), apart_from=stale, **place)
    if partly := {name for name, covered in overlaps.items() if not covered}:
        recorded = earlier.fragments if earlier else {}
        sources = sorted(source for source, ids in recorded.items() if partly.intersection(ids))
        raise ConfigError(
            f"{spec.table_uri} holds rows of {', '.join(job.sources)} from an earlier call for {', '.join(sources)}, "
            "together with rows that are not in today's --input; name both in one --input, or use another --output"
        )
    return tables.committed_fragments(spec.table_uri, job.run_id, stale, **place) | overlaps.keys()


def is_settled(job: InferenceJob, *, overwrite: bool) -> bool:
    """Whether an earlier call brought this very plan to its end, so that there is nothing left to do."""
    earlier = RunRecord.read(job.spec.table_uri, job.run_id, job.spec.storage_options)
    return earlier is not None and earlier.status == "complete" and not (overwrite and other_runs(job))


def say_settled(job: InferenceJob, say: Say) -> None:
    """Show the counts of a run that is complete already."""
    _close(job, count(job), new_rows=0, seconds=0.0, say=say)


def begin_record(job: InferenceJob, config: InferenceConfig) -> None:
    """Write down what is about to be committed; what earlier calls planned stays, until its rows are out."""
    _write_record(job, config, status="running", counts={})


def finish(
    job: InferenceJob, config: InferenceConfig, *, stale: Collection[str], new_rows: int, seconds: float, say: Say
) -> None:
    """Take out what no longer belongs, show the result, and hold it to the number of rows that went in.

    Raises:
        AccountingError: rows in are not rows out.
    """
    spec = job.spec
    options = spec.storage_options
    if stale:
        report = tables.commit(
            spec.table_uri, (), run_id=job.run_id, schema=spec.inquiry.schema, stale=stale, storage_options=options
        )
        say(f"{len(report.withdrawn)} fragment(s) of files that changed, went or are in others now were taken out")
    for other in sorted(other_runs(job)) if config.overwrite else ():
        upkeep.overwrite(spec.table_uri, run_id=other, storage_options=options)
        say(f"run {other} was taken out (--overwrite); older versions of the table still show it")
    counts = count(job)
    remote: Any = ray.remote(num_cpus=0)
    earlier = RunRecord.read(spec.table_uri, job.run_id, options)
    # on a worker, because they read the table and the images that they show
    ray.get(remote(write_pages).remote(job, counts, earlier.started if earlier else ""))
    complete = counts.rows == rows_in(job, counts)
    out = {"ok": counts.ok, **counts.rejected}
    _write_record(job, config, status="complete" if complete else "failed", counts=out)
    _close(job, counts, new_rows=new_rows, seconds=seconds, say=say)


def write_pages(job: InferenceJob, counts: Counts, started: str) -> None:
    """Write the pages of a run: a sample of it, and how it went.

    Args:
        job: whose run it is.
        counts: of the run.
        started: when its last start was.
    """
    spec = job.spec
    write_gallery(join_uri(spec.table_uri, GALLERY), job.works, spec, counts, trained=job.trained)
    report = join_uri(spec.table_uri, REPORT)
    write_run_report(report, job.works, spec, counts, trained=job.trained, started=started)


def count(job: InferenceJob) -> Counts:
    """Count today's fragments in the table."""
    names = {work.work_id for work in job.works}
    spec = job.spec
    return accounts.counts(spec.table_uri, job.run_id, fragment_ids=names, storage_options=spec.storage_options)


def rows_in(job: InferenceJob, counts: Counts) -> int:
    """Return how many rows have to be in the table.

    Where only the rows of the corpus know it, it is what came of the work that is in the table, at least one row for
    each of the corpus, and what the rest would be at the least.
    """
    if job.exact:
        return job.rows_in
    return max(job.rows_in, counts.rows + total_rows(missing_works(job)))


def other_runs(job: InferenceJob) -> set[str]:
    """Runs in the table besides this one, as far as its files tell them apart."""
    table = tables.open_table(job.spec.table_uri, job.spec.storage_options)
    files = accounts.files(table) if table else ()
    return {str(name) for file in files for name in (file["min.run_id"], file["max.run_id"])} - {job.run_id}


def _write_record(
    job: InferenceJob,
    config: InferenceConfig,
    *,
    status: Literal["running", "complete", "failed"],
    counts: dict[str, int],
) -> None:
    spec = job.spec
    earlier = RunRecord.read(spec.table_uri, job.run_id, spec.storage_options)
    fragments = record.merged_fragments(earlier, job.planned, finished=status == "complete")
    RunRecord(
        run_id=job.run_id,
        job=spec.inquiry.job,
        settings=dataclasses.asdict(config) | {"model_revision": spec.settings.model_revision},
        seeds={"sampling": config.seed},
        versions=record.run_versions(),
        fragments=fragments,
        rows_in=sum(counts.values()) if status == "complete" else job.rows_in,
        counts=counts,
        status=status,
        started=earlier.started if earlier and status != "running" else record.now_utc(),
        finished="" if status == "running" else record.now_utc(),
    ).write(spec.table_uri, spec.storage_options)


def _close(job: InferenceJob, counts: Counts, *, new_rows: int, seconds: float, say: Say) -> None:
    """Say the closing table, then raise if it does not add up."""
    uri = job.spec.table_uri
    pages = {"gallery": join_uri(uri, GALLERY), "report": join_uri(uri, REPORT)}
    places = {
        "table": uri,
        **{name: f"file://{page}" if is_local(uri) else page for name, page in pages.items()},
        "deltalake": f'DeltaTable("{uri}").to_pandas()',
        "polars": f'pl.read_delta("{uri}").filter(pl.col("run_id") == "{job.run_id}")',
    }
    wanted = rows_in(job, counts)
    figures = Accounts(
        rows_in=wanted,
        ok=counts.ok,
        rejected=counts.rejected,
        new_rows=new_rows,
        seconds=seconds,
        unit=job.spec.inquiry.unit,
    )
    say(render_accounts(figures, places))
    check_accounts(counts, wanted)
