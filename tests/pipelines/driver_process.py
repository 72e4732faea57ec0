"""A driver with its worker in one process, for tests to start, race and kill.

    python driver_process.py TABLE_URI ATTEMPT GROUP DEATH [GO_FILE]

It makes the fragments of `PLAN` that are not in the table, and commits them in groups. DEATH is "never" or POINT:COUNT:
SIGKILL at the COUNT-th time that it reaches the point. Its last line is what its commits reported.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipelines import parts, storage, tables
from pipelines.tables import commit, committed_fragments
from tests.pipelines.table_cases import SCHEMA, write

PLAN = {f"f{number:02d}": (1 + number % 3, number % 2) for number in range(10)}
POINTS = ("torn", "written", "decided", "committed")


def main(uri: str, attempt: int, group: int, death: str, go: str | None = None) -> None:
    """Do what is left of the plan."""
    arm(*death.partition(":")[::2])
    if go is not None:
        Path(f"{go}.{os.getpid()}").touch()
        while not Path(go).exists():
            time.sleep(0.005)
    done = committed_fragments(uri, "run", PLAN)
    left = [name for name in PLAN if name not in done]
    if attempt % 2:
        left.reverse()
    reports = []
    for start in range(0, len(left), group):
        receipts = [write(uri, name, *PLAN[name], attempt=attempt) for name in left[start : start + group]]
        reports.append(commit(uri, receipts, run_id="run", schema=SCHEMA))
    new = [name for report in reports for name in report.committed]
    sys.stdout.write(json.dumps({"committed": new, "already": sum(len(report.already) for report in reports)}))


def arm(point: str, count: str) -> None:
    """Kill this process at a point."""
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

    storage.os.fsync = around(os.fsync, "torn", "")  # type: ignore[assignment]
    parts.write_bytes = around(parts.write_bytes, "", "written")
    tables.swap = around(tables.swap, "decided", "committed")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
