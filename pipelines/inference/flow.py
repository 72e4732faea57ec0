"""The order of a captioning job, on one screen.

    freeze ─ (--plan: a sample, and stop) ─ missing fragments ─▶ actors ─▶ receipts ─▶ commits ─ gallery, counts

What this does *not* do: touch an image. The driver sees fragments and receipts; workers see rows.
"""

import time
from collections.abc import Iterable, Sequence

from pipelines import runtime, tables
from pipelines.cli import Say
from pipelines.fragments import Fragment, total_rows
from pipelines.inference.config import CaptionConfig
from pipelines.inference.finish import begin_record, finish, is_settled, say_settled, stale_fragments
from pipelines.inference.job import CaptionJob, freeze, missing_fragments
from pipelines.inference.plan import say_plan
from pipelines.inference.stage import stream_receipts
from pipelines.parts import Receipt
from pipelines.progress import Progress, watched
from schemas.caption import CAPTION

COMMIT_RECEIPTS, COMMIT_SECONDS = 8, 2.0
"""A group of receipts is committed when it is this large, or when the last commit is this long ago."""


def caption_corpus(config: CaptionConfig, say: Say) -> None:
    """Caption a corpus into a table; what earlier calls committed is not done again.

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
    missing = missing_fragments(job)
    stale = stale_fragments(job)
    if not config.plan:
        tables.create_table(job.spec.table_uri, CAPTION, storage_options=job.spec.storage_options)
        if not missing and not stale and is_settled(job, overwrite=config.overwrite):
            return say_settled(job, say)
    nodes = runtime.start_ray(config.ray_address)
    workers = runtime.plan_workers(config.num_workers, nodes, gpus_per_worker=config.gpus_for(nodes))
    if config.plan:
        return say_plan(job, missing, workers, say)
    to_do = total_rows(missing)
    say(f"{job.rows_in:,} rows, {to_do:,} of them to do, by {workers.num_actors} worker(s); run {job.run_id}")
    begin_record(job, config)
    started = time.monotonic()
    if missing:
        collect(stream_receipts(missing, job.spec, workers), job, missing, config.stall_timeout)
    seconds = time.monotonic() - started
    return finish(job, config, stale=stale, new_rows=to_do, seconds=seconds, say=say)


def collect(receipts: Iterable[Receipt], job: CaptionJob, sent: Sequence[Fragment], stall_timeout: float) -> None:
    """Commit receipts in groups as they come; what has come is committed whatever ends the stream."""
    progress = Progress(job.rows_in, done=job.rows_in - total_rows(sent))
    group: list[Receipt] = []
    last = time.monotonic()
    try:
        for receipt in watched(receipts, deadline_s=stall_timeout):
            progress.add(receipt.rows, rejected=receipt.rows - receipt.ok)
            group.append(receipt)
            if len(group) >= COMMIT_RECEIPTS or time.monotonic() - last >= COMMIT_SECONDS:
                _commit(group, job)
                group, last = [], time.monotonic()
    finally:
        _commit(group, job)
        progress.close()


def _commit(group: Sequence[Receipt], job: CaptionJob) -> None:
    if group:
        options = job.spec.storage_options
        tables.commit(job.spec.table_uri, group, run_id=job.run_id, schema=CAPTION, storage_options=options)
