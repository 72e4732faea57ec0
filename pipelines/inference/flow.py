"""The order of a job that runs a model over a corpus, on one screen; what is asked is the inquiry's.

    freeze ─ (--plan: a sample, and stop) ─ missing work ─▶ actors ─▶ receipts ─▶ commits ─ gallery, counts

What this does *not* do: touch an image. The driver sees work and receipts; workers see rows.
"""

import time
from collections.abc import Iterable, Sequence

from pipelines import runtime, tables
from pipelines.cli import Say
from pipelines.inference.config import InferenceConfig
from pipelines.inference.finish import begin_record, finish, is_settled, say_settled, stale_fragments
from pipelines.inference.job import InferenceJob, freeze, missing_works
from pipelines.inference.plan import say_plan
from pipelines.inference.stage import stream_inferred
from pipelines.inference.work import Work, total_rows
from pipelines.parts import Receipt
from pipelines.progress import Progress, watched

COMMIT_RECEIPTS, COMMIT_SECONDS = 8, 2.0
"""A group of receipts is committed when it is this large, or when the last commit is this long ago."""


def run_job(config: InferenceConfig, say: Say) -> None:
    """Run a model over a corpus into a table; what earlier calls committed is not done again.

    Args:
        config: of the job.
        say: where lines for people go.

    Raises:
        ConfigError, CheckpointRefused, TableError: before any cluster work.
        AccountingError: at the end, if rows in are not rows out.
        StalledError: nothing came back for `config.stall_timeout`.
    """
    job = freeze(config)
    say(job.model_line)
    missing = missing_works(job)
    stale = stale_fragments(job)
    if not config.plan:
        tables.create_table(job.spec.table_uri, job.spec.inquiry.schema, storage_options=job.spec.storage_options)
        if not missing and not stale and is_settled(job, overwrite=config.overwrite):
            return say_settled(job, say)
    nodes = runtime.start_ray(config.ray_address)
    workers = runtime.plan_workers(config.num_workers, nodes, gpus_per_worker=config.gpus_for(nodes))
    if config.plan:
        return say_plan(job, missing, workers, say)
    least = "" if job.exact else "at least "
    say(f"{least}{job.rows_in:,} rows, {least}{total_rows(missing):,} of them to do, by {workers.num_actors} worker(s)")
    say(f"run {job.run_id}")
    begin_record(job, config)
    started = time.monotonic()
    receipts = stream_inferred(missing, job.spec, workers) if missing else ()
    made = collect(receipts, job, missing, config.stall_timeout)
    seconds = time.monotonic() - started
    return finish(job, config, stale=stale, new_rows=made, seconds=seconds, say=say)


def collect(receipts: Iterable[Receipt], job: InferenceJob, sent: Sequence[Work], stall_timeout: float) -> int:
    """Commit receipts in groups as they come; what has come is committed whatever ends the stream.

    Returns:
        Rows that came.
    """
    planned = {work.work_id: work.num_rows for work in sent if not work.exact}
    progress = Progress(job.rows_in, done=job.rows_in - total_rows(sent), unit=job.spec.inquiry.unit, quiet=not sent)
    made = 0
    group: list[Receipt] = []
    last = time.monotonic()
    try:
        for receipt in watched(receipts, deadline_s=stall_timeout):
            made += receipt.rows
            progress.add(planned.get(receipt.fragment_id, receipt.rows), rejected=receipt.rows - receipt.ok)
            group.append(receipt)
            if len(group) >= COMMIT_RECEIPTS or time.monotonic() - last >= COMMIT_SECONDS:
                _commit(group, job)
                group, last = [], time.monotonic()
    finally:
        _commit(group, job)
        progress.close()
    return made


def _commit(group: Sequence[Receipt], job: InferenceJob) -> None:
    if group:
        spec = job.spec
        schema, options = spec.inquiry.schema, spec.storage_options
        tables.commit(spec.table_uri, group, run_id=job.run_id, schema=schema, storage_options=options)
