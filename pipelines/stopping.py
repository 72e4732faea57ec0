"""A job that is asked to stop (SIGTERM: preemption, `ray job stop`, a person): commits what is done, and ends.

    with Stopping() as stopping:      SIGTERM raises StoppedError in the main thread, wherever it waits …
        with stopping.held():         … but never inside here: it comes when this is done
            commit()

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

    def _stop(self, signum: int, frame: object) -> None:
        if self._held:
            self._asked = True
            return
        raise _stopped()


def _stopped() -> StoppedError:
    return StoppedError("asked to stop (SIGTERM); what was finished is committed, the same command does the rest")
