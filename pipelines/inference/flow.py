"""The order of a job that runs a model over a corpus, on one screen; what is asked is the inquiry's.

    freeze ─ (--plan: a sample, and stop) ─ missing work ─▶ actors ─▶ receipts ─▶ commits ─ pages, counts

What this does *not* do: touch an image. The driver sees work and receipts; workers see rows.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines import runtime, tables
from pipelines.cli import Say
from pipelines.commits import commit_in_groups
from pipelines.inference import vllm_environment
from pipelines.inference.config import InferenceConfig
from pipelines.inference.finish import begin_record, finish, is_settled, say_settled, stale_fragments
from pipelines.inference.job import InferenceJob, freeze, missing_works, note_works, with_known
from pipelines.inference.plan import say_plan
from pipelines.inference.retry import rejected_works
from pipelines.inference.stage import stream_inferred
from pipelines.inference.work import Work, total_rows
from pipelines.parts import Receipt
from pipelines.progress import Progress, watched
from pipelines.stopping import Stopping


def run_job(config: InferenceConfig, say: Say) -> None:
    """Run a model over a corpus into a table; what earlier calls committed is not done again.

    Args:
        config: of the job.
        say: where lines for people go.

    Raises:
        ConfigError, CheckpointRefused, TableError: before any cluster work.
        AccountingError: at the end, if rows in are not rows out.
        StalledError: nothing came back for `config.stall_timeout`, and no worker gave a sign of life.
        StoppedError: SIGTERM came; what was finished is committed.
    """
    job = freeze(config)
    say(job.model_line)
    missing = missing_works(job)
    stale = stale_fragments(job)
    again = rejected_works(job) if config.retry_rejected and not config.plan else []
    if not config.plan:
        tables.create_table(job.spec.table_uri, job.spec.inquiry.schema, storage_options=job.spec.storage_options)
        if not missing and not stale and not again and is_settled(job, overwrite=config.overwrite):
            return say_settled(job, say)
    nodes = runtime.start_ray(config.ray_address)
    workers = runtime.plan_workers(config.num_workers, nodes, gpus_per_worker=config.gpus_for(nodes))
    if config.engine == "vllm":
        say(f"vllm {vllm_environment.check_cluster(workers)} in an environment of its own")
    if config.plan:
        return say_plan(job, missing, workers, config, say)
    missing = with_known(job, missing, take_rejected=not config.retry_rejected)
    to_do = total_rows(missing) - sum(work.num_known for work in missing)
    least = "" if job.exact else "at least "
    say(f"{least}{job.rows_in:,} rows, {least}{to_do:,} of them to do, by {workers.num_actors} worker(s)")
    say(f"run {job.run_id}")
    begin_record(job, config)
    note_works(job)
    started = time.monotonic()
    made = 0
    with Stopping() as stopping:
        for sent in (missing, again):
            if sent and sent is again:
                say(f"{total_rows(sent):,} rejected rows are made again")
            if sent:
                progress = progress_of(job, sent)
                receipts = stream_inferred(sent, job.spec, workers, progress.note)
                made += collect(receipts, job, sent, config.stall_timeout, stopping, progress)
    seconds = time.monotonic() - started
    return finish(job, config, stale=stale, new_rows=made, seconds=seconds, say=say)


def collect(
    receipts: Iterable[Receipt],
    job: InferenceJob,
    sent: Sequence[Work],
    stall_timeout: float,
    stopping: Stopping | None = None,
    progress: Progress | None = None,
) -> int:
    """Commit receipts in groups as they come; what has come is committed whatever ends the stream.

    Args:
        receipts: of the work that was sent.
        job: whose they are.
        sent: the work; where it makes rejected rows again, the receipts take their place.
        stall_timeout: seconds without a receipt, or a note in `progress`, after which the job gives up.
        stopping: what turns SIGTERM into an error, which no commit is cut short by.
        progress: where a person sees it; a line of its own by default.

    Returns:
        Rows that came, without those that were taken over.
    """
    stopping = stopping or Stopping()
    known = {work.work_id: work.num_known for work in sent}
    rejected = {work.work_id: len(work.only) for work in sent if work.only}
    planned = {work.work_id: work.num_rows for work in sent if not work.exact}
    progress = progress or progress_of(job, sent)
    made = 0

    def hear(receipt: Receipt) -> None:
        nonlocal made
        taken_over = known.get(receipt.fragment_id, 0)
        made += receipt.rows - taken_over
        done = planned.get(receipt.fragment_id, receipt.rows) - taken_over
        progress.add(done, rejected=receipt.rows - receipt.ok)

    coming = watched(receipts, deadline_s=stall_timeout, idle=lambda: progress.idle)
    try:
        commit_in_groups(coming, hear, lambda group: _commit(group, job, rejected), stopping.held)
    finally:
        progress.close()
    return made


def progress_of(job: InferenceJob, sent: Sequence[Work]) -> Progress:
    """The line that a person sees while some work of a job is done."""
    to_do = total_rows(sent) - sum(work.num_known for work in sent)
    return Progress(job.rows_in, done=job.rows_in - to_do, unit=job.spec.inquiry.unit)


def _commit(group: Sequence[Receipt], job: InferenceJob, rejected: Mapping[str, int]) -> None:
    """Commit receipts: in place of as many rejected rows as were made again, if any were."""
    spec = job.spec
    place: dict[str, Any] = {"schema": spec.inquiry.schema, "storage_options": spec.storage_options}
    if rejected:
        tables.amend(spec.table_uri, group, run_id=job.run_id, expected=rejected, **place)
    else:
        tables.commit(spec.table_uri, group, run_id=job.run_id, **place)
