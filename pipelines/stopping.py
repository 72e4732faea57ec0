"""A job that is asked to stop (SIGTERM: preemption, `ray job stop`, a person): commits what is done, and ends.

    with Stopping() as stopping:      SIGTERM raises StoppedError in the main thread, wherever it waits …
        with stopping.held():         … but never inside here: it comes when this is done
            commit()
        with stopping.noted():        … nor here, where `stopping.asked` says that it came; a second one raises
            wait_for_workers()

What is in flight is abandoned: a fragment that has no receipt is nobody's, and the next call makes it. What this does
*not* do: catch SIGKILL (`tables` survives that) or Ctrl-C, which Python raises by itself.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from pipelines.errors import StoppedError


class Stopping:
    """Turns SIGTERM into `StoppedError` while it is entered; does nothing outside the main thread."""

    def __init__(self) -> None:
        self._before: Any = None
        self._held = False
        self._asked = False
        self._noting = False
        self.asked = False
        """A signal came while it was only to be noted."""

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Do something whole: a signal that comes meanwhile is raised at its end."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before
        if self._asked and not self._held:
            self._asked = False
            raise _stopped()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Wait for others to stop by themselves: the first signal that comes meanwhile is only noted, in `asked`."""
        self._noting, self.asked = True, False
        try:
            yield
        finally:
            self._noting = False

    def _stop(self, signum: int, frame: object) -> None:
        if self._noting and not self.asked:
            self.asked = True
            return
        if self._held:
            self._asked = True
            return
        raise _stopped()


def _stopped() -> StoppedError:
    return StoppedError("asked to stop (SIGTERM); what was finished is committed, the same command does the rest")
