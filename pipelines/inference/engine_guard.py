"""An engine in a process that may die, and what becomes of the row that ended it.

    32 requests ─ die ─▶ groups of 6 ─ one dies ─▶ each alone ─ one dies, twice ─▶ rejected, the others served

Which requests are in flight is known here, on the safe side of the pipe, so nothing that was finished is lost and no
neighbour is harmed. Before a request is rejected, the fresh engine has to answer a plain one: an engine that cannot do
that is broken, and a broken engine stops the job rather than reject a corpus.

What this does *not* do: run the engine (`engine_process`), order or share requests (`prepare`, `replies`).
"""

import dataclasses
import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from llava_core.config import check_at_least
from llava_core.engine import EngineName
from llava_core.engine.types import Request, Result, SamplingConfig
from llava_core.errors import ImageReason, TesseraError
from llava_core.geometry import Size
from llava_core.tiled_image import TiledImage
from pipelines.child import Child, Died
from pipelines.inference.config import Dtype, Quantize
from pipelines.inference.engine_process import pack_requests, result_of
from pipelines.models import local_model
from pipelines.storage import StorageOptions

log = logging.getLogger(__name__)

PARTS = 6
"""Groups that requests are split into when they ended the engine: each end costs loading the model again, each group
costs batching, and of 32 requests 6 groups find the one in two steps."""
ALONE_TRIES = 2
"""Times that a request is tried alone before it is rejected."""
BLAMED = 2
"""Requests about the same images, rejected with none answered between them, after which all others about them are."""
START_SECONDS = 1800.0
"""Time that a model may take to load."""
FACTORY = "pipelines.inference.engine_loading:load_engine"
"""What makes engines."""
Pictures = tuple[int, ...]
"""What a request's images are told from others by, while it is held: requests about one image share it; empty without
images, which tells nothing."""
_SECRETS = ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "CREDENTIAL")


class EngineError(TesseraError):
    """The engine does not start, or fails over a request that any engine answers; stops the job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """What the engine's process needs; plain values, no secret."""

    folder: str
    """Of the checkpoint, on this machine or in a store; the engine's process gets a copy while it loads."""
    dtype: Dtype
    """Of the weights."""
    quantize: Quantize | None
    """Bits of the language model; None leaves it as it is stored."""
    engine: EngineName
    """Which engine."""
    batch_size: int
    """Requests that it decodes together."""
    device: str
    """Where it runs."""
    threads: int
    """For arithmetic."""
    timeout: float
    """Seconds without a pass through the model after which it is ended."""
    factory: str = FACTORY
    """`module:function` that makes it; another one only in tests."""

    def __post_init__(self) -> None:
        check_at_least("engine", "timeout", self.timeout, 0.1)


class EngineGuard:
    """Answers requests as an engine does, whatever they do to it. Starts at once, so that a refusal comes early.

    Args:
        spec: of the engine.
        moved: told about each second in which the engine made a step, how many tokens went through it, and, with none,
            when an engine has ended or started.
        options: of the store that the checkpoint is in.

    Raises:
        EngineError: the engine does not start; the message carries its own error.
    """

    def __init__(
        self, spec: EngineSpec, moved: Callable[[int], None] = lambda _: None, options: StorageOptions | None = None
    ) -> None:
        self.spec, self.moved, self.options = spec, moved, options
        self.restarts = 0
        """Processes started so far because the one before died."""
        self._blamed: dict[Pictures, list[Died]] = {}
        self._child: Child | None = self._start()

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order.

        Args:
            requests: their images tiled.

        Raises:
            EngineError: the engine is broken.
        """
        self._blamed = {}
        return self._serve(requests)

    def _serve(self, requests: Sequence[Request]) -> list[Result]:
        """Answer requests, those at once whose images have ended the engine often enough."""
        given_up = [self._given_up(request) for request in requests]
        left = [request for request, found in zip(requests, given_up, strict=True) if found is None]
        answers = iter(self._try(left) if left else ())
        return [next(answers) if found is None else found for found in given_up]

    def _try(self, requests: Sequence[Request]) -> list[Result]:
        """Answer requests together, or in groups where they end the engine."""
        try:
            return self._call(requests)
        except Died as death:
            log.warning("%d requests ended the engine: %s", len(requests), death)
            if len(requests) == 1:
                return [self._alone(requests[0], death)]
        size = math.ceil(len(requests) / PARTS)
        if size == 1:
            return [self._given_up(request) or self._alone(request, None) for request in requests]
        parts = (requests[at : at + size] for at in range(0, len(requests), size))
        return [result for part in parts for result in self._serve(part)]

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _alone(self, request: Request, death: Died | None) -> Result:
        """Try a request by itself, and reject it when it ends the engine each time."""
        for _ in range(ALONE_TRIES):
            try:
                return self._call([request])[0]
            except Died as again:
                death = again
        assert death is not None
        try:
            self._call([_plain_request()])
        except Died as broken:
            raise EngineError(
                f"the engine ends over request {request.request_id} ({death}) and over a plain one too ({broken}), so "
                "it is the engine that is broken: its device, its memory or its installation"
            ) from broken
        log.warning(
            "request %s is rejected: alone it ended the engine %d times: %s", request.request_id, ALONE_TRIES, death
        )
        if pictures := _pictures(request):
            self._blamed.setdefault(pictures, []).append(death)
        detail = f"the engine: {death.detail}, alone and {ALONE_TRIES} times"
        return Result(request_id=request.request_id, error=str(death.reason), error_detail=detail)

    def _given_up(self, request: Request) -> Result | None:
        """The rejection of a request whose images have ended the engine with every request that was tried; else None.

        One of them may be the question's fault, two in a row are the images': fifty questions about one image would
        otherwise cost a hundred loads of the model.
        """
        blamed = self._blamed.get(_pictures(request), [])
        if len(blamed) < BLAMED:
            return None
        death = blamed[-1]
        detail = f"the engine: {death.detail}, over {BLAMED} other requests about these images; this one was not tried"
        return Result(request_id=request.request_id, error=str(death.reason), error_detail=detail)

    def _call(self, requests: Sequence[Request]) -> list[Result]:
        if self._child is None:
            self.restarts += 1
            self._child = self._start()
        child = self._child
        try:
            child.send(*pack_requests(requests))
            answer = self._answer(child)
            if "failed" in answer:
                # what it left behind, on the device above all, is anybody's guess
                reason = ImageReason.MEMORY if answer["memory"] else ImageReason.DECODER_CRASH
                raise Died(reason, f"it raised {answer['failed']}")
        except Died:
            self.close()
            self.moved(0)
            raise
        if "broken" in answer:
            raise EngineError(answer["broken"])
        for request in requests:
            self._blamed.pop(_pictures(request), None)
        return [result_of(one) for one in answer["results"]]

    def _answer(self, child: Child) -> dict[str, Any]:
        """What the engine answers; each sign that it moves gives it its time again."""
        while "moved" in (answer := json.loads(child.receive(time.monotonic() + self.spec.timeout))):
            self.moved(answer["moved"])
        return dict(answer)

    def _start(self) -> Child:
        environment = {name: value for name, value in os.environ.items() if not any(word in name for word in _SECRETS)}
        try:
            # copied here, because the process is told no secret
            with local_model(self.spec.folder, self.options) as folder:
                child = Child(
                    "pipelines.inference.engine_process",
                    json.dumps(dataclasses.asdict(dataclasses.replace(self.spec, folder=folder))),
                    environment=environment,
                    start_seconds=START_SECONDS,
                    errors=True,
                )
        except Died as death:
            raise EngineError(f"the engine's process does not start: {death}; see the worker's log") from death
        greeting = json.loads(child.greeting or b"{}")
        if "broken" in greeting:
            child.close()
            raise EngineError(greeting["broken"])
        self.moved(0)
        return child


def _pictures(request: Request) -> Pictures:
    return tuple(map(id, request.images))


def _plain_request() -> Request:
    """A request that every engine answers: one grey image, which the engine tiles; one word, one token."""
    file = io.BytesIO()
    Image.new("RGB", (48, 32), (128, 128, 128)).save(file, "PNG")
    grey = TiledImage(file.getvalue(), Size(32, 48), Size(0, 0), np.empty((0, 3, 0, 0), np.uint8))
    return Request(
        request_id="plain", prompt="Describe.", images=(grey,), sampling=SamplingConfig(max_new_tokens=1), max_tiles=0
    )
