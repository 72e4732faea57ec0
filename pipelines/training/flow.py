"""The order of training, on one screen.

    settle ─ check record ─▶ Ray ─▶ one group of workers: stage after stage, each from the last one's model ─▶ report

Stages that are done are skipped; one that was interrupted goes on from its newest complete checkpoint. What this does
*not* do: touch a tensor (`loop`).
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from ray.train import ScalingConfig

from llava_core.errors import ConfigError
from pipelines import record, runtime
from pipelines.cli import Say, render_lines
from pipelines.errors import StoppedError
from pipelines.progress import duration
from pipelines.storage import join_uri, write_json
from pipelines.training.config import TrainConfig
from pipelines.training.group import run_workers
from pipelines.training.job import TrainJob, check_record, recorded, remove_changed, settle
from pipelines.training.loop import StageWork
from pipelines.training.plan import say_plan
from pipelines.training.report import write_report


def train(config: TrainConfig, say: Say) -> None:
    """Train through a recipe's stages; what earlier calls did is not done again.

    Args:
        config: of the job.
        say: where lines for people go.

    Raises:
        ConfigError, CheckpointRefused: before any cluster work.
        TrainingStopped: training cannot go on; the same command resumes it.
        StalledError: no step came for `config.stall_timeout`.
        StoppedError: SIGTERM; the step in which it came is saved, and the same command goes on from there.
    """
    job = settle(config)
    check_record(job)
    missing = job.missing
    if not missing:
        say(f"all stages are done; the model is in {join_uri(job.output, 'model')}")
        return
    nodes = runtime.start_ray(config.ray_address)
    scaling, workers = scale(config, nodes, missing)
    if config.plan:
        say_plan(config, missing, scaling, workers, say)
        return
    remove_changed(job, missing)
    write_record(job, "running")
    for work in missing:
        rows = sum(index.num_rows for index in work.inputs)
        say(f"stage {work.stage.name}: {rows:,} rows, {', '.join(sorted(work.stage.trainable))} train")
    began = time.monotonic()
    try:
        run_workers(config, missing, scaling, workers, say)
    except BaseException as error:
        write_record(job, "stopped" if isinstance(error, StoppedError) else "failed")
        report(job)
        raise
    write_record(job, "complete")
    seconds = duration(time.monotonic() - began)
    (written,) = job.works[-1].export.items()
    model = f"{written[0]}, layout {written[1]}"
    say(render_lines({"trained in": seconds, "model": model, "report": report(job)}))


def report(job: TrainJob) -> str:
    """Write the page of the run, and say where it is."""
    folders = {work.stage.name: work.output for work in job.works}
    return write_report(job.output, folders, job.settings["stages"], job.options)


def scale(
    config: TrainConfig, nodes: Sequence[runtime.Node], works: Sequence[StageWork]
) -> tuple[ScalingConfig, runtime.WorkerPlan]:
    """How many workers, and what each asks Ray for.

    With `min_workers`, those that the cluster has room for now, down to so many; Ray Train adds the others later.

    Raises:
        ConfigError: the cluster cannot hold them, or a stage's batch cannot be shared out evenly.
    """
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = float(any(node.gpus >= 1 for node in nodes))
    room = runtime.room_for_workers(nodes, gpus)
    wanted = config.num_workers or (max(room, 1) if gpus else 1)
    least = config.min_workers
    if least is not None and least > wanted:
        raise ConfigError(
            f"--min-workers is {least}, and without --num-workers there would be {wanted}: one for each GPU, or one in "
            "all without; give --num-workers"
        )
    now = wanted if least is None else max(least, min(wanted, room))
    plan = runtime.plan_workers(now, nodes, gpus_per_worker=gpus)
    for work in works:
        batch = work.stage.batch_size
        if least is None and batch % plan.num_actors:
            raise ConfigError(
                f"stage {work.stage.name} has {batch} samples a step, which {plan.num_actors} workers cannot share "
                "evenly; change --num-workers or --batch-size"
            )
    resources = {"CPU": plan.num_cpus} | ({"GPU": plan.num_gpus} if plan.num_gpus else {})
    number: Any = wanted if least is None else (least, wanted)
    scaling = ScalingConfig(num_workers=number, use_gpu=bool(plan.num_gpus), resources_per_worker=resources)
    return scaling, plan


def write_record(job: TrainJob, status: str) -> None:
    """Write what the run is, and how it stands; stages of an earlier run stay named, whose folders are still there."""
    earlier = (recorded(job) or {}).get("identities", {})
    values = {
        "job": "train",
        "status": status,
        "settings": job.settings,
        "data": job.data,
        "identities": {**earlier, **{work.stage.name: work.identity for work in job.works}},
        "versions": record.run_versions(),
        "config": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(job.config).items()},
        "at": record.now_utc(),
    }
    write_json(job.record_uri, values, job.options)
