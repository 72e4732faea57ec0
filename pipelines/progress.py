"""What a person sees while a job works: a line with the rate and the time left, logs, and an alarm when nothing moves.

Lines go to a stream (standard error by default): one that is written over on a terminal, one each few seconds
elsewhere. The same figures go to `metrics`, and again while nothing moves, or the alarm of a job that stalls would lose
sight of it. What this does *not* do: count for the record; those counts come from the table (`accounts`).
"""

import logging
import queue
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from pipelines import metrics
from pipelines.errors import StalledError

T = TypeVar("T")
_TERMINAL_SECONDS = 0.2
_STREAM_SECONDS = 10.0
_METRIC_SECONDS = 5.0
"""Between the same figures for `metrics`: Ray forgets a gauge that is not set again for some 20 seconds."""
_RATE_SECONDS = 60.0
"""How far back the rate of tokens looks."""


class Progress:
    """Rows done of rows in all, as a line on a stream; by tokens, if somebody notes them. Safe to call from threads.

    Args:
        total: rows in all, those of earlier runs included.
        done: rows that earlier runs did; they count as done and not towards the rate.
        unit: what a row is, for the line.
        stream: where lines go; standard error by default.
        every_s: seconds between lines; 0.2 on a terminal and 10 elsewhere by default.
        quiet: write nothing.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        total: int,
        *,
        done: int = 0,
        unit: str = "images",
        stream: TextIO | None = None,
        every_s: float | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._every = every_s if every_s is not None else _TERMINAL_SECONDS if self._terminal else _STREAM_SECONDS
        self._total, self._earlier, self._unit, self._quiet, self._clock = total, done, unit, quiet, clock
        self._written = ""
        self._now = 0
        self._rejected = 0
        self._start = self._last = self._heard = clock()
        self._moved = time.time()
        self._under_way = 0
        self._noted = (0, 0, 0)
        self._marks: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._tell()
        # the thread does not hold it: one that an error leaves unclosed says nothing any more
        threading.Thread(target=_keep_telling, args=(weakref.ref(self), self._closed), daemon=True).start()

    def add(self, rows: int, *, rejected: int = 0) -> None:
        """Note rows that are done, rejected ones among them, and write a line if it is time."""
        with self._lock:
            self._now += rows
            self._rejected += rejected
            self._hear()
            self._write_if_due()

    def alive(self) -> None:
        """Note that workers are at work, although no row is done."""
        with self._lock:
            self._hear()

    def note(self, rows: int, tokens: int, signs: int = 0) -> None:
        """Note what workers say they have made in this run so far, long before a fragment of it is done.

        Args:
            rows: that are made, those of unfinished fragments included.
            tokens: that they took. From then on rate and time left are those of tokens, over the last minute.
            signs: of life that they gave, rows or not.
        """
        with self._lock:
            self._under_way = rows
            now = self._clock()
            if (rows, tokens, signs) != self._noted:
                self._noted = (rows, tokens, signs)
                self._hear()
            self._marks.append((now, tokens))
            while len(self._marks) > 2 and self._marks[1][0] < now - _RATE_SECONDS:
                self._marks.popleft()
            self._write_if_due()

    def close(self) -> None:
        """Write the last line, and tell `metrics` no more."""
        self._closed.set()
        with self._lock:
            self._under_way = 0
            self._tell()
            self._write(final=True)

    @property
    def idle(self) -> float:
        """Seconds since rows were done, or a worker gave a sign of life."""
        return self._clock() - self._heard

    @property
    def rate(self) -> float:
        """Rows a second, of this run; those of unfinished fragments count, or the first one would say 0 to its end."""
        return self._made / max(self._clock() - self._start, 1e-9)

    @property
    def _made(self) -> int:
        return max(self._now, min(self._under_way, self._total - self._earlier))

    @property
    def token_rate(self) -> float:
        """Tokens a second, over the last minute; 0 where nobody counts them."""
        if not self._marks:
            return 0.0
        # one mark alone is a rate since the start
        (before, first) = self._marks[0] if len(self._marks) > 1 else (self._start, 0)
        now, tokens = self._marks[-1]
        return (tokens - first) / max(now - before, 1e-9)

    def line(self) -> str:
        """The line as it is now."""
        made = self._made
        done = self._earlier + made
        share = 100.0 * done / self._total if self._total else 100.0
        tokens = self._marks[-1][1] if self._marks else 0
        if not made and not tokens and done < self._total:
            waited = duration(self._clock() - self._start)
            return f"{done:,} of {self._total:,} {self._unit} ({share:.1f} %), none yet after {waited}"
        rates = f"{self.rate:.1f} {self._unit}/s"
        if tokens:
            rates = f"{tokens:,} tokens, {self.token_rate:,.0f} tokens/s, {rates}"
        left = self._left(self._total - done, tokens / made if made else 0.0)
        bad = f", {self._rejected:,} rejected" if self._rejected else ""
        return f"{done:,} of {self._total:,} {self._unit} ({share:.1f} %), {rates}{left}{bad}"

    def _left(self, rows: int, tokens_each: float) -> str:
        """The time left, by tokens where they are counted: rows that are left cost what those before them did."""
        if not rows:
            return ""
        if tokens_each and self.token_rate:
            return f", {duration(rows * tokens_each / self.token_rate)} left"
        return f", {duration(rows / self.rate)} left" if self._made else ""

    def _hear(self) -> None:
        self._heard, self._moved = self._clock(), time.time()

    def _write_if_due(self) -> None:
        if self._clock() - self._last >= self._every:
            self._write(final=False)

    def _tell(self) -> None:
        metrics.report_progress(self._earlier + self._now, self._total, self.rate, self._unit, self._moved)

    def _tell_again(self) -> None:
        with self._lock:
            if not self._closed.is_set():
                self._tell()

    def _write(self, *, final: bool) -> None:
        self._last = self._clock()
        line = self.line()
        if self._quiet or (final and self._written == line and not self._terminal):
            return
        self._written = line
        if self._terminal:
            # Back to the line's start, and clear what a longer line left.
            self._stream.write(f"\r\x1b[K{line}" + ("\n" if final else ""))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def _keep_telling(held: "weakref.ref[Progress]", closed: threading.Event) -> None:
    while not closed.wait(_METRIC_SECONDS):
        progress = held()
        if progress is None:
            return
        progress._tell_again()
        del progress


def duration(seconds: float) -> str:
    """Write a time span for people.

    >>> duration(9.4), duration(200), duration(7500), duration(3 * 86400 + 7200)
    ('9s', '3m20s', '2h05m', '3d02h')
    """
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not minutes:
        return f"{whole}s"
    if not hours:
        return f"{minutes}m{whole % 60:02d}s"
    return f"{hours}h{minutes % 60:02d}m" if not days else f"{days}d{hours % 24:02d}h"


def watched(
    items: Iterable[T], *, deadline_s: float, what: str = "a fragment", idle: Callable[[], float] | None = None
) -> Iterator[T]:
    """Give an iterable's items, and stop the job when none comes for too long.

    A lost task can leave a cluster waiting for ever; its driver has to notice.

    Args:
        items: read in a thread of its own, one item ahead.
        deadline_s: seconds that one item may take; without `idle` above the slowest fragment.
        what: what an item is, for the message.
        idle: seconds since those who make the items last gave a sign of life; each sign gives them their time again.

    Raises:
        StalledError: the deadline passed. Whatever the iterable raises is raised here too.
    """
    try:
        yield from ahead(items, timeout=deadline_s, idle=idle)
    except queue.Empty:
        sign = "" if idle is None else ", and no sign of life of a worker"
        message = f"no {what.removeprefix('a ')} came back within {duration(deadline_s)}{sign}"
        raise StalledError(message) from None


def ahead(items: Iterable[T], *, timeout: float | None = None, idle: Callable[[], float] | None = None) -> Iterator[T]:
    """Give an iterable's items, read in a thread of its own: one waits while the caller works on the one before.

    Args:
        items: read to their end, or until the caller stops asking.
        timeout: seconds that one item may take; None waits for ever.
        idle: seconds since a sign that the item is being made; the timeout counts from there.

    Raises:
        queue.Empty: the timeout passed. Whatever the iterable raises is raised here too.
    """
    ready: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(maxsize=1)
    left = threading.Event()

    def read() -> None:
        try:
            for item in items:
                _put(ready, ("item", item), left)
                if left.is_set():
                    return
            _put(ready, ("end", None), left)
        except BaseException as error:
            # Raised again in the thread that asked.
            _put(ready, ("error", error), left)

    threading.Thread(target=read, name="ahead", daemon=True).start()
    try:
        while True:
            kind, value = _get(ready, timeout, idle)
            if kind == "end":
                return
            if isinstance(value, BaseException) and kind == "error":
                raise value
            yield value  # type: ignore[misc]
    finally:
        left.set()


def setup_logging(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send this project's logs to a stream, and other libraries' only from warnings up.

    Args:
        level: of `pipelines` and `llava_core`.
        stream: standard error by default.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    for old in [found for found in root.handlers if getattr(found, "tessera", False)]:
        root.removeHandler(old)
    handler.tessera = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in ("pipelines", "llava_core", "schemas"):
        logging.getLogger(name).setLevel(level)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _put(ready: "queue.Queue[T]", value: T, left: threading.Event) -> None:
    while not left.is_set():
        try:
            ready.put(value, timeout=0.5)
        except queue.Full:
            continue
        return


def _get(ready: "queue.Queue[T]", timeout: float | None, idle: Callable[[], float] | None) -> T:
    left = timeout
    while True:
        try:
            return ready.get(timeout=left)
        except queue.Empty:
            # a caller who was long at the item before has not asked since: only a sign within this wait counts
            if timeout is None or idle is None or (left := timeout - idle()) <= 0:
                raise
