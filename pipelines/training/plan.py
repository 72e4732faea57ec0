"""`--plan`: run a few steps of each stage, say what the whole would take and cost, write nothing.

What this does *not* do: measure what checkpoints and exports take, or how long the machines take to start.
"""

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.train import ScalingConfig

from pipelines.cli import Say, render_lines
from pipelines.progress import duration
from pipelines.runtime import WorkerPlan
from pipelines.training.config import TrainConfig
from pipelines.training.data import epoch_length
from pipelines.training.export import unwritten
from pipelines.training.group import run_workers
from pipelines.training.loop import StageWork
from pipelines.training.stages import Stage

WARM_STEPS, MEASURED_STEPS = 2, 6
"""Steps that only warm up (memory, kernels, files), and those that are measured after them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """What a stage would take, by some of its steps."""

    samples: int
    """Usable ones that it would see, repeats counted."""
    steps: int
    """Of the optimiser."""
    tokens: float
    """Text and image tokens of all its steps."""
    tokens_per_s: float
    """Of all workers together."""
    padding: float
    """Share of the rows that is no token of a sample."""
    seconds: float
    """Of all its steps."""
    measured: int
    """Steps that this is known from."""


def say_plan(
    config: TrainConfig, works: Sequence[StageWork], scaling: ScalingConfig, workers: WorkerPlan, say: Say
) -> None:
    """Run some steps of each stage that is to be trained, and say samples, steps, rates, time and cost.

    Args:
        config: of the job.
        works: stages that are not done; one whose own model is there lacks only what is exported of it.
        scaling: of the group of workers.
        workers: each of it.
        say: where lines for people go.
    """
    done = [work for work in works if not unwritten({work.own_model: "own"}, work.identity, work.storage_options)]
    for work in done:
        say(f"stage {work.stage.name} is trained; only {', '.join(work.export)} is to be written")
    works = [work for work in works if work not in done]
    if not works:
        return
    with tempfile.TemporaryDirectory(prefix="plan-") as scratch:
        short = [_shortened(work, works[0].model, scratch) for work in works]
        values = run_workers(config, short, scaling, workers, lambda _: None)
    devices = f"{workers.num_gpus:g} GPUs" if workers.num_gpus else f"{workers.threads} cores"
    plans = {}
    for work in works:
        steps = [one for one in values if one["stage"] == work.stage.name]
        plans[work.stage.name] = plan_stage(work.stage, [index.rows for index in work.inputs], steps)
    for name, plan in plans.items():
        say(f"stage {name}")
        say(render_lines(_lines(plan, workers.num_actors, devices, config.price_per_hour)))
    seconds = sum(plan.seconds for plan in plans.values())
    say(f"all {len(plans)} stages that are to be trained, without start-up, checkpoints and exports")
    lines = {"time for all": f"about {duration(seconds)}"}
    lines |= _cost(seconds, workers.num_actors, devices, config.price_per_hour)
    say(render_lines(lines | {"written": "nothing; leave out --plan to start"}))


def plan_stage(stage: Stage, units: Sequence[Sequence[int]], steps: Sequence[Mapping[str, Any]]) -> StagePlan:
    """What a stage would take.

    Args:
        stage: the whole of it.
        units: rows of each unit, of each input.
        steps: values of the steps that were run, as `metrics.jsonl` has them, in order; the first ones only warm up
            where there are more.

    Example:
        >>> stage = Stage(name="align", learning_rates={"projector": 1e-3}, batch_size=4)
        >>> step = {"seconds": 2.0, "tokens_per_s": 50.0, "non_padding": 1.0, "samples": 4, "rejected": 0}
        >>> plan_stage(stage, [(10,)], [step])
        StagePlan(samples=10, steps=3, tokens=300.0, tokens_per_s=50.0, padding=0.0, seconds=6.0, measured=1)
    """
    kept = steps[WARM_STEPS:] or steps[-1:]
    seconds = sum(one["seconds"] for one in kept)
    tokens = sum(one["seconds"] * one["tokens_per_s"] for one in kept)
    used = sum(one["seconds"] * one["tokens_per_s"] * one["non_padding"] for one in kept)
    usable = steps[-1]["samples"] / (steps[-1]["samples"] + steps[-1]["rejected"])
    samples = round(round(epoch_length(units, stage.weights or (1.0,) * len(units)) * stage.epochs) * usable)
    count = math.ceil(samples / stage.batch_size)
    if stage.max_steps is not None and stage.max_steps < count:
        count, samples = stage.max_steps, stage.max_steps * stage.batch_size
    return StagePlan(
        samples=samples,
        steps=count,
        tokens=count * tokens / len(kept),
        tokens_per_s=tokens / seconds,
        padding=1 - used / tokens,
        seconds=count * seconds / len(kept),
        measured=len(kept),
    )


def _shortened(work: StageWork, model: str, scratch: str) -> StageWork:
    """A stage of a few steps from a model that is there: a stage before it would have to be trained for its own."""
    return dataclasses.replace(
        work,
        model=model,
        output=f"{scratch}/{work.stage.name}",
        export={},
        measure=WARM_STEPS + MEASURED_STEPS,
        checkpoint_steps=WARM_STEPS + MEASURED_STEPS + 1,
    )


def _lines(plan: StagePlan, workers: int, devices: str, price: float | None) -> dict[str, str]:
    return {
        "samples": f"{plan.samples:,}",
        "steps": f"{plan.steps:,}, known from {plan.measured}",
        "tokens": f"{plan.tokens:,.0f}",
        "tokens/s": f"{plan.tokens_per_s:,.1f}",
        "padding": f"{100 * plan.padding:.1f} %",
        "time": f"about {duration(plan.seconds)}",
        **_cost(plan.seconds, workers, devices, price),
    }


def _cost(seconds: float, workers: int, devices: str, price: float | None) -> dict[str, str]:
    hours = seconds * workers / 3600
    lines = {"device-hours": f"{hours:.3g} of {devices}"}
    return lines if price is None else lines | {"cost": f"{hours * price:.3g}, at {price:g} a device-hour"}
