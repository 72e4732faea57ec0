"""What surrounds the work of a run: its record, other runs' rows, and the closing table."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from pipelines import accounts, record, tables, upkeep
from pipelines.accounts import Counts, check_accounts
from pipelines.cli import Accounts, Say, render_accounts
from pipelines.curation.decisions import Decided
from pipelines.curation.job import CurateJob
from pipelines.curation.probe_stage import ProbeSpec
from pipelines.curation.select_stage import selection_counts
from pipelines.errors import AccountingError
from pipelines.fragments import Fragment, total_rows
from pipelines.record import RunRecord
from pipelines.storage import is_local, join_uri

TABLES = ("scores", "clusters", "selection", "shards")
KEPT = "kept"


def is_settled(job: CurateJob) -> bool:
    """Whether an earlier call brought the corpus as it is now, with these settings, to its end."""
    earlier = RunRecord.read(job.output, job.run_id, job.options)
    if earlier is None or earlier.status != "complete" or earlier.settings.get("state") != job.state:
        return False
    if job.config.overwrite and other_runs(job):
        return False
    if job.config.retry_rejected and _has_rejected(job):
        return False
    # a call with other settings may have replaced these since, and a person may have taken measurements out
    return earlier.settings.get("runs") == _replaced_by(job) and _is_measured(job)


def say_settled(job: CurateJob, say: Say) -> None:
    """Show the counts of a run that is complete already."""
    _close(job, selection_counts(job.table("selection"), job.options), new_rows=0, seconds=0.0, say=say)


def begin_record(job: CurateJob) -> None:
    """Write down what is about to be done."""
    _write_record(job, status="running", counts={})


def finish(job: CurateJob, decided: Decided, *, new_rows: int, seconds: float, say: Say) -> None:
    """Hold the tables to the number of rows that went in, and show what became of them.

    Raises:
        AccountingError: rows in are not rows out.
    """
    counts = dict(decided.counts)
    passed = "pass" if job.config.select.rules.missing == "keep" else "fail"
    for reason, rows in decided.unmeasured.items():
        say(f"{rows:,} rows have no value for {reason}, so they {passed} it")
    written = _in_shards(job)
    for code, rows in written.rejected.items():
        say(f"{rows:,} kept rows cannot be trained on, and are rejected in shards: {code}")
    faults = _faults(job, decided, written)
    for other in sorted(other_runs(job)) if job.config.overwrite and not faults else ():
        upkeep.overwrite(job.table("scores"), run_id=other, storage_options=job.options)
        say(f"run {other} was taken out (--overwrite); older versions of the table still show it")
    _write_record(job, status="failed" if faults else "complete", counts=counts)
    _close(job, counts, new_rows=new_rows, seconds=seconds, say=say)
    if faults:
        raise AccountingError("; ".join(faults))


def other_runs(job: CurateJob) -> set[str]:
    """Runs in `scores` besides this one."""
    return set(_runs(job, "scores") or ()) - {job.run_id}


def _runs(job: CurateJob, name: str) -> list[str] | None:
    """Runs in a table; None where it is not there."""
    table = tables.open_table(job.table(name), job.options)
    if table is None:
        return None
    return sorted({str(file[end]) for file in accounts.files(table) for end in ("min.run_id", "max.run_id")})


def _replaced_by(job: CurateJob) -> dict[str, list[str] | None]:
    """Whose rows the tables hold that each call replaces as a whole."""
    return {name: _runs(job, name) for name in TABLES if name != "scores"}


def _is_measured(job: CurateJob) -> bool:
    """Whether every row has been probed, those of evaluation images among them."""
    return all(
        tables.open_table(spec.table_uri, job.options) is not None
        and _rows_of(spec, fragments).rows == total_rows(fragments)
        for spec, fragments in _probed(job)
    )


def _has_rejected(job: CurateJob) -> bool:
    """Whether any row is rejected that can be tried again, by the probe or by the shards."""
    if any(_rows_of(spec, fragments).rejected for spec, fragments in _probed(job)):
        return True
    return bool(_in_shards(job).rejected)


def _probed(job: CurateJob) -> list[tuple[ProbeSpec, Sequence[Fragment]]]:
    """What is probed: the corpus, and evaluation images if there are any."""
    return [(job.probe, job.fragments), *([(job.reference_probe, job.references)] if job.references else [])]


def _in_shards(job: CurateJob) -> Counts:
    return accounts.counts(job.table("shards"), job.shard.settings.run_id, storage_options=job.options)


def _rows_of(spec: ProbeSpec, fragments: Sequence[Fragment]) -> Counts:
    """What a table of the probe holds of some fragments."""
    names = {fragment.fragment_id for fragment in fragments}
    return accounts.counts(
        spec.table_uri, spec.settings.run_id, fragment_ids=names, storage_options=spec.storage_options
    )


def _faults(job: CurateJob, decided: Decided, written: Counts) -> list[str]:
    """What does not add up."""
    probed = _rows_of(job.probe, job.fragments)
    kept = decided.counts.get(KEPT, 0)
    faults = []
    if probed.rows != job.rows_in or decided.rows != job.rows_in:
        faults.append(f"{job.rows_in} rows in, {probed.rows} in scores, {decided.rows} in selection")
    if written.rows != kept:
        faults.append(f"{kept} rows kept, {written.rows} in shards")
    return faults


def _write_record(job: CurateJob, *, status: Literal["running", "complete", "failed"], counts: dict[str, int]) -> None:
    earlier = RunRecord.read(job.output, job.run_id, job.options)
    planned: dict[str, list[str]] = {}
    for fragment in job.fragments:
        planned.setdefault(fragment.source, []).append(fragment.fragment_id)
    RunRecord(
        run_id=job.run_id,
        job="curate_corpus",
        settings=dataclasses.asdict(job.config) | {"state": job.state, "runs": _replaced_by(job)},
        seeds={"balance": job.config.select.balance.seed},
        versions=record.run_versions(),
        fragments=planned,
        rows_in=job.rows_in,
        counts=counts,
        status=status,
        started=earlier.started if earlier and status != "running" else record.now_utc(),
        finished="" if status == "running" else record.now_utc(),
    ).write(job.output, job.options)


def _close(job: CurateJob, counts: dict[str, int], *, new_rows: int, seconds: float, say: Say) -> None:
    """Say the closing table, then raise if it does not add up."""
    dropped = {reason: rows for reason, rows in counts.items() if reason != KEPT}
    shards = job.table("shards")
    places = {name: job.table(name) for name in TABLES} | {"polars": f'pl.read_delta("{shards}")'}
    if is_local(job.output):
        places["report"] = f"file://{join_uri(job.output, 'report.html')}"
    figures = Accounts(
        rows_in=job.rows_in, ok=counts.get(KEPT, 0), rejected=dropped, new_rows=new_rows, seconds=seconds
    )
    say(render_accounts(figures, places))
    check_accounts(Counts(ok=counts.get(KEPT, 0), rejected=dropped), job.rows_in)
