"""Images looked at in another process, so that one that crashes, hangs or fills the memory costs that image alone.

Images go through a pipe in order, and answers come back in order; so when the process dies, the first image without
an answer killed it. That one is tried again alone, in a fresh process, three times in all, because what ended the
process may have been another's doing; then it is refused with a reason. Its neighbours are looked at as if nothing had
happened. No pickle: frames are bytes and JSON.

What this does *not* do: run inside the process (`decoder_process`), know rows (`probe`).
"""

import dataclasses
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from llava_core.config import check_at_least
from llava_core.errors import ImageReason, ImageRefused, TesseraError
from llava_core.image_headers import DecodeLimits
from pipelines.curation.decoder_process import LENGTH
from pipelines.curation.look import ImageFacts

log = logging.getLogger(__name__)

DECODER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**24),
}
"""One thread, and memory that is kept for the next image: pictures of half a megabyte that glibc asks of the kernel
and gives back each time cost a third of the whole (measured)."""
MAX_ATTEMPTS = 3
"""Times that an image may end the process before it is refused."""
START_SECONDS = 120.0
"""Time that a process may take to be ready, on a busy machine."""
GRACE_SECONDS = 5.0
"""Time beyond its own alarm that a process is given before it is killed."""


class SandboxError(TesseraError):
    """The decoding process does not start; stops the job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxSettings:
    """Limits of the process that decodes."""

    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """What is refused before it is decoded."""
    memory_bytes: int = 2 * 2**30
    """Address space of the process; a 64-megapixel image takes about 0.7 GB of it, the process itself 0.3."""
    cpu_seconds: float = 20.0
    """Processor time for one image."""
    wall_seconds: float = 60.0
    """Time for one image, on a busy machine."""
    decoder: str = "llava_core.images:decode_image"
    """`module:function` that decodes; another one only in tests."""
    square: int = 0
    """Side of the square that models are shown, pixels; 0 for none."""

    def __post_init__(self) -> None:
        check_at_least("sandbox", "memory_bytes", self.memory_bytes, 2**28)
        check_at_least("sandbox", "cpu_seconds", self.cpu_seconds, 0.01)
        check_at_least("sandbox", "wall_seconds", self.wall_seconds, 0.01)
        check_at_least("sandbox", "square", self.square, 0)


@dataclass(frozen=True, slots=True)
class Looked:
    """What came back for one image."""

    facts: ImageFacts
    """What was found out."""
    square: NDArray[np.uint8] | None = None
    """uint8[S, S, 3], if one was asked for."""


class _Died(Exception):
    """The process ended without an answer."""

    def __init__(self, reason: ImageReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Sandbox:
    """A process that looks at images, replaced whenever one of them ends it. Close it, or use it in `with`."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def look(self, files: Sequence[bytes]) -> list[Looked | ImageRefused]:
        """Look at images.

        Args:
            files: encoded images.

        Returns:
            For each, in order, what was found out or why it was refused.

        Raises:
            SandboxError: the process does not start.
        """
        answers: list[Looked | ImageRefused] = []
        while len(answers) < len(files):
            try:
                self._stream(files[len(answers) :], answers)
            except _Died as death:
                answers.append(self._alone(files[len(answers)], death))
        return answers

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._end(self._process)
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _alone(self, data: bytes, death: _Died) -> Looked | ImageRefused:
        """Try an image that has ended a process again, by itself."""
        for _ in range(MAX_ATTEMPTS - 1):
            answers: list[Looked | ImageRefused] = []
            try:
                self._stream([data], answers)
                return answers[0]
            except _Died as again:
                death = again
        log.warning("an image of %d bytes ended %d decoding processes: %s", len(data), MAX_ATTEMPTS, death.detail)
        return ImageRefused(death.reason, f"{death.detail}, {MAX_ATTEMPTS} times")

    def _stream(self, files: Sequence[bytes], answers: list[Looked | ImageRefused]) -> None:
        """Send images and collect answers until the last one, or until the process dies."""
        process = self._process = self._process or self._start()
        # in a thread, because both pipes can be full at once
        feeder = threading.Thread(target=_feed, args=(process, files), name="feed", daemon=True)
        feeder.start()
        try:
            for _ in files:
                answers.append(self._receive(process))
        except _Died:
            self.close()
            raise
        finally:
            feeder.join()

    def _receive(self, process: subprocess.Popen[bytes]) -> Looked | ImageRefused:
        deadline = time.monotonic() + self.settings.wall_seconds + GRACE_SECONDS
        answer = json.loads(_read_frame(process, deadline))
        if "refused" in answer:
            return ImageRefused(ImageReason(answer["refused"]), answer["detail"])
        side = self.settings.square
        square = np.frombuffer(_read_frame(process, deadline), np.uint8).reshape(side, side, 3) if side else None
        return Looked(ImageFacts.from_json(answer["facts"]), square)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.curation.decoder_process", json.dumps(dataclasses.asdict(self.settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        try:
            _read_frame(process, time.monotonic() + START_SECONDS)
        except _Died as death:
            self._end(process)
            raise SandboxError(
                f"the decoding process does not start ({death.detail}) with {self.settings}; is memory_bytes too low?"
            ) from death
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            _close(pipe)


def _environment() -> dict[str, str]:
    """No secrets, `DECODER_ENVIRONMENT`, and the path that this process finds its modules by."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)  # noqa: PTH109
    return kept | DECODER_ENVIRONMENT | {"PYTHONPATH": path}


def _feed(process: subprocess.Popen[bytes], files: Sequence[bytes]) -> None:
    assert process.stdin is not None
    try:
        for data in files:
            process.stdin.write(LENGTH.pack(len(data)) + data)
            process.stdin.flush()
    except (BrokenPipeError, ValueError):
        # the process died: whoever waits for its answers finds out why
        return


def _read_frame(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    (length,) = LENGTH.unpack(_read_exactly(process, LENGTH.size, deadline))
    return _read_exactly(process, length, deadline)


def _read_exactly(process: subprocess.Popen[bytes], length: int, deadline: float) -> bytes:
    """Read so many bytes of the process's answers.

    Raises:
        _Died: it ended, or did not answer in time and was killed.
    """
    assert process.stdout is not None
    source = process.stdout.fileno()
    parts: list[bytes] = []
    while length:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            process.kill()
            process.wait()
            raise _Died(ImageReason.TIMEOUT, "the decoder hung")
        part = os.read(source, length)
        if not part:
            raise _cause(process.wait())
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _cause(code: int) -> _Died:
    """Why a process ended, by its exit code."""
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return _Died(ImageReason.TIMEOUT, "the decoder took too long")
    if code == -signal.SIGKILL:
        return _Died(ImageReason.MEMORY, "the decoder was killed, as the system does where memory runs out")
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return _Died(ImageReason.DECODER_CRASH, f"the decoder crashed ({name})")


def _close(pipe: IO[Any] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except BrokenPipeError:
        # what was left in the buffer had a reader that died
        return
