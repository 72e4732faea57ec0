"""`--plan`: run a sample, say what the whole would take and cost, write nothing."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.cli import Say, render_lines
from pipelines.inference.config import InferenceConfig
from pipelines.inference.job import InferenceJob
from pipelines.inference.stage import measure_sample
from pipelines.inference.work import Work, total_rows
from pipelines.progress import duration
from pipelines.runtime import WorkerPlan

SAMPLE_ROWS, SAMPLE_PLACES = 32, 4
"""Rows of a sample, and how many fragments they come from, so that one folder does not speak for a corpus."""
_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Student's t at 95 %, by the number of places."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Seconds that one worker needs for a row of the plan, and how sure that is."""

    seconds: float
    """Of one row, by all of the sample."""
    spread: float | None
    """Half of the 95 % interval, by how the sample's places differ; None where it has only one."""


def say_plan(
    job: InferenceJob, missing: Sequence[Work], workers: WorkerPlan, config: InferenceConfig, say: Say
) -> None:
    """Calibrate on a sample and say rows, rates, time left and what it costs."""
    left, least = total_rows(missing), "" if job.exact else "at least "
    sample = sample_works(job.works)
    found = measure_sample(sample, job.spec, workers)
    lines = {
        "rows in": f"{least}{job.rows_in:,} in {len(job.works):,} fragments, {least}{left:,} rows still to do",
        "workers": f"{workers.num_actors}, each {workers.num_cpus:g} CPUs, {workers.num_gpus:g} GPUs, "
        f"{workers.threads} threads",
        "sample": "no row in the sample: no estimate",
    }
    if any(one["rows"] for one in found):
        # planned rows on both sides: where only the corpus knows how many come of one, the sample stands for the rest
        estimate = estimate_seconds([one["seconds"] for one in found], [work.num_rows for work in sample])
        lines |= _rates(found, job.spec.inquiry.unit, workers, config) | _costs(estimate, left, workers, config)
    say(render_lines(lines | {"written": "nothing; leave out --plan to start"}))


def _rates(
    found: Sequence[Mapping[str, Any]], unit: str, workers: WorkerPlan, config: InferenceConfig
) -> dict[str, str]:
    """What a sample took, as lines."""
    rows, seconds = sum(one["rows"] for one in found), max(sum(one["seconds"] for one in found), 1e-9)
    rejected, tokens = sum(one["rejected"] for one in found), sum(one["tokens"] for one in found)
    return {
        "sample": f"{rows:,} rows, {rejected:,} rejected, {seconds:.1f} s on one worker",
        f"{unit}/s": f"{rows / seconds * workers.num_actors:.2f}",
        "tokens/s": f"{tokens / seconds * workers.num_actors:.1f}",
        "padding": _padding([count for one in found for count in one["prompts"]], config),
    }


def _costs(estimate: Estimate, left: int, workers: WorkerPlan, config: InferenceConfig) -> dict[str, str]:
    """What the rows that are left would take, as lines."""
    devices = f"{workers.num_gpus:g} GPUs" if workers.num_gpus else f"{workers.threads} cores"
    lines = {
        "time for all": "about " + _range(estimate, left / workers.num_actors),
        "device-hours": f"{_hours(estimate, left)} of {devices}",
    }
    if config.price_per_hour is not None:
        lines["cost"] = f"{_hours(estimate, left, config.price_per_hour)}, at {config.price_per_hour:g} a device-hour"
    return lines


def estimate_seconds(seconds: Sequence[float], rows: Sequence[int]) -> Estimate:
    """Estimate the seconds of a row from places of a sample.

    Args:
        seconds: that each place took.
        rows: planned rows of each.

    Example:
        >>> estimate_seconds([8.0, 12.0], [4, 4])
        Estimate(seconds=2.5, spread=6.355)
        >>> estimate_seconds([8.0], [4])
        Estimate(seconds=2.0, spread=None)
    """
    each = [took / max(count, 1) for took, count in zip(seconds, rows, strict=True)]
    mean = sum(seconds) / max(sum(rows), 1)
    if len(each) < 2:
        return Estimate(seconds=mean, spread=None)
    error = statistics.stdev(each) / math.sqrt(len(each))
    return Estimate(seconds=mean, spread=_STUDENT.get(len(each), 2.5) * error)


def padded_share(prompts: Sequence[int], batch_size: int) -> float:
    """Share of a padded prefill that would be padding: prompts sorted by length, in batches.

    Example:
        >>> round(padded_share([10, 30, 20, 20], 2), 3)
        0.2
    """
    ordered = sorted(prompts)
    batches = [ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)]
    room = sum(len(batch) * batch[-1] for batch in batches)
    return 1 - sum(prompts) / room if room else 0.0


def _padding(prompts: Sequence[int], config: InferenceConfig) -> str:
    share = f"{100 * padded_share(prompts, config.batch_size):.0f} % of prompt tokens"
    if config.engine == "packed":
        return f"none: prompts are packed (padded batches of {config.batch_size} would waste {share})"
    return f"{share}, in batches of {config.batch_size}"


def _range(estimate: Estimate, rows: float) -> str:
    """A time span, and its interval where there is one."""
    middle = duration(estimate.seconds * rows)
    if estimate.spread is None:
        return f"{middle}; one place tells no interval"
    low, high = (max(0.0, estimate.seconds + sign * estimate.spread) * rows for sign in (-1, 1))
    return f"{middle}, 95 % between {duration(low)} and {duration(high)}"


def _hours(estimate: Estimate, rows: int, price: float = 1.0) -> str:
    """Hours of one device, or their price."""
    middle, spread = (value * rows * price / 3600 for value in (estimate.seconds, estimate.spread or 0.0))
    if estimate.spread is None:
        return f"{middle:.3g}"
    return f"{middle:.3g} ({max(0.0, middle - spread):.3g} to {middle + spread:.3g})"


def sample_works(works: Sequence[Work]) -> list[Work]:
    """The heads of a few fragments, evenly spread: at most `SAMPLE_ROWS` rows of the corpus that are asked about.

    More come from some if others are short.
    """
    places = min(SAMPLE_PLACES, len(works))
    chosen = [works[place * len(works) // places] for place in range(places)]
    sample, room = [], SAMPLE_ROWS
    # the shortest first, so that what they lack can come from the others
    for done, work in enumerate(sorted(chosen, key=lambda one: len(one.asked))):
        sample.append(work.head_asked(room // (places - done)))
        room -= len(sample[-1].asked)
    return [one for one in sample if one.fragment.num_rows]
