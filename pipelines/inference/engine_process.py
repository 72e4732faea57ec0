"""The process that holds an engine, apart from everything that must survive it.

    in   {"requests": […], "images": number}, then so many times: a JSON object, the image's file, uint8[N, 3, S, S]
    out  {"results": […]}, {"failed": text} or {"broken": text}; {"moved": tokens} each second in which a layer ran

"failed" is what an engine raised over these requests; "broken" is an error of this project's own, and stops the job.
A request for the image that another one has too names it by its place, so that it is sent once. The process ends with
its owner, whatever it is doing. What it does *not* do: load the engine (`engine_loading`), decide what becomes of
requests that ended it (`engine_guard`).
"""

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from llava_core.engine.types import Request, Result, Sample, SamplingConfig
from llava_core.errors import TesseraError
from llava_core.geometry import Size
from llava_core.tiled_image import TiledImage
from pipelines.child import Buffer, read_frame, take_stdout, write_frame

PULSE_SECONDS = 1.0
"""Between two signs of life."""

Beat = Callable[[int], None]
"""Told when a part of the model begins a pass: over how many tokens of the language model, 0 for the tower."""


class Generator(Protocol):
    """What the stage needs of an engine (`llava_core.Engine`), and what loads one returns."""

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order."""
        ...


def pack_requests(requests: Sequence[Request]) -> list[Buffer]:
    """Frames of some requests, whose images are tiled; each image once, however many requests have it."""
    places: dict[int, int] = {}
    images: list[TiledImage] = []
    packed = []
    for request in requests:
        own = []
        for image in request.images:
            assert isinstance(image, TiledImage), "images are tiled before they come here"
            if id(image) not in places:
                places[id(image)] = len(images)
                images.append(image)
            own.append(places[id(image)])
        packed.append(
            {
                "request_id": request.request_id,
                "prompt": request.prompt,
                "images": own,
                "sampling": dataclasses.asdict(request.sampling),
                "max_tiles": request.max_tiles,
            }
        )
    frames: list[Buffer] = [json.dumps({"requests": packed, "images": len(images)}).encode()]
    for image in images:
        head = {"size": image.size, "grid": image.grid, "shape": image.tiles.shape}
        frames += [json.dumps(head).encode(), image.file, image.tiles.reshape(-1).data]
    return frames


def unpack_requests(frames: Iterator[Buffer]) -> list[Request]:
    """The requests that `pack_requests` made frames of."""
    head = json.loads(bytes(next(frames)))
    images = []
    for _ in range(head["images"]):
        own, file = json.loads(bytes(next(frames))), bytes(next(frames))
        # a copy, because torch wants an array that may be written to
        tiles = np.frombuffer(next(frames), np.uint8).reshape(own["shape"]).copy()
        images.append(TiledImage(file, Size(*own["size"]), Size(*own["grid"]), tiles))
    return [
        Request(
            request_id=one["request_id"],
            prompt=one["prompt"],
            images=tuple(images[place] for place in one["images"]),
            sampling=SamplingConfig(**one["sampling"] | {"stop": tuple(one["sampling"]["stop"])}),
            max_tiles=one["max_tiles"],
        )
        for one in head["requests"]
    ]


def result_of(values: Mapping[str, Any]) -> Result:
    """Return the result whose `dataclasses.asdict` went through JSON."""
    sizes = {name: tuple(Size(*one) for one in values[name]) for name in ("image_sizes", "grids")}
    plain: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}
    samples = tuple(Sample(**one | {"token_ids": tuple(one["token_ids"])}) for one in values["samples"])
    return Result(**plain | sizes | {"samples": samples})


class _Replies:
    """Frames to the owner, with a sign of life between them; ends the process when the owner has gone."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._lock, self._counting = stream, threading.Lock(), threading.Lock()
        self._owner = os.getppid()
        self._moved: int | None = None
        threading.Thread(target=self._pulse, name="pulse", daemon=True).start()

    def beat(self, tokens: int) -> None:
        """Note that the engine moves; several threads may say so."""
        with self._counting:
            self._moved = (self._moved or 0) + tokens

    def send(self, values: Mapping[str, Any]) -> None:
        """Send one answer."""
        self._write(json.dumps(values).encode())

    def _pulse(self) -> None:
        waiting = threading.Event()
        while not waiting.wait(PULSE_SECONDS):
            if os.getppid() != self._owner:
                os._exit(0)
            with self._counting:
                moved, self._moved = self._moved, None
            if moved is not None:
                self.send({"moved": moved})

    def _write(self, frame: bytes) -> None:
        with self._lock, suppress(BrokenPipeError):
            write_frame(self._stream, frame)
            self._stream.flush()


def main(spec: dict[str, Any]) -> None:
    """Serve until the input ends."""
    replies = _Replies(take_stdout())
    with suppress(OSError):
        # where the machine runs out of memory, this process goes and its owner says why
        Path("/proc/self/oom_score_adj").write_text("900")
    module, _, function = spec["factory"].partition(":")
    try:
        engine: Any = getattr(import_module(module), function)(spec, replies.beat)
    except TesseraError as error:
        replies.send({"broken": f"{type(error).__name__}: {error}"})
        return
    replies.send({"ready": True})
    frames = iter(lambda: read_frame(sys.stdin.buffer), None)
    while True:
        try:
            requests = unpack_requests(frames)
        except StopIteration:
            return
        try:
            results = engine.generate(requests)
        except TesseraError as error:
            replies.send({"broken": f"{type(error).__name__}: {error}"})
        except Exception as error:  # an engine's own fault, over rows that have to be found
            # torch's own, of a device, is a RuntimeError by another name; torch is here only if the engine brought it
            memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            replies.send({"failed": f"{type(error).__name__}: {error}"[:2000], "memory": memory})
        else:
            replies.send({"results": [dataclasses.asdict(one) for one in results]})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
