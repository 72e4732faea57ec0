"""The captioning job's own front door, which a test can tell to die at a point of the way.

    python caption_driver.py DEATH FLAG…

DEATH is "never", or POINT:COUNT: SIGKILL when the point is reached for the COUNT-th time. Points: "written" (receipts
have come, their files lie there, nothing is committed), "committed" (a group is in the log), "finishing" (all rows are
in, the gallery is not drawn). Each receipt is committed alone, so that there are as many points as fragments.
"""

import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import tables
from pipelines.inference import finish, flow

ROOT = Path(__file__).resolve().parents[2]


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

    flow.COMMIT_RECEIPTS = 1
    tables.commit = around(tables.commit, "written", "committed")
    finish.count = around(finish.count, "finishing", "counted")


if __name__ == "__main__":
    if sys.argv[1] != "never":
        arm(*sys.argv[1].split(":"))
    sys.argv = ["caption_corpus.py", *sys.argv[2:]]
    runpy.run_path(str(ROOT / "jobs" / "caption_corpus.py"), run_name="__main__")
