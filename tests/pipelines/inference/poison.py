"""Engines for tests: what they do to their process stands in the first pixel of the picture."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_core.engine.types import Request, Result
from llava_core.errors import ConfigError
from llava_core.geometry import Size
from llava_core.images import decode_image
from llava_core.tiled_image import TiledImage

MARKS = {"crash": 1, "hang": 2, "swell": 3, "raise": 4, "exhaust": 5, "broken": 6, "slow": 7}
"""The first pixel's value by what it does: (250, 5, value)."""


def poisoned(pixels: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
    """A picture that does this to whoever generates about it."""
    marked = pixels.copy()
    marked[0, 0] = (250, 5, MARKS[what])
    return marked


def _pixels(image: Any) -> NDArray[np.uint8]:
    """Of a tiled image's file, decoded without torch, which takes seconds to load and has no part in these tests."""
    assert isinstance(image, TiledImage)
    return decode_image(image.file)


class PoisonEngine:
    """Says how large each image is; dies of those that say so."""

    def __init__(self, beat: Callable[[int], None]) -> None:
        self.beat = beat

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order."""
        for request in requests:
            image = _pixels(request.images[0])
            if tuple(image[0, 0, :2]) == (250, 5):
                self._suffer(int(image[0, 0, 2]))
        return [self._answer(request) for request in requests]

    def _suffer(self, mark: int) -> None:
        if mark == MARKS["crash"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        if mark == MARKS["hang"]:
            time.sleep(3600)
        if mark == MARKS["swell"]:
            # what the kernel does to the largest process where memory runs out
            os.kill(os.getpid(), signal.SIGKILL)
        if mark == MARKS["raise"]:
            raise ValueError("no such tile")
        if mark == MARKS["exhaust"]:
            raise MemoryError("no room")
        if mark == MARKS["broken"]:
            raise ConfigError("a contract")
        if mark == MARKS["slow"]:
            for _ in range(30):
                self.beat(4)
                time.sleep(0.1)

    def _answer(self, request: Request) -> Result:
        sizes = tuple(Size(*_pixels(image).shape[:2]) for image in request.images)
        height, width = sizes[0]
        return Result(
            request_id=request.request_id,
            text=f"{height} by {width}, {request.prompt} {request.max_tiles}",
            token_ids=(height, width),
            finish_reason="stop",
            num_prompt_tokens=7,
            num_image_tokens=5,
            mean_logprob=-0.5,
            min_logprob=-0.75,
            image_sizes=sizes,
            grids=(Size(1, 2),) * len(sizes),
        )


def engine(spec: Mapping[str, Any], beat: Callable[[int], None]) -> PoisonEngine:
    """The factory."""
    return PoisonEngine(beat)


def reading(spec: Mapping[str, Any], beat: Callable[[int], None]) -> PoisonEngine:
    """A factory that looks for its model's folder."""
    if not Path(spec["folder"], "config.json").is_file():
        raise ConfigError(f"no model in {spec['folder']}")
    return PoisonEngine(beat)


class DeliberateEngine(PoisonEngine):
    """Takes its time, so that something can happen meanwhile."""

    def __init__(self, beat: Callable[[int], None], seconds: float) -> None:
        super().__init__(beat)
        self.seconds = seconds

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order."""
        for _ in requests:
            self.beat(1)
            time.sleep(self.seconds)
        return super().generate(requests)


def deliberate(spec: Mapping[str, Any], beat: Callable[[int], None]) -> PoisonEngine:
    """A factory of an engine of twelve images a second."""
    return DeliberateEngine(beat, 0.08)


def slow(spec: Mapping[str, Any], beat: Callable[[int], None]) -> PoisonEngine:
    """A factory of an engine of two images a second."""
    return DeliberateEngine(beat, 0.5)


def broken(spec: Mapping[str, Any], beat: Callable[[int], None]) -> PoisonEngine:
    """A factory of an engine that always crashes."""

    class Broken(PoisonEngine):
        def generate(self, requests: Sequence[Request]) -> list[Result]:
            os.kill(os.getpid(), signal.SIGABRT)
            return []

    return Broken(beat)


def refusing(spec: Mapping[str, Any], beat: Callable[[int], None]) -> PoisonEngine:
    """A factory that says that its settings are wrong."""
    raise ConfigError(f"no engine of batch size {spec['batch_size']}")


def forgiving(spec: Mapping[str, Any], beat: Callable[[int], None]) -> PoisonEngine:
    """A factory of an engine that no picture harms."""

    class Forgiving(PoisonEngine):
        def _suffer(self, mark: int) -> None:
            """Nothing."""

    return Forgiving(beat)
