"""What workers tell the driver while no step ends, and the driver's clock for workers that have stalled."""

import contextlib
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_core.errors import TesseraError
from pipelines import metrics
from pipelines.errors import StalledError
from pipelines.stopping import Stopping
from pipelines.training import calls, export, group, loop
from pipelines.training.calls import Calls
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.errors import TrainingStopped
from pipelines.training.loop import run_stage
from tests.pipelines.training import cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_both(tmp_path_factory.mktemp("calls"), 16, wrong=False)


@pytest.mark.parametrize("end", ["whole", "stopped", "alarm"])
def test_a_model_that_is_read_hashed_or_written_is_no_stall(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The first worker says that it is at work while it reads, writes, and looks what is written; else never."""
    data = [str(folder / "corpus/data.json")]
    # its only checkpoint is brought where the stage ends
    steps = 1 if end == "stopped" else 2
    one = cases.stage(max_steps=3)
    work = cases.work(folder / "untrained", data, tmp_path, one, checkpoint_steps=steps)
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
    slowly(loop, "open_model")
    slowly(Checkpoints, "save")
    slowly(Checkpoints, "finish")
    # what has arrived is not brought before the end
    monkeypatch.setattr(Checkpoints, "ready", False)
    asked = iter([False, True])

    def beat() -> None:
        said.extend(inside)

    def check(alarm: Any, step: int, *_: Any) -> None:
        if step == 3:
            raise TrainingStopped("a loss that is no good")

    wanted = {"read_marker", "open_model", "save", "finish"} | ({"write_model"} if end == "whole" else set())
    if end == "alarm":
        monkeypatch.setattr(loop.Alarm, "check", check)
    hears = Calls(beat=beat, stopping=(lambda: next(asked)) if end == "stopped" else calls.never)
    with contextlib.nullcontext() if end == "whole" else pytest.raises(TesseraError):
        run_stage(work, torch.device("cpu"), calls=hears)
    assert set(said) == wanted
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


@pytest.mark.parametrize("beats", [True, False])
def test_the_alarm_hears_each_word_while_a_stage_is_written(monkeypatch: pytest.MonkeyPatch, beats: bool) -> None:
    """A stage's last step came, and its bar stays open: of 9 steps that were expected it took 7."""
    heard = iter(range(1, 100))
    values = {"stage": "align", "step": 7, "done": 7 / 9, "loss": 2.0}
    moved: list[float] = []
    monkeypatch.setattr(metrics, "report_progress", lambda done, total, rate, unit, at: moved.append(at))
    monkeypatch.setattr("pipelines.progress._METRIC_SECONDS", 0.02)
    monkeypatch.setattr(group, "_POLL_S", 0.05)
    monkeypatch.setattr(group.ray, "get", lambda value: value)
    remote: Any = SimpleNamespace(read=SimpleNamespace(remote=lambda: (values, None, next(heard) if beats else 0)))
    trainer: Any = Trainer()
    assert group._fit(trainer, remote, 60.0, lambda _: None, Stopping(), bars=True) is None
    # made, and its step added; then only words
    assert len(set(moved)) > 5 if beats else len(set(moved)) == 2
