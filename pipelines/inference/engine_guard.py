"""An engine in a process that may die, and what becomes of the row that ended it.

    32 requests ─ die ─▶ groups of 6 ─ one dies ─▶ each alone ─ one dies, twice ─▶ rejected, the others served

Which requests are in flight is known here, on the safe side of the pipe, so nothing that was finished is lost and no
neighbour is harmed. Before a request is rejected, the fresh engine has to answer a plain one: an engine that cannot do
that is broken, and a broken engine stops the job rather than reject a corpus.

What this does *not* do: run the engine (`engine_process`), order or share requests (`prepare`, `replies`).
"""

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llava_core.config import check_at_least
from llava_core.engine import EngineName
from llava_core.engine.types import Request, Result, SamplingConfig
from llava_core.errors import ImageReason, TesseraError
from pipelines.child import Child, Died
from pipelines.inference.config import Dtype, Quantize
from pipelines.inference.engine_process import pack_requests, result_of

log = logging.getLogger(__name__)

PARTS = 6
"""Groups that requests are split into when they ended the engine: each end costs loading the model again, each group
costs batching, and of 32 requests 6 groups find the one in two steps."""
ALONE_TRIES = 2
"""Times that a request is tried alone before it is rejected."""
START_SECONDS = 1800.0
"""Time that a model may take to load."""
FACTORY = "pipelines.inference.engine_loading:load_engine"
"""What makes engines."""
_SECRETS = ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "CREDENTIAL")


class EngineError(TesseraError):
    """The engine does not start, or fails over a request that any engine answers; stops the job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """What the engine's process needs; plain values, no secret."""

    folder: str
    """Of the checkpoint, on this machine."""
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

    Raises:
        EngineError: the engine does not start; the message carries its own error.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.restarts = 0
        """Processes started so far because the one before died."""
        self._child: Child | None = self._start()

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order.

        Args:
            requests: their images decoded.

        Raises:
            EngineError: the engine is broken.
        """
        if not requests:
            return []
        try:
            return self._call(requests)
        except Died as death:
            log.warning("%d requests ended the engine: %s", len(requests), death)
            if len(requests) == 1:
                return [self._alone(requests[0], death)]
        size = math.ceil(len(requests) / PARTS)
        parts = (requests[at : at + size] for at in range(0, len(requests), size))
        if size == 1:
            return [self._alone(request, None) for request in requests]
        return [result for part in parts for result in self.generate(part)]

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
        detail = f"the engine: {death.detail}, alone and {ALONE_TRIES} times"
        return Result(request_id=request.request_id, error=str(death.reason), error_detail=detail)

    def _call(self, requests: Sequence[Request]) -> list[Result]:
        if self._child is None:
            self.restarts += 1
            self._child = self._start()
        child = self._child
        try:
            child.send(*pack_requests(requests))
            answer = json.loads(next(self._answers(child)))
            if "failed" in answer:
                # what it left behind, on the device above all, is anybody's guess
                reason = ImageReason.MEMORY if answer["memory"] else ImageReason.DECODER_CRASH
                raise Died(reason, f"it raised {answer['failed']}")
        except Died:
            self.close()
            raise
        if "broken" in answer:
            raise EngineError(answer["broken"])
        return [result_of(one) for one in answer["results"]]

    def _answers(self, child: Child) -> Iterator[bytearray]:
        """Frames with something in them; each empty one gives the engine its time again."""
        while True:
            frame = child.receive(time.monotonic() + self.spec.timeout)
            if frame:
                yield frame

    def _start(self) -> Child:
        environment = {name: value for name, value in os.environ.items() if not any(word in name for word in _SECRETS)}
        argument = json.dumps(dataclasses.asdict(self.spec))
        try:
            child = Child(
                "pipelines.inference.engine_process",
                argument,
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
        return child


def _plain_request() -> Request:
    """A request that every engine answers: one grey image, one word, one token."""
    image = np.full((32, 48, 3), 128, np.uint8)
    return Request(
        request_id="plain", prompt="Describe.", images=(image,), sampling=SamplingConfig(max_new_tokens=1), max_tiles=0
    )
