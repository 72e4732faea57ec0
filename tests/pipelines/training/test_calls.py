"""What workers tell the driver while no step ends, and the driver's clock for workers that have stalled."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.errors import StalledError
from pipelines.stopping import Stopping
from pipelines.training import calls, export, group
from pipelines.training.calls import Calls
from pipelines.training.loop import run_stage
from tests.pipelines.training import cases


def test_a_model_that_is_hashed_or_written_is_no_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker says that it is at work while it writes, and while it looks what is written; else never."""
    folder = cases.write_both(tmp_path, 8, wrong=False)
    work = cases.work(folder / "untrained", [str(folder / "corpus/data.json")], tmp_path, cases.stage(max_steps=1))
    monkeypatch.setattr(calls, "BEAT_S", 0.01)
    said: list[str] = []
    inside: list[str] = []

    def slowly(module: Any, name: str) -> None:
        inner = getattr(module, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            inside.append(name)
            time.sleep(0.2)
            inside.pop()
            return inner(*args, **kwargs)

        monkeypatch.setattr(module, name, outer)

    slowly(export, "write_model")
    slowly(export, "read_marker")

    def beat() -> None:
        said.extend(inside)

    run_stage(work, torch.device("cpu"), calls=Calls(beat=beat))
    assert {"write_model", "read_marker"} <= set(said)
    before, threads = len(said), {thread.name for thread in threading.enumerate()}
    time.sleep(0.1)
    assert len(said) == before and "beat" not in threads
    # what has no end is a stall after all
    monkeypatch.setattr(calls, "LONGEST_S", 0.05)
    with Calls(beat=lambda: said.append("late")).at_work():
        time.sleep(0.4)
    assert 1 <= said.count("late") < 10


class Trainer:
    """Ray Train's, as far as the driver waits for it."""

    def fit(self) -> None:
        """Take longer than the stall clock."""
        time.sleep(1.5)


@pytest.mark.parametrize("beats", [True, False])
def test_the_stall_clock_begins_anew_with_each_word(monkeypatch: pytest.MonkeyPatch, beats: bool) -> None:
    board = group.Board()
    began = time.monotonic()

    def read() -> tuple[dict[str, Any], None, int]:
        return board.values, None, int(20 * (time.monotonic() - began)) if beats else 0

    monkeypatch.setattr(group, "_POLL_S", 0.05)
    monkeypatch.setattr(group.ray, "get", lambda value: value)
    remote: Any = SimpleNamespace(read=SimpleNamespace(remote=read))
    trainer: Any = Trainer()
    if beats:
        assert group._fit(trainer, remote, 0.5, print, Stopping(), bars=False) is None
        return
    with pytest.raises(StalledError, match="no step came back"):
        group._fit(trainer, remote, 0.5, print, Stopping(), bars=False)
