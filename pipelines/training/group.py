"""A group of workers under Ray Train, and the actor by which driver and workers talk while it trains.

    driver ─ TorchTrainer ─▶ train_worker × n ─ each step's values ─▶ Board ─▶ progress bar
           ─ SIGTERM ─▶ Board ─▶ the first worker              why workers stopped ◀─ Board

What this does *not* do: settle what is trained (`job`), touch a tensor (`loop`).
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llava_core.errors import ConfigError, TesseraError
from pipelines import metrics, runtime
from pipelines.cli import Say, own_cause
from pipelines.errors import StalledError, StoppedError
from pipelines.progress import Progress, duration
from pipelines.stopping import Stopping
from pipelines.storage import is_local
from pipelines.training.calls import LONGEST_S, Calls, never
from pipelines.training.config import TrainConfig
from pipelines.training.errors import TrainingStopped
from pipelines.training.loop import StageWork, run_stage

log = logging.getLogger(__name__)

_POLL_S = 0.5


class Board:
    """An actor: where the first worker writes what the driver shows, why workers stopped, and that they are to stop."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.measured: list[dict[str, Any]] = []
        self.beats = 0
        self.stopped: TesseraError | None = None
        self.asked = asyncio.Event()

    async def ask_to_stop(self) -> None:
        """Let workers save what they have and stop."""
        self.asked.set()

    async def until_asked(self) -> None:
        """Come back once workers are to stop."""
        await self.asked.wait()

    async def post(self, values: Mapping[str, Any]) -> None:
        """Take a step's values."""
        self.values = dict(values)

    async def measure(self, values: Mapping[str, Any]) -> None:
        """Take a step's values, and keep them."""
        self.values = dict(values)
        self.measured.append(self.values)

    async def beat(self) -> None:
        """Take word that the first worker is at work, although no step ends."""
        self.beats += 1

    async def all_measured(self) -> list[dict[str, Any]]:
        """Every step's values that were to be kept."""
        return self.measured

    async def stop(self, error: TesseraError) -> None:
        """Take the reason for which workers stopped."""
        self.stopped = self.stopped or error

    async def read(self) -> tuple[dict[str, Any], TesseraError | None, int]:
        """The newest step's values; why workers stopped, if they did; and how often they were at work without one."""
        return self.values, self.stopped, self.beats


def run_workers(
    config: TrainConfig, works: Sequence[StageWork], scaling: ScalingConfig, workers: runtime.WorkerPlan, say: Say
) -> list[dict[str, Any]]:
    """Run stages on a group of workers, and show how they get on.

    Args:
        config: of the job.
        works: the stages.
        scaling: of the group.
        workers: each of it.
        say: where lines for people go.

    Returns:
        Each step's values of stages that are only measured (`StageWork.measure`).

    Raises:
        TesseraError: why training stopped, whoever met it.
    """
    # beside the driver, so that it outlives the machines of workers
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    remote: Any = ray.remote(num_cpus=0)(Board)
    board = remote.options(scheduling_strategy=here).remote()
    gpu = bool(scaling.use_gpu)
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        folders = [work.output if is_local(work.output) else f"{scratch}/{work.stage.name}" for work in works]
        placed = [dataclasses.replace(work, folder=one) for work, one in zip(works, folders, strict=True)]
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"works": placed, "board": board, "threads": workers.threads},
            scaling_config=scaling,
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=int(LONGEST_S)),
            run_config=RunConfig(
                name="train",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=config.max_failures),
            ),
        )
        with Stopping() as stopping, stopping.noted():
            failure = _fit(trainer, board, config.stall_timeout, say, stopping, bars=works[0].measure is None)
    stopped: TesseraError | None = ray.get(board.read.remote())[1]
    measured: list[dict[str, Any]] = ray.get(board.all_measured.remote())
    ray.kill(board)
    if stopped is not None:
        raise stopped
    if failure is not None:
        own = own_cause(failure)
        raise (
            own
            if own is not None
            else TrainingStopped(f"workers died and {config.max_failures} new starts did not help: {failure}")
        ) from failure
    return measured


def _fit(
    trainer: TorchTrainer, board: Any, timeout: float, say: Say, stopping: Stopping, *, bars: bool
) -> BaseException | None:
    """Run the trainer in a thread, show each step, and pass SIGTERM on to it; what it raised, if it did."""
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
    heard = 0
    last, told = time.monotonic(), False
    while thread.is_alive():
        thread.join(_POLL_S)
        values, _, beats = ray.get(board.read.remote())
        if stopping.asked and not told:
            told = _pass_on(board, values, say)
        at = (str(values.get("stage", "")), int(values.get("step", 0)))
        if beats != heard:
            last, heard = time.monotonic(), beats
            if bar is not None:
                bar.alive()
        if at == shown:
            if time.monotonic() - last > timeout:
                raise StalledError(f"no step came back within {duration(timeout)}")
            continue
        last = time.monotonic()
        metrics.report_step(values)
        if at[0] != shown[0] and bars:
            bar = _next_bar(bar, values, say)
        if bar is not None:
            bar.add(at[1] - (shown[1] if at[0] == shown[0] else at[1] - 1))
        shown = at
    if bar is not None:
        bar.close()
    return failure[0] if failure else None


def _pass_on(board: Any, values: Mapping[str, Any], say: Say) -> bool:
    """Tell workers to stop; those that have not finished a step have nothing to save, and are not waited for."""
    if not values:
        raise StoppedError("asked to stop (SIGTERM) before a step was finished; the same command begins again")
    say("asked to stop: the workers finish their step, save it and end")
    ray.get(board.ask_to_stop.remote())
    return True


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
    calls = Calls(
        stopping=_listen(board) if first else never,
        leaving=_Leaving(),
        beat=board.beat.remote if first else None,
    )
    try:
        for work in works:
            post = board.post if work.measure is None else board.measure
            run_stage(work, device, post.remote if first else None, calls)
    except (TrainingStopped, ConfigError, StoppedError) as error:
        # All workers meet it together; starting them again would not help.
        ray.get(board.stop.remote(error))


def _listen(board: Any) -> Callable[[], bool]:
    """Wait in a thread until workers are to stop; whether that has come."""
    asked = threading.Event()

    def wait() -> None:
        # The board is gone once the driver is done with it.
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(board.until_asked.remote())
            asked.set()

    threading.Thread(target=wait, name="listen", daemon=True).start()
    return asked.is_set


class _Leaving:
    """Whether Ray Train has heard of another machine of the group that is about to go."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self) -> bool:
        info = ray.train.get_preemption_info()
        new = set(info.preempted_node_ids if info else ()) - self._known
        if new:
            log.warning("nodes %s are about to go: a checkpoint is saved now", ", ".join(sorted(new)))
        self._known |= new
        return bool(new)
