"""The process that decodes, apart from everything that must survive it: `python -m pipelines.curation.decoder_process`.

    stdin   length (4 bytes, little-endian), an encoded image; again and again
    stdout  length, a JSON object: {"ready"}, then for each image {"facts"} or {"refused", "detail"};
            after facts, if a square was asked for, length and its uint8[S, S, 3]

Limits, set on itself: memory (address space), processor time and time for each image; beyond the last two the kernel
ends it. It has no secret in its environment, and ends with its input. What it does *not* do: decide what becomes of an
image that ended it (`sandbox`).
"""

import json
import os
import resource
import signal
import struct
import sys
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_core.errors import ImageReason, ImageRefused
from llava_core.image_headers import DecodeLimits
from pipelines.curation.look import Decoder, look
from pipelines.fragments import printable

LENGTH = struct.Struct("<I")


def main(settings: dict[str, Any]) -> None:
    """Serve until the input ends; see `sandbox.SandboxSettings` for the settings."""
    replies = os.fdopen(os.dup(1), "wb")
    # what a decoder writes to standard output must not be taken for a reply
    os.dup2(2, 1)
    limits = DecodeLimits(**settings["limits"])
    decoder = _find(settings["decoder"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"],) * 2)
    for name in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    _write(replies, b'{"ready": true}')
    while (data := _read(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_PROF, settings["cpu_seconds"])
        signal.setitimer(signal.ITIMER_REAL, settings["wall_seconds"])
        answer = _answer(data, limits, decoder, settings["square"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for frame in answer:
            _write(replies, frame)


def _answer(data: bytes, limits: DecodeLimits, decoder: Decoder, square: int) -> list[bytes]:
    try:
        facts, pixels = look(data, limits=limits, decoder=decoder)
        frames = [json.dumps({"facts": facts.to_json()}).encode()]
        return [*frames, _square(pixels, square)] if square else frames
    except ImageRefused as refused:
        answer = {"refused": str(refused.reason), "detail": printable(refused.detail)}
    except MemoryError:
        answer = {"refused": str(ImageReason.MEMORY), "detail": "the decoder's memory limit was reached"}
    return [json.dumps(answer).encode()]


def _square(pixels: NDArray[np.uint8], side: int) -> bytes:
    """The centre of the image as one square: uint8[S, S, 3]."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC, box=box).tobytes()


def _find(name: str) -> Decoder:
    module, _, function = name.partition(":")
    found: Decoder = getattr(import_module(module), function)
    return found


def _read(stream: BinaryIO) -> bytes | None:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    return data if len(data) == length else None


def _write(stream: BinaryIO, frame: bytes) -> None:
    stream.write(LENGTH.pack(len(frame)) + frame)
    stream.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
