"""`--plan`: run a sample, say what the whole would take, write nothing."""

from collections.abc import Sequence

from pipelines.cli import Say, render_lines
from pipelines.fragments import Fragment, total_rows
from pipelines.inference.job import CaptionJob
from pipelines.inference.stage import measure_sample
from pipelines.progress import duration
from pipelines.runtime import WorkerPlan

SAMPLE_ROWS, SAMPLE_PLACES = 32, 4
"""Rows of a sample, and how many fragments they come from, so that one folder does not speak for a corpus."""


def say_plan(job: CaptionJob, missing: Sequence[Fragment], workers: WorkerPlan, say: Say) -> None:
    """Calibrate on a sample and say rows, rates and time left."""
    left = total_rows(missing)
    lines = {
        "rows in": f"{job.rows_in:,} in {len(job.fragments):,} fragments, {left:,} rows still to do",
        "workers": f"{workers.num_actors}, each {workers.num_cpus:g} CPUs, {workers.num_gpus:g} GPUs, "
        f"{workers.threads} threads",
    }
    sample = sample_fragments(job.fragments)
    found = measure_sample(sample, job.spec, workers)
    rows, seconds = found["rows"], max(found["seconds"], 1e-9)
    rate = rows / seconds * workers.num_actors
    lines |= {
        "sample": f"{rows:.0f} rows, {found['rejected']:.0f} rejected, {seconds:.1f} s on one worker",
        "images/s": f"{rate:.2f}",
        "tokens/s": f"{found['tokens'] / seconds * workers.num_actors:.1f}",
        "time for all": f"about {duration(left / rate)}",
        "written": "nothing; leave out --plan to start",
    }
    say(render_lines(lines))


def sample_fragments(fragments: Sequence[Fragment]) -> list[Fragment]:
    """The heads of a few fragments, evenly spread: at most `SAMPLE_ROWS` rows, more from some if others are short."""
    places = min(SAMPLE_PLACES, len(fragments))
    chosen = [fragments[place * len(fragments) // places] for place in range(places)]
    sample, room = [], SAMPLE_ROWS
    # the shortest first, so that what they lack can come from the others
    for done, fragment in enumerate(sorted(chosen, key=lambda one: one.num_rows)):
        sample.append(fragment.head(room // (places - done)))
        room -= sample[-1].num_rows
    return [one for one in sample if one.num_rows]
