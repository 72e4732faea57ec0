"""Images decoded in another process, so that one that crashes, hangs or fills the memory costs that image alone.

Images go through a pipe in order, and answers come back in order; so when the process dies, the first image without
an answer killed it. That one is tried again alone, in a fresh process, three times in all, because what ended the
process may have been another's doing; then it is refused with a reason. Its neighbours are decoded as if nothing had
happened.

What this does *not* do: run inside the process (`decoder_process`), talk to it (`child`), know rows.
"""

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from llava_core.config import check_at_least
from llava_core.errors import ImageReason, ImageRefused, TesseraError
from llava_core.image_headers import DecodeLimits
from pipelines.child import GRACE_SECONDS, Buffer, Child, Died

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


_Image = tuple[bytes, bytes]
"""Its options as JSON, and its file."""


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

    def __post_init__(self) -> None:
        check_at_least("sandbox", "memory_bytes", self.memory_bytes, 2**28)
        check_at_least("sandbox", "cpu_seconds", self.cpu_seconds, 0.01)
        check_at_least("sandbox", "wall_seconds", self.wall_seconds, 0.01)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a task made of one image."""

    values: Mapping[str, Any]
    """Its JSON object."""
    payload: Buffer
    """Its bytes."""


class Sandbox:
    """A process that decodes images, replaced whenever one of them ends it. Close it, or use it in `with`.

    Args:
        settings: its limits.
        task: `module:function` that is called with each image there; see `decoder_process`.
        options: for the task; JSON values.
        prepare: `module:function` that is called before the first image, outside of its limits.
        moved: told about each answer, and each time that an image ended the process.
    """

    def __init__(
        self,
        settings: SandboxSettings,
        task: str,
        options: Mapping[str, Any] | None = None,
        prepare: str | None = None,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.moved = settings, moved
        work = {"task": task, "options": dict(options or {}), "prepare": prepare}
        self._argument = json.dumps(dataclasses.asdict(settings) | work)
        self._child: Child | None = None

    def run(self, files: Sequence[bytes], options: Sequence[Mapping[str, Any]] = ()) -> list[Answer | ImageRefused]:
        """Call the task with images.

        Args:
            files: encoded images.
            options: of each, beside those for all; JSON values. None by default.

        Returns:
            For each, in order, what the task made of it or why it was refused.

        Raises:
            SandboxError: the process does not start.
        """
        own = [json.dumps(one).encode() for one in options or [{}] * len(files)]
        images = list(zip(own, files, strict=True))
        answers: list[Answer | ImageRefused] = []
        while len(answers) < len(images):
            try:
                self._stream(images[len(answers) :], answers)
            except Died as death:
                answers.append(self._alone(images[len(answers)], death))
        return answers

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _alone(self, image: _Image, death: Died) -> Answer | ImageRefused:
        """Try an image that has ended a process again, by itself."""
        for _ in range(MAX_ATTEMPTS - 1):
            answers: list[Answer | ImageRefused] = []
            try:
                self._stream([image], answers)
                return answers[0]
            except Died as again:
                death = again
        log.warning("an image of %d bytes ended %d decoding processes: %s", len(image[1]), MAX_ATTEMPTS, death.detail)
        return ImageRefused(death.reason, f"the decoder: {death.detail}, {MAX_ATTEMPTS} times")

    def _stream(self, images: Sequence[_Image], answers: list[Answer | ImageRefused]) -> None:
        """Send images and collect answers until the last one, or until the process dies."""
        child = self._child = self._child or self._start()
        # in a thread, because both pipes can be full at once
        feeder = threading.Thread(target=_feed, args=(child, images), name="feed", daemon=True)
        feeder.start()
        try:
            for _ in images:
                answers.append(self._receive(child))
                self.moved()
        except Died:
            self.close()
            self.moved()
            raise
        finally:
            feeder.join()

    def _receive(self, child: Child) -> Answer | ImageRefused:
        deadline = time.monotonic() + self.settings.wall_seconds + GRACE_SECONDS
        values = json.loads(child.receive(deadline))
        payload = child.receive(deadline)
        if "refused" in values:
            return ImageRefused(ImageReason(values["refused"]), values["detail"])
        return Answer(values, payload)

    def _start(self) -> Child:
        try:
            return Child(
                "pipelines.decoder_process",
                self._argument,
                environment=DECODER_ENVIRONMENT,
                start_seconds=START_SECONDS,
            )
        except Died as death:
            raise SandboxError(
                f"the decoding process does not start ({death.detail}) with {self.settings}; is memory_bytes too low?"
            ) from death


def _feed(child: Child, images: Sequence[_Image]) -> None:
    for image in images:
        child.send(*image)
