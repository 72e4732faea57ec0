"""The captioning job's own front door, which a test can tell to die at a point of the way.

    python caption_driver.py DEATH FLAG…

Its engine is `tests.pipelines.inference.poison`, which needs no torch: what is tried here is what becomes of receipts,
and each start would otherwise take seconds for a model.

DEATH is "never", "slow" (an engine that takes its time), or POINT:COUNT: SIGKILL when the point is reached for the
COUNT-th time. Points: "written" (receipts have come, their files lie there, nothing is committed), "committed" (a group
is in the log), "finishing" (all rows are in, the gallery is not drawn). Each receipt is committed alone, so that there
are as many points as fragments.
"""

import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines import commits, tables
from pipelines.inference import finish, flow
from pipelines.inference.config import CaptionConfig
from pipelines.inference.job import InferenceJob, freeze

ROOT = Path(__file__).resolve().parents[2]
SLOW = sys.argv[1:2] == ["slow"]


def arm(point: str, count: str) -> None:
    """Let this process die at a point."""
    reached: Counter[str] = Counter()

    def die(here: str) -> None:
        reached[here] += 1
        if here == point and reached[here] == int(count):
            os.kill(os.getpid(), signal.SIGKILL)

    def around(inner: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
        def outer(*args: Any, **kwargs: Any) -> Any:
            die(before)
            result = inner(*args, **kwargs)
            die(after)
            return result

        return outer

    commits.COMMIT_SECONDS = commits.COMMIT_SHARE = 0.0
    tables.commit = around(tables.commit, "written", "committed")
    finish.count = around(finish.count, "finishing", "counted")


def freeze_light(config: CaptionConfig) -> InferenceJob:
    """The job, its engine another one."""
    job = freeze(config)
    engine = "slow" if SLOW else "deliberate"
    return replace(job, spec=replace(job.spec, engine_factory=f"tests.pipelines.inference.poison:{engine}"))


if __name__ == "__main__":
    flow.freeze = freeze_light  # type: ignore[assignment]
    if sys.argv[1] not in ("never", "slow"):
        arm(*sys.argv[1].split(":"))
    sys.argv[:2] = ["caption_corpus.py"]
    runpy.run_path(str(ROOT / "jobs" / "caption_corpus.py"), run_name="__main__")
