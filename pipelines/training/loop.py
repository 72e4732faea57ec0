"""One stage on one worker: load, run, step, watch, save; the same code alone, under Ray Train and in a test.

    Step ─ rounds ─▶ sums of losses ─ divided by the whole step's counts ─▶ backward ─ clip ─▶ optimiser ─▶ next cursor

Everything that decides numbers is a function of the settings and the step: a run that was killed and goes on computes
what one in a single go computes, bit by bit, on the same workers. What this does *not* do: start workers (`flow`).
"""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_core.checkpoints import Layout
from llava_core.errors import ConfigError
from pipelines.storage import is_local, join_uri
from pipelines.training.calls import Calls, stopped
from pipelines.training.checkpoint import Checkpoints, seed_all
from pipelines.training.data import Cursor, StepStream, cursor_from
from pipelines.training.distributed import everyone, from_first, grad_norm, shard, total_of, world
from pipelines.training.errors import TrainingStopped
from pipelines.training.export import fetch_files, finish_stage, open_model, unwritten, upload_folder, write_again
from pipelines.training.loader import Loader, Step
from pipelines.training.module import TrainModule, extra_losses
from pipelines.training.optimizer import add_adapters, freeze, make_optimizer, rate_at, set_rates, trainable
from pipelines.training.packing import cost_of
from pipelines.training.samples import Sampler, Unusable, stage_processor
from pipelines.training.sources import SourceIndex, open_source
from pipelines.training.stages import Stage
from pipelines.training.watch import METRICS, REJECTED, Alarm, Meter, peak_flops, step_flops

log = logging.getLogger(__name__)

Post = Callable[[Mapping[str, Any]], None]
"""Takes each step's values, for a progress bar."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageWork:
    """One stage as a worker gets it."""

    stage: Stage
    """What to train, and how."""
    number: int
    """Place of the stage in the run, from 0; its random numbers depend on it."""
    model: str
    """What it begins with: a folder, a URI or a name."""
    inputs: tuple[SourceIndex, ...]
    """What it reads."""
    output: str
    """Its folder: checkpoints, metrics and its model."""
    identity: str
    """Names everything that changes a number; see `flow`."""
    seed: int
    """Of the run."""
    export: dict[str, Layout] = field(default_factory=dict)
    """Folder → layout, written beside the stage's own model when it ends."""
    ends_recipe: bool = False
    """The last stage at its full length: a model that began with random weights is trained when it ends."""
    measure: int | None = None
    """Steps after which the stage ends without a model: it is only measured. None trains it."""
    checkpoint_steps: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Complete checkpoints that stay."""
    loader_threads: int = 2
    """Threads that decode, on each worker."""
    skip: tuple[str, ...] = ()
    """Ids of samples to leave out; no part of the identity, so that a run that stopped at them goes on."""
    storage_options: dict[str, str] = field(default_factory=dict)
    """Of the stores."""
    folder: str = ""
    """Local folder of the metrics."""

    @property
    def own_model(self) -> str:
        """Where the stage's model goes."""
        return join_uri(self.output, "model")

    @property
    def targets(self) -> dict[str, Layout]:
        """Folder → layout of all that the stage ends with, its own model last."""
        return {**self.export, self.own_model: "own"}


def run_stage(work: StageWork, device: torch.device, post: Post | None = None, calls: Calls | None = None) -> None:
    """Train a stage to its end, from its newest complete checkpoint; where it has ended before, only exports that lack.

    All workers call this together, with an initialised process group where there are several.

    Args:
        work: the stage.
        device: of this worker.
        post: takes each step's values, on the first worker.
        calls: what this worker hears while it trains.

    Raises:
        ConfigError: the model or the data do not fit the stage.
        TrainingStopped: training cannot go on; the same command resumes it.
        StoppedError: the job was asked to stop, and has saved the step it was in.
    """
    calls = calls or Calls()
    options = work.storage_options
    # The first worker looks, because looking is to hash every file.
    with calls.at_work():
        lacking = from_first(unwritten(work.targets, work.identity, options) if world()[0] == 0 else None)
        if lacking and work.own_model not in lacking:
            write_again(work.own_model, lacking, options)
    if work.own_model not in lacking:
        return
    if any(everyone(calls.stopping())):
        raise stopped(work.stage.name, 0, None)
    with calls.at_work():
        run = _Run(work, device, post, calls)
    try:
        run.train()
    finally:
        run.close()


class _Run:
    """A stage while it runs on a worker."""

    def __init__(self, work: StageWork, device: torch.device, post: Post | None, calls: Calls) -> None:
        self.work, self.device, self.post, self.calls = work, device, post, calls
        stage = self.stage = work.stage
        rank, world_size = world()
        seed_all(work.seed, work.number)
        model, processor = open_model(work.model, work.storage_options)
        self.processor = stage_processor(processor, stage)
        self.base_processor = processor
        add_adapters(model, stage)
        self.module = TrainModule(model, stage.losses, extra_losses(model, stage), stage.normalisation)
        if stage.activation_checkpointing:
            model.gradient_checkpointing_enable()
        freeze(self.module, stage)
        shard(self.module, device, precision=stage.precision)
        self.module.train()
        if "vision_tower" not in stage.trainable:
            # Running statistics of a frozen tower stay as they are.
            model.image_processor.eval()
        self.optimizer = make_optimizer(self.module, stage)
        self.checkpoints = Checkpoints(
            join_uri(work.output, "checkpoints"),
            work.identity,
            options=work.storage_options,
            keep=work.keep_checkpoints,
        )
        self.stream = StepStream(
            [open_source(index, work.storage_options) for index in work.inputs],
            stage.weights,
            Sampler(self.processor, stage, work.skip),
            batch_size=stage.batch_size,
            epochs=stage.epochs,
            seed=work.seed + work.number,
        )
        self.cost = cost_of(model.config, model.image_processor.num_layers_run)
        self.loader = Loader(
            self.stream, self.processor, self.cost, rank=rank, world_size=world_size, threads=work.loader_threads
        )
        self.step, self.cursor, self.unreadable = 0, Cursor(), dict[str, int]()
        self.alarm = Alarm()
        self.meter: Meter | None = None
        self.peak = peak_flops(device)
        # From here on workers draw apart: dropout must not be the same on all of them.
        seed_all(work.seed, work.number, rank)

    def train(self) -> None:
        """From the newest checkpoint to the end of the stage."""
        with self.calls.at_work():
            self._resume()
        if world()[0] == 0:
            self.meter = self._meter()
        steps = self.loader.steps(self.cursor)
        with contextlib.closing(steps):  # type: ignore[type-var]
            while not self._is_over():
                began = time.perf_counter()
                step = next(steps, None)
                if step is None:
                    break
                self._take(step, began)
        if self.step == 0:
            raise ConfigError(
                f"stage {self.stage.name}: no sample could be used; reasons: {dict(self.cursor.rejected)}"
            )
        if self.work.measure is not None:
            return
        marker = {"identity": self.work.identity, "step": self.step, **self._state()}
        with self.calls.at_work():
            self.checkpoints.finish()
            self._upload_metrics()
            finish_stage(
                self.module,
                self.base_processor,
                self.stage,
                self.work.targets,
                marker,
                options=self.work.storage_options,
                trained=self.work.ends_recipe,
            )

    def close(self) -> None:
        """Write what is left of the metrics."""
        if self.meter is not None:
            self.meter.close()

    def _is_over(self) -> bool:
        ends = [steps for steps in (self.stage.max_steps, self.work.measure) if steps is not None]
        return self.step >= min(ends, default=math.inf)

    def _resume(self) -> None:
        if world()[0] == 0:
            self.checkpoints.remove_incomplete()
        found = self.checkpoints.newest()
        if found is None:
            return
        target, state = found
        self.checkpoints.load(target, self.module, self.optimizer)
        self.step, self.cursor = int(state["step"]), cursor_from(state["cursor"])
        self.unreadable, self.alarm = dict(state["unreadable"]), Alarm(state["recent_losses"])
        log.info("stage %s goes on at step %d, from %s", self.stage.name, self.step, target)

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors."""
        return {
            "step": self.step,
            "stage": self.stage.name,
            "cursor": dataclasses.asdict(self.cursor),
            "unreadable": self.unreadable,
            "recent_losses": self.alarm.recent,
            "world_size": world()[1],
        }

    def _take(self, step: Step, began: float) -> None:
        """Run one step; the cursor moves with it."""
        waited = time.perf_counter() - began
        ready = float(self.checkpoints.ready)
        counts, told = self._exchange(step, ready)
        lost = self._lost(step, int(told[0]))
        self.cursor = step.cursor
        for one in lost:
            self.unreadable[one.reason] = self.unreadable.get(one.reason, 0) + 1
        if self.meter is not None:
            self.meter.reject(self.step + 1, [*step.unusable, *lost])
        if self.checkpoints.pending and told[1] == world()[1]:
            self.checkpoints.finish()
        if counts[0] == 0 and not self.module.extra:
            return
        rates = set_rates(self.optimizer, self._factor(step))
        losses, called = self._backward(step, counts)
        norm = grad_norm([parameter for _, parameter in trainable(self.module)], self.stage.max_grad_norm)
        loss = float((losses * self.module.weights().double()).sum())
        try:
            self.alarm.check(self.step + 1, loss, norm, step.uids, self.checkpoints.uri)
        except TrainingStopped:
            # All workers meet it, and the step was not taken: what has been saved before it is good.
            with self.calls.at_work():
                self.checkpoints.finish()
            raise
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._report(step, losses, loss, norm, rates, (time.perf_counter() - began, waited), told)
        self._save(*called)

    def _save(self, stop: bool, ask: bool) -> None:
        """Save where it is time, or where all workers were called on to."""
        called = (ask and self.calls.news()) or stop
        if called or self.step % self.work.checkpoint_steps == 0:
            with self.calls.at_work():
                self.checkpoints.save(self.module, self.optimizer, self._state())
                self._upload_metrics()
                if called:
                    # What comes next may end this process.
                    self.checkpoints.finish()
        if stop:
            raise stopped(self.stage.name, self.step, self.checkpoints.uri)

    def _meter(self) -> Meter:
        """The meter, after the lines of attempts before: this machine may lack those of an output in a store."""
        folder = Path(self.work.folder)
        if not is_local(self.work.output):
            fetch_files(self.work.output, (METRICS, REJECTED), folder, self.work.storage_options)
        return Meter(folder, self.step)

    def _upload_metrics(self) -> None:
        """Copy the first worker's lines to an output that is a store."""
        if self.meter is not None and not is_local(self.work.output):
            upload_folder(Path(self.work.folder), self.work.output, self.work.storage_options)

    def _part(self, step: int, taken: int) -> float:
        """Part of the stage that lies before a place in it: steps end it, or samples, whichever comes first."""
        return max(taken / self.stream.total, step / (self.stage.max_steps or math.inf))

    def _factor(self, step: Step) -> float:
        """Factor of the peak learning rate in a step."""
        before = self.cursor.taken - len(step.uids) - len(step.unusable)
        total_steps = min(self.stream.total / self.stage.batch_size, self.stage.max_steps or math.inf)
        return rate_at(self.step, self._part(self.step, before), self.stage, total_steps)

    def _exchange(self, step: Step, ready: float) -> tuple[Tensor, list[float]]:
        """Counts of each loss over all workers; and: samples lost, checkpoints arrived, tokens, row budget, images."""
        own = torch.zeros(len(self.module.parts), dtype=torch.float64)
        tokens = used = images = 0
        for batch in step.rounds:
            own[:3] += self.module.counts(batch)
            tokens += batch.input_ids.shape[1]
            used += sum(sample.num_tokens for sample in batch.samples)
            images += sum(len(sample.row.sizes) for sample in batch.samples)
        rest = torch.tensor([len(step.unreadable), ready, tokens, used, images], dtype=torch.float64)
        summed = total_of(torch.cat([own, rest]), self.device)
        return summed[: len(own)], summed[len(own) :].tolist()

    def _lost(self, step: Step, count: int) -> list[Unusable]:
        """Samples that any worker could not decode."""
        return [one for part in everyone(list(step.unreadable)) for one in part] if count else []

    def _backward(self, step: Step, counts: Tensor) -> tuple[Tensor, tuple[bool, bool]]:
        """Run the rounds, gradients summed; each loss of the whole step, normalised, and what any worker was called on.

        That is asked for here, so late, because a call then still finds the step in which it came.
        """
        weights = self.module.weights().to(self.device)
        shares = torch.zeros(len(self.module.parts), dtype=torch.float64)
        rows = world()[1] * len(step.rounds)
        for batch in step.rounds:
            with self._autocast():
                row_sums, row_counts = self.module(batch.to(self.device))
            own = row_counts.clamp(min=1)
            # Each row's own mean, or the mean over the whole step.
            divisor = own * rows if self.stage.normalisation == "device" else counts.clamp(min=1)
            # Extra losses count only once they have run: each row's own mean, over all rows.
            divisor[3:] = own[3:] * rows
            loss = (row_sums * (weights / divisor.to(self.device, torch.float32))).sum()
            # FSDP divides gradients by the number of workers; the divisors above are the whole step's already.
            (loss * world()[1]).backward()
            shares += row_sums.detach().double().cpu() / divisor
        calls = torch.tensor([self.calls.stopping(), self.calls.due()], dtype=torch.float64)
        summed = total_of(torch.cat([shares, calls]), self.device)
        stop, ask = (summed[len(shares) :] > 0).tolist()
        return summed[: len(shares)], (stop, ask)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.stage.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _report(
        self,
        step: Step,
        losses: Tensor,
        loss: float,
        norm: float,
        rates: Mapping[str, float],
        times: tuple[float, float],
        told: Sequence[float],
    ) -> None:
        if self.meter is None:
            return
        seconds, waited = times
        _, _, tokens, used, images = told
        flops = step_flops([s for batch in step.rounds for s in batch.samples], self.cost, self.stage)
        values: dict[str, Any] = {
            "step": self.step,
            "stage": self.stage.name,
            "loss": loss,
            **{f"loss/{name}": float(value) for name, value in zip(self.module.parts, losses, strict=True)},
            **{f"lr/{part}": rate for part, rate in rates.items()},
            "grad_norm": norm,
            "tokens_per_s": tokens / seconds,
            "images_per_s": images / seconds,
            "non_padding": used / max(tokens, 1),
            "data_wait": waited / seconds,
            "tflops": flops * world()[1] / seconds / 1e12,
            "seconds": seconds,
            "samples": self.cursor.used - sum(self.unreadable.values()),
            "rejected": sum(self.cursor.rejected.values()) + sum(self.unreadable.values()),
            "done": self._part(self.step, self.cursor.taken),
        }
        if self.peak:
            values["mfu"] = flops / seconds / self.peak
        self.meter.write(values)
        if self.post is not None:
            self.post(values)
