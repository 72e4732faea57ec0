"""What workers are called on to do between two steps: to stop for good, or to save because a machine is about to go.

    SIGTERM ─▶ driver ─▶ first worker: stopping()         all agree in the step's all-reduce ─▶ save ─▶ StoppedError
    drain   ─▶ Ray Train ─▶ every worker: leaving()       all ask together ─▶ save ─▶ go on until Ray Train moves them

A checkpoint needs all workers at the same step, so that none acts on what it alone has heard. What this does *not* do:
listen to signals or to Ray (`flow` does).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipelines.errors import StoppedError

ASK_S = 5.0
"""Seconds between two questions whether a machine is about to go: Ray Train itself looks as often."""
BEAT_S = 1.0
"""Seconds between two words to the driver while the first worker reads, hashes or writes a whole model."""
LONGEST_S = 12 * 3600.0
"""Seconds that this may take; the others wait as long for it. It has no steps by which a stall would be known."""


def never() -> bool:
    """Nobody calls."""
    return False


@dataclass(slots=True)
class Calls:
    """What one worker hears."""

    stopping: Callable[[], bool] = never
    """This worker has heard that the job is to stop; costs nothing, asked in every step."""
    leaving: Callable[[], bool] | None = None
    """A machine of the group is about to go, and this is news: a barrier, so all workers ask in the same step."""
    beat: Callable[[], object] | None = None
    """Tell the driver that this worker is at work, although no step ends; on the first worker."""
    _asked_at: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether it is time to ask `leaving`."""
        return self.leaving is not None and time.monotonic() - self._asked_at >= ASK_S

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """While a whole model or checkpoint is read, hashed or written: no step ends, yet nothing has stalled."""
        if self.beat is None:
            yield
            return
        done = threading.Event()
        threading.Thread(target=_beat, args=(self.beat, done), name="beat", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def news(self) -> bool:
        """Ask `leaving`; all workers together."""
        self._asked_at = time.monotonic()
        return self.leaving is not None and self.leaving()


def _beat(beat: Callable[[], object], done: threading.Event) -> None:
    until = time.monotonic() + LONGEST_S
    while not done.wait(BEAT_S) and time.monotonic() < until:
        beat()


def stopped(stage: str, step: int, checkpoints: str | None) -> StoppedError:
    """The error of a stage that was asked to stop.

    Args:
        stage: its name.
        step: that it has finished.
        checkpoints: where that step's checkpoint is; None where nothing new had to be saved.
    """
    where = "which had not begun" if checkpoints is None else f"whose step {step} is saved in {checkpoints}"
    return StoppedError(f"asked to stop (SIGTERM) in stage {stage}, {where}; the same command goes on from there")
