"""A process of this project's own that may die: started, talked to in frames, and asked why it ended.

    stdin   frames of the owner: length (4 bytes, little-endian), bytes
    stdout  frames of the child: the first one says that it is ready

No pickle: what is in a frame is the two sides' business, JSON and arrays. What this does *not* do: decide what becomes
of the work that ended a child (`sandbox` for images, `inference.engine_guard` for engines).
"""

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO, Any, BinaryIO

from llava_core.errors import ImageReason

LENGTH = struct.Struct("<I")
GRACE_SECONDS = 5.0
"""Time beyond a child's own alarm that it is given before it is killed."""
_PIPE_BYTES = 2**20
_KEPT = ("PATH", "LANG", "HOME", "LD_LIBRARY_PATH")

Buffer = bytes | bytearray | memoryview


class Died(Exception):
    """The process ended without an answer; `reason` says as what it counts for a row."""

    def __init__(self, reason: ImageReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Child:
    """One process, from its start to its end.

    Args:
        module: run as `python -m module argument`.
        argument: text, JSON usually.
        errors: whether its standard error is this process's own; else it is thrown away.
        environment: variables beside those that it needs to run: nothing else is handed on, no secret above all.
        start_seconds: time that it may take to be ready.

    Raises:
        Died: it ended, or was not ready in time.
    """

    def __init__(
        self, module: str, argument: str, *, environment: Mapping[str, str], start_seconds: float, errors: bool = False
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if errors else subprocess.DEVNULL,
            env=_environment(environment),
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            # pictures of a megabyte; where the system grants no more, the usual 64 kB do
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self.greeting = self.receive(time.monotonic() + start_seconds)
            """The first frame."""
        except Died:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, *frames: Buffer) -> None:
        """Send frames; where the process has died, that is for `receive` to find out."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            for frame in frames:
                write_frame(stdin, frame)
            stdin.flush()
        except (BrokenPipeError, ValueError):
            return

    def receive(self, deadline: float) -> bytearray:
        """Wait for one frame.

        Args:
            deadline: of `time.monotonic`; the process is killed when it has passed.

        Raises:
            Died: it ended, or did not answer in time.
        """
        (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
        return self._read(length, deadline)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            _close(pipe)

    def _read(self, length: int, deadline: float) -> bytearray:
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        found = bytearray(length)
        room = memoryview(found)
        while room:
            ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._process.kill()
                self._process.wait()
                raise Died(ImageReason.TIMEOUT, "it hung")
            count = os.readv(source, [room])
            if not count:
                raise cause(self._process.wait())
            room = room[count:]
        return found


def cause(code: int) -> Died:
    """Why a process ended, by its exit code.

    Example:
        >>> cause(-11).reason, cause(-9).reason, cause(3).detail
        (<ImageReason.DECODER_CRASH: 'DECODER_CRASH'>, <ImageReason.MEMORY: 'MEMORY'>, 'it crashed (exit code 3)')
    """
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return Died(ImageReason.TIMEOUT, "it took too long")
    if code == -signal.SIGKILL:
        return Died(ImageReason.MEMORY, "it was killed, as the system does where memory runs out")
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Died(ImageReason.DECODER_CRASH, f"it crashed ({name})")


def take_stdout() -> BinaryIO:
    """Return a child's standard output for frames alone: what a library prints goes to standard error from now on."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


def write_frame(stream: IO[bytes], *parts: Buffer) -> None:
    """Write one frame, in parts if they lie apart; the caller flushes."""
    stream.write(LENGTH.pack(sum(memoryview(part).nbytes for part in parts)))
    for part in parts:
        stream.write(part)


def read_frame(stream: BinaryIO) -> bytes | None:
    """Read one frame in a child; None where its owner has ended or closed it."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    return data if len(data) == length else None


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """What it needs to run, no secrets, and the path that this process finds its modules by."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)  # noqa: PTH109
    return kept | {"PYTHONPATH": path} | dict(more)


def _close(pipe: IO[Any] | None) -> None:
    # what was left in the buffer had a reader that died
    with contextlib.suppress(BrokenPipeError):
        if pipe is not None:
            pipe.close()
