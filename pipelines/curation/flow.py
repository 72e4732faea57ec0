"""The order of curation, on one screen.

    freeze ─ lease ─ probe ─▶ scores ─ dedupe ─▶ clusters ─ select, balance ─▶ selection ─ shard ─▶ shards ─ report

Each stage is a committed table and does only what is missing; images are read by the probe and for shards, and by
nothing between. What this does *not* do: touch an image or a measurement.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import ray

from llava_core.errors import ConfigError
from pipelines import accounts, runtime, tables
from pipelines.cli import Say
from pipelines.commits import commit_in_groups
from pipelines.curation.cluster_stage import Clustered, ClusterWork, cluster_stage
from pipelines.curation.config import CurateConfig
from pipelines.curation.decisions import Decided, decide, write_shards
from pipelines.curation.finish import begin_record, finish, is_settled, say_settled
from pipelines.curation.job import CurateJob, freeze
from pipelines.curation.lease import Lease
from pipelines.curation.pages import Runs, write_diff, write_report
from pipelines.curation.plan import say_plan
from pipelines.curation.probe_stage import ProbeSpec, stream_probed
from pipelines.curation.retry import rejected_rows
from pipelines.curation.shard_stage import Sharded
from pipelines.fragments import Fragment, total_rows
from pipelines.known_rows import count_known, find_known, find_noted, note_rows
from pipelines.parts import Receipt
from pipelines.progress import Progress, watched
from schemas.score import SCORE

T = TypeVar("T")


def curate_corpus(config: CurateConfig, say: Say) -> None:
    """Curate a corpus into an output folder; what earlier calls did is not done again.

    Args:
        config: of the job.
        say: where lines for people go.

    Raises:
        ConfigError, CheckpointRefused, TableError: before any cluster work.
        LeaseError: another run is writing into the same folder.
        AccountingError: at the end, if rows in are not rows out.
        StalledError: nothing came back for `config.stall_timeout`.
    """
    job = freeze(config)
    if config.plan:
        say_plan(job, missing_fragments(job.fragments, job.probe), say)
        return
    if not config.diff and is_settled(job):
        say_settled(job, say)
        return
    if config.diff:
        check_measured(job)
    with Lease(job.output, job.options) as lease:
        nodes = runtime.start_ray(config.ray_address)
        if config.diff:
            say("\n".join(on_worker(write_diff, job, cluster_work(job))))
            return
        begin_record(job)
        started = time.monotonic()
        new_rows = probe(job.fragments, job.probe, nodes, config, say)
        if job.references:
            probe(job.references, job.reference_probe, nodes, config, say, what="evaluation images")
        lease.check()
        clustered: Clustered = on_worker(cluster_stage, cluster_work(job))
        how = "matched against the index" if clustered.incremental else "clustered"
        say(f"dedupe: {clustered.fresh:,} new rows {how}")
        if clustered.search:
            say(f"dedupe: {clustered.search}")
        lease.check()
        decided: Decided = on_worker(decide, job, clustered.run_id)
        for line in decided.changes:
            say(f"select: {line}")
        lease.check()
        sharded: Sharded = on_worker(write_shards, job)
        say(f"shards: {sharded.shards:,}, {sharded.written:,} of them written by this call")
        on_worker(write_report, job, Runs(scores=job.run_id, clusters=clustered.run_id))
        finish(job, decided, new_rows=new_rows, seconds=time.monotonic() - started, say=say)


def probe(
    fragments: Sequence[Fragment],
    spec: ProbeSpec,
    nodes: Sequence[runtime.Node],
    config: CurateConfig,
    say: Say,
    *,
    what: str = "rows",
) -> int:
    """Bring a table of scores to a corpus: probe the rows that are new or changed, take out what is gone.

    Where `config.retry_rejected` says so, rows that were rejected before this call are probed again.

    Returns:
        Rows that were probed.
    """
    tables.create_table(spec.table_uri, SCORE, storage_options=spec.storage_options)
    run_id, options = spec.settings.run_id, spec.storage_options
    missing = missing_fragments(fragments, spec)
    stale = stale_fragments(fragments, spec)
    again = rejected_rows(fragments, spec) if config.retry_rejected else {}
    rows_in, left, rejected = total_rows(fragments), total_rows(missing), sum(map(len, again.values()))
    known = find_known(
        spec.table_uri, run_id, missing, take_rejected=not config.retry_rejected, storage_options=options
    )
    to_do = left - count_known(known)
    if missing:
        workers = _workers(nodes, config)
        note_rows(spec.table_uri, run_id, fragments, storage_options=options)
        say(f"probe: {rows_in:,} {what}, {to_do:,} of them to do, by {workers.num_actors} worker(s); run {run_id}")
        collect(stream_probed(missing, spec, workers, known), spec, Progress(rows_in, done=rows_in - left), config)
    if again:
        say(f"probe: {rejected:,} rejected {what} are probed again")
        sent = [fragment for fragment in fragments if fragment.fragment_id in again]
        receipts = stream_probed(sent, spec, _workers(nodes, config), only=again)
        collect(receipts, spec, Progress(rows_in, done=rows_in - rejected), config, again)
    if stale:
        tables.commit(spec.table_uri, (), run_id=run_id, schema=SCORE, stale=stale, storage_options=options)
        say(f"probe: {len(stale)} fragment(s) of files that changed or went were taken out")
    return to_do + rejected


def missing_fragments(fragments: Sequence[Fragment], spec: ProbeSpec) -> list[Fragment]:
    """Those that are not yet in the table for this run."""
    names = [fragment.fragment_id for fragment in fragments]
    done = tables.committed_fragments(spec.table_uri, spec.settings.run_id, names, storage_options=spec.storage_options)
    return [fragment for fragment in fragments if fragment.fragment_id not in done]


def stale_fragments(fragments: Sequence[Fragment], spec: ProbeSpec) -> set[str]:
    """Those in the table for this run that are not planned; the notes know them where the table was compacted."""
    run_id, place = spec.settings.run_id, {"storage_options": spec.storage_options}
    table = tables.open_table(spec.table_uri, **place)
    live = set() if table is None else tables.live_fragments(table, run_id)
    others = (live | find_noted(spec.table_uri, run_id, **place)) - {fragment.fragment_id for fragment in fragments}
    return tables.committed_fragments(spec.table_uri, run_id, others, **place)


def check_measured(job: CurateJob) -> None:
    """Raise `ConfigError` where these settings ask for measurements that the tables lack: a diff reads no image."""
    if job.rows_in and not accounts.counts(job.table("scores"), job.run_id, storage_options=job.options).rows:
        raise ConfigError(
            f"--diff: no row of {job.table('scores')} was measured with these settings (--model, --limit, --scorers, "
            "--quality, --source-key, --flagged-words and how the corpus is read are part of it); run without --diff"
        )
    if missing_fragments(job.references, job.reference_probe):
        raise ConfigError("--diff: the evaluation images of --against are not measured yet; run without --diff")


def collect(
    receipts: Iterable[Receipt],
    spec: ProbeSpec,
    progress: Progress,
    config: CurateConfig,
    again: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Commit receipts in groups as they come; what has come is committed whatever ends the stream.

    Args:
        receipts: as they come.
        spec: of the probe.
        progress: where a person sees it.
        config: of the job.
        again: by fragment, the rejected rows whose place the receipts take.
    """

    def hear(receipt: Receipt) -> None:
        progress.add(receipt.rows, rejected=receipt.rows - receipt.ok)

    coming = watched(receipts, deadline_s=config.stall_timeout)
    try:
        commit_in_groups(coming, hear, lambda group: _commit(group, spec, again))
    finally:
        progress.close()


def on_worker(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a process of the cluster: it may take memory, or decode images."""
    remote: Any = ray.remote(num_cpus=0)
    found: T = ray.get(remote(function).remote(*arguments))
    return found


def cluster_work(job: CurateJob) -> ClusterWork:
    """What the stage that deduplicates gets."""
    probed = [(job.reference_probe.table_uri, job.reference_probe.settings.run_id)] if job.references else []
    return ClusterWork(
        scores_uri=job.table("scores"),
        scores_run=job.run_id,
        clusters_uri=job.table("clusters"),
        config=job.config.dedupe,
        references=(*probed, *job.reference_tables),
        vetoes=job.overrides.not_duplicate,
        storage_options=job.options,
    )


def _workers(nodes: Sequence[runtime.Node], config: CurateConfig) -> runtime.WorkerPlan:
    return runtime.plan_workers(config.num_workers or max(1, int(sum(node.cpus for node in nodes))), nodes)


def _commit(group: Sequence[Receipt], spec: ProbeSpec, again: Mapping[str, Sequence[int]] | None) -> None:
    """Commit receipts: in place of as many rejected rows as were probed again, if any were."""
    run_id, options = spec.settings.run_id, spec.storage_options
    if again:
        expected = {name: len(rows) for name, rows in again.items()}
        tables.amend(spec.table_uri, group, run_id=run_id, schema=SCORE, expected=expected, storage_options=options)
    else:
        tables.commit(spec.table_uri, group, run_id=run_id, schema=SCORE, storage_options=options)
