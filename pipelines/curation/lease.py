"""One run at a time: a lease in the output folder, which refuses a second run and expires with the first one's driver.

    _lease/00000007.json   {"holder", "host", "process", "since", "expires"}

Each lease is a file with the next number, written only if it is not there, so that of several takers one wins. Its
holder pushes `expires` on while it works, and sets it to 0 when it ends. One that expired, or whose process is known
to be dead on this machine, is taken over by the next number. Clocks of machines may differ by less than `SECONDS`.
What this does *not* do: protect the tables, whose commits are safe without it; it saves doing the work twice.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from llava_core.errors import TesseraError
from pipelines.progress import duration
from pipelines.storage import StorageOptions, filesystem, join_uri, read_json, write_json, write_json_once

log = logging.getLogger(__name__)

SECONDS = 90.0
"""How long a lease lasts after it was last renewed."""
FOLDER = "_lease"


class LeaseError(TesseraError):
    """Another run holds the output, or took it over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds a lease."""

    holder: str
    """Random name."""
    host: str
    """Machine."""
    process: str
    """Boot, process space, process id and its start, by which its own machine knows whether it lives."""
    since: float
    """Seconds since 1970."""
    expires: float
    """Seconds since 1970; 0 once given back."""


class Lease:
    """The right to write into an output folder; use it in `with`.

    Args:
        output: the folder.
        storage_options: see `storage.storage_options`; None reads the environment.
        seconds: how long it lasts without its holder.
        clock: seconds since 1970; for tests.

    Raises:
        LeaseError: on entering, where another run holds it; from `check`, where another run took it over.
    """

    def __init__(
        self,
        output: str,
        storage_options: StorageOptions | None = None,
        *,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._options = join_uri(output, FOLDER), storage_options
        self._seconds, self._clock = seconds, clock
        self._number = 0
        now = clock()
        self._own = Holder(
            holder=uuid.uuid4().hex, host=socket.gethostname(), process=_process_name(), since=now, expires=now
        )
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        numbers = self._numbers()
        last = max(numbers, default=0)
        found = self._read(last) if last else None
        if found is not None and found.expires > self._clock() and not is_dead(found):
            raise LeaseError(self._refusal(found))
        self._number = last + 1
        if not write_json_once(self._uri(self._number), self._renewed(), self._options):
            raise LeaseError(self._refusal(self._read(self._number)))
        for old in numbers:
            store, path = filesystem(self._uri(old), self._options)
            store.rm_file(path)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if not self._taken_over():
            write_json(self._uri(self._number), self._renewed() | {"expires": 0.0}, self._options)

    def check(self) -> None:
        """Raise `LeaseError` where another run has taken the output over, because this one slept for too long."""
        if self._taken_over():
            raise LeaseError(
                f"{self._folder}: another run has taken over, since this one was not heard of for too long"
            )

    def _keep(self) -> None:
        while not self._ended.wait(self._seconds / 3):
            try:
                if self._taken_over():
                    return
                write_json(self._uri(self._number), self._renewed(), self._options)
            # whatever a store raises: without this thread another run would take over a living one
            except Exception as error:
                log.warning("%s could not be renewed, and is tried again: %s", self._folder, error)

    def _taken_over(self) -> bool:
        return max(self._numbers(), default=0) != self._number

    def _renewed(self) -> dict[str, object]:
        return asdict(self._own) | {"expires": self._clock() + self._seconds}

    def _read(self, number: int) -> Holder:
        try:
            return Holder(**read_json(self._uri(number), self._options))
        except FileNotFoundError as error:
            # whoever takes over writes the next lease, then removes this one
            raise LeaseError(f"{self._folder}: another run has taken over just now. Wait for its end") from error

    def _uri(self, number: int) -> str:
        return join_uri(self._folder, f"{number:08d}.json")

    def _numbers(self) -> list[int]:
        store, path = filesystem(self._folder, self._options)
        if not store.exists(path):
            return []
        store.invalidate_cache()
        stems = (Path(name).name.removesuffix(".json") for name in store.ls(path, detail=False))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def _refusal(self, found: Holder) -> str:
        since = datetime.fromtimestamp(found.since, UTC).isoformat(timespec="seconds")
        left = duration(max(0.0, found.expires - self._clock()))
        return (
            f"another run has been writing here since {since}, on {found.host}: {self._folder} is its lease. Wait for"
            f" its end; if it died, its lease expires in {left}"
        )


def is_dead(holder: Holder) -> bool:
    """Whether a holder was a process of this machine that is no more; False where only its own machine could know."""
    own, pid, started = _process_name().rpartition("/")[0], *holder.process.split("/")[-1].split(":")
    if holder.host != socket.gethostname() or holder.process.rpartition("/")[0] != own or not pid.isdigit():
        return False
    return _started(int(pid)) != started


def _process_name() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    if not (boot.exists() and space.is_symlink()):
        return "unknown/:"
    pid = os.getpid()
    return f"{boot.read_text().strip()}/{os.readlink(space)}/{pid}:{_started(pid)}"  # noqa: PTH115


def _started(pid: int) -> str:
    """When a process started, in ticks since the boot; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
