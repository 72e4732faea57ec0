"""`--plan`: probe a sample in this process, say what the whole would take, write nothing."""

import itertools
import os
import time
from collections.abc import Sequence

from pipelines.cli import Say, render_lines
from pipelines.curation.job import CurateJob
from pipelines.curation.probe_stage import ProbeStage
from pipelines.fragments import Fragment, total_rows
from pipelines.progress import duration

SAMPLE_ROWS, SAMPLE_PLACES = 256, 4
"""Rows of a sample, and how many fragments they come from."""


def say_plan(job: CurateJob, missing: Sequence[Fragment], say: Say) -> None:
    """Calibrate on a sample and say rows, rates and time left."""
    if not job.fragments:
        say("rows in: 0; there is nothing to do")
        return
    left = total_rows(missing)
    step = max(1, len(job.fragments) // SAMPLE_PLACES)
    heads = (one.head(SAMPLE_ROWS // SAMPLE_PLACES) for one in itertools.islice(job.fragments, 0, None, step))
    sample = list(itertools.islice(heads, SAMPLE_PLACES))
    stage = ProbeStage(job.probe)
    stage.looker.look([])
    stage.table(sample[0].head(1))
    started = time.monotonic()
    found = [stage.table(fragment) for fragment in sample]
    seconds = max(time.monotonic() - started, 1e-9)
    stage.looker.close()
    rows = sum(table.num_rows for table in found)
    tokens = sum(value or 0 for table in found for value in table["n_image_tokens"].to_pylist())
    workers = job.config.num_workers or os.cpu_count() or 1
    rate = rows / seconds * workers
    say(
        render_lines(
            {
                "rows in": f"{job.rows_in:,} in {len(job.fragments):,} fragments, {left:,} rows still to do",
                "workers": f"{workers}, if this machine is the cluster",
                "sample": f"{rows:,} rows, {seconds:.1f} s on one worker",
                "images/s": f"{rate:.1f}",
                "image tokens": f"about {tokens / max(rows, 1) * job.rows_in:,.0f} before selection",
                "time for all": f"about {duration(left / max(rate, 1e-9))}",
                "written": "nothing; leave out --plan to start",
            }
        )
    )
