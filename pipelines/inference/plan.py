"""`--plan`: run a sample, say what the whole would take, write nothing."""

from collections.abc import Sequence

from pipelines.cli import Say, render_lines
from pipelines.inference.job import InferenceJob
from pipelines.inference.stage import measure_sample
from pipelines.inference.work import Work, total_rows
from pipelines.progress import duration
from pipelines.runtime import WorkerPlan

SAMPLE_ROWS, SAMPLE_PLACES = 32, 4
"""Rows of a sample, and how many fragments they come from, so that one folder does not speak for a corpus."""


def say_plan(job: InferenceJob, missing: Sequence[Work], workers: WorkerPlan, say: Say) -> None:
    """Calibrate on a sample and say rows, rates and time left."""
    left, least = total_rows(missing), "" if job.exact else "at least "
    unit = job.spec.inquiry.unit
    lines = {
        "rows in": f"{least}{job.rows_in:,} in {len(job.works):,} fragments, {least}{left:,} rows still to do",
        "workers": f"{workers.num_actors}, each {workers.num_cpus:g} CPUs, {workers.num_gpus:g} GPUs, "
        f"{workers.threads} threads",
    }
    sample = sample_works(job.works)
    found = measure_sample(sample, job.spec, workers)
    rows, seconds = found["rows"], max(found["seconds"], 1e-9)
    # planned rows on both sides: where only the corpus knows how many come of one, the sample stands for the rest
    needed = seconds * left / max(total_rows(sample), 1) / workers.num_actors
    lines |= {
        "sample": f"{rows:.0f} rows, {found['rejected']:.0f} rejected, {seconds:.1f} s on one worker",
        f"{unit}/s": f"{rows / seconds * workers.num_actors:.2f}",
        "tokens/s": f"{found['tokens'] / seconds * workers.num_actors:.1f}",
        "time for all": f"about {duration(needed)}",
        "written": "nothing; leave out --plan to start",
    }
    say(render_lines(lines))


def sample_works(works: Sequence[Work]) -> list[Work]:
    """The heads of a few fragments, evenly spread: at most `SAMPLE_ROWS` rows of the corpus.

    More come from some if others are short.
    """
    places = min(SAMPLE_PLACES, len(works))
    chosen = [works[place * len(works) // places] for place in range(places)]
    sample, room = [], SAMPLE_ROWS
    # the shortest first, so that what they lack can come from the others
    for done, work in enumerate(sorted(chosen, key=lambda one: one.fragment.num_rows)):
        sample.append(work.head(room // (places - done)))
        room -= sample[-1].fragment.num_rows
    return [one for one in sample if one.fragment.num_rows]
