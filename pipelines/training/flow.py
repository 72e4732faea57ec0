"""The order of training, on one screen.

    settle ─ check record ─▶ Ray ─▶ one group of workers: stage after stage, each from the last one's model ─▶ report

Stages that are done are skipped; one that was interrupted goes on from its newest complete checkpoint. What this does
*not* do: touch a tensor (`loop`).
"""

import dataclasses
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from llava_core.errors import ConfigError, TesseraError
from pipelines import metrics, record, runtime
from pipelines.cli import Say, own_cause, render_lines
from pipelines.errors import StalledError
from pipelines.progress import Progress, duration
from pipelines.storage import is_local, join_uri, write_json
from pipelines.training.config import TrainConfig
from pipelines.training.errors import TrainingStopped
from pipelines.training.job import TrainJob, check_record, remove_changed, settle
from pipelines.training.loop import StageWork, run_stage
from pipelines.training.report import write_report

log = logging.getLogger(__name__)

_POLL_S = 0.5


def train(config: TrainConfig, say: Say) -> None:
    """Train through a recipe's stages; what earlier calls did is not done again.

    Args:
        config: of the job.
        say: where lines for people go.

    Raises:
        ConfigError, CheckpointRefused: before any cluster work.
        TrainingStopped: training cannot go on; the same command resumes it.
        StalledError: no step came for `config.stall_timeout`.
    """
    job = settle(config)
    check_record(job)
    missing = job.missing
    if not missing:
        say(f"all stages are done; the model is in {join_uri(job.output, 'model')}")
        return
    nodes = runtime.start_ray(config.ray_address)
    scaling, workers = scale(config, nodes, missing)
    remove_changed(job)
    write_record(job, "running")
    for work in missing:
        rows = sum(index.num_rows for index in work.inputs)
        say(f"stage {work.stage.name}: {rows:,} rows, {', '.join(sorted(work.stage.trainable))} train")
    began = time.monotonic()
    try:
        run_workers(job, missing, scaling, workers, say)
    except BaseException:
        write_record(job, "failed")
        report(job)
        raise
    write_record(job, "complete")
    seconds = duration(time.monotonic() - began)
    say(render_lines({"trained in": seconds, "model": join_uri(job.output, "model"), "report": report(job)}))


def report(job: TrainJob) -> str:
    """Write the page of the run, and say where it is."""
    folders = {work.stage.name: work.output for work in job.works}
    return write_report(job.output, folders, job.settings["stages"], job.options)


def scale(
    config: TrainConfig, nodes: Sequence[runtime.Node], works: Sequence[StageWork]
) -> tuple[ScalingConfig, runtime.WorkerPlan]:
    """How many workers, and what each asks Ray for.

    Raises:
        ConfigError: the cluster cannot hold them, or a stage's batch cannot be shared out evenly.
    """
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = float(any(node.gpus >= 1 for node in nodes))
    wanted = config.num_workers or (None if gpus else 1)
    plan = runtime.plan_workers(wanted, nodes, gpus_per_worker=gpus)
    for work in works:
        batch = work.stage.batch_size
        if config.min_workers is None and batch % plan.num_actors:
            raise ConfigError(
                f"stage {work.stage.name} has {batch} samples a step, which {plan.num_actors} workers cannot share "
                "evenly; change --num-workers or --batch-size"
            )
    resources = {"CPU": plan.num_cpus} | ({"GPU": plan.num_gpus} if plan.num_gpus else {})
    number: Any = plan.num_actors if config.min_workers is None else (config.min_workers, plan.num_actors)
    scaling = ScalingConfig(num_workers=number, use_gpu=bool(plan.num_gpus), resources_per_worker=resources)
    return scaling, plan


class Board:
    """An actor: where the first worker writes what the driver shows, and why workers stopped."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.stopped: TesseraError | None = None

    def post(self, values: Mapping[str, Any]) -> None:
        """Take a step's values."""
        self.values = dict(values)

    def stop(self, error: TesseraError) -> None:
        """Take the reason for which workers stopped."""
        self.stopped = self.stopped or error

    def read(self) -> tuple[dict[str, Any], TesseraError | None]:
        """The newest step's values, and why workers stopped, if they did."""
        return self.values, self.stopped


def run_workers(
    job: TrainJob, works: Sequence[StageWork], scaling: ScalingConfig, workers: runtime.WorkerPlan, say: Say
) -> None:
    """Run stages on a group of workers, and show how they get on."""
    remote: Any = ray.remote(num_cpus=0)(Board)
    board = remote.remote()
    gpu = bool(scaling.use_gpu)
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        folders = [work.output if is_local(work.output) else f"{scratch}/{work.stage.name}" for work in works]
        placed = [dataclasses.replace(work, folder=one) for work, one in zip(works, folders, strict=True)]
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"works": placed, "board": board, "threads": workers.threads},
            scaling_config=scaling,
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            run_config=RunConfig(
                name="train",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=job.config.max_failures),
            ),
        )
        failure = _fit(trainer, board, job.config.stall_timeout, say)
    stopped: TesseraError | None = ray.get(board.read.remote())[1]
    ray.kill(board)
    if stopped is not None:
        raise stopped
    if failure is not None:
        own = own_cause(failure)
        raise (
            own
            if own is not None
            else TrainingStopped(f"workers died and {job.config.max_failures} new starts did not help: {failure}")
        ) from failure


def _fit(trainer: TorchTrainer, board: Any, timeout: float, say: Say) -> BaseException | None:
    """Run the trainer in a thread, and show each step; what it raised, if it did."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=fit, name="fit", daemon=True)
    thread.start()
    bar: Progress | None = None
    shown: tuple[str, int] = ("", 0)
    last = time.monotonic()
    while thread.is_alive():
        thread.join(_POLL_S)
        values, _ = ray.get(board.read.remote())
        at = (str(values.get("stage", "")), int(values.get("step", 0)))
        if at == shown:
            if time.monotonic() - last > timeout:
                raise StalledError(f"no step came back within {duration(timeout)}")
            continue
        last = time.monotonic()
        metrics.report_step(values)
        if at[0] != shown[0]:
            bar = _next_bar(bar, values, say)
        if bar is not None:
            bar.add(at[1] - (shown[1] if at[0] == shown[0] else at[1] - 1))
        shown = at
    if bar is not None:
        bar.close()
    return failure[0] if failure else None


def _next_bar(bar: Progress | None, values: Mapping[str, Any], say: Say) -> Progress:
    """A bar for a stage that has begun; its length is estimated from what its first steps took."""
    if bar is not None:
        bar.close()
    say(f"stage {values['stage']}")
    total = max(round(values["step"] / max(values["done"], 1e-9)), values["step"])
    return Progress(total, done=int(values["step"]) - 1, unit="steps")


def train_worker(config: dict[str, Any]) -> None:
    """One worker of Ray Train: all stages, one after the other."""
    torch.set_num_threads(config["threads"])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    device = ray.train.torch.get_device()
    board, works = config["board"], config["works"]
    first = ray.train.get_context().get_world_rank() == 0
    try:
        for work in works:
            run_stage(work, device, board.post.remote if first else None)
    except (TrainingStopped, ConfigError) as error:
        # All workers meet it together; starting them again would not help.
        ray.get(board.stop.remote(error))


def write_record(job: TrainJob, status: str) -> None:
    """Write what the run is, and how it stands."""
    values = {
        "job": "train",
        "status": status,
        "settings": job.settings,
        "data": job.data,
        "identities": {work.stage.name: work.identity for work in job.works},
        "versions": record.run_versions(),
        "config": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(job.config).items()},
        "at": record.now_utc(),
    }
    write_json(job.record_uri, values, job.options)
