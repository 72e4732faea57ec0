"""The process that decodes, apart from everything that must survive it: `python -m pipelines.decoder_process`.

    in   a JSON object of options, then an encoded image; again and again
    out  a JSON object, then bytes: for each image what the task made of it, or {"refused", "detail"} and nothing

A *task* is a function `(data, limits, decoder, options) -> (JSON object, bytes)`; its options are those that the
process was started with and the image's own. Limits, set on itself: memory (address space), processor time and time
for each image; beyond the last two the kernel ends it. It has no secret in its environment, and ends with its input.
What it does *not* do: decide what becomes of an image that ended it (`sandbox`).
"""

import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_core.errors import ImageReason, ImageRefused
from llava_core.image_headers import DecodeLimits
from pipelines.child import Buffer, read_frame, take_stdout, write_frame
from pipelines.fragments import printable

Decoder = Callable[..., NDArray[np.uint8]]
Task = Callable[[bytes, DecodeLimits, Decoder, Mapping[str, Any]], tuple[dict[str, Any], Buffer]]


def main(settings: dict[str, Any]) -> None:
    """Serve until the input ends; see `sandbox.SandboxSettings` for the settings."""
    replies = take_stdout()
    limits = DecodeLimits(**settings["limits"])
    decoder, task = _find(settings["decoder"]), _find(settings["task"])
    if settings["prepare"] is not None:
        _find(settings["prepare"])()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"],) * 2)
    for name in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    write_frame(replies, b"{}")
    replies.flush()
    while (own := read_frame(sys.stdin.buffer)) is not None and (data := read_frame(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_PROF, settings["cpu_seconds"])
        signal.setitimer(signal.ITIMER_REAL, settings["wall_seconds"])
        found, payload = _answer(data, limits, decoder, task, {**settings["options"], **json.loads(own)})
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_frame(replies, json.dumps(found).encode())
        write_frame(replies, payload)
        replies.flush()


def _answer(
    data: bytes, limits: DecodeLimits, decoder: Decoder, task: Task, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Buffer]:
    try:
        return task(data, limits, decoder, options)
    except ImageRefused as refused:
        return {"refused": str(refused.reason), "detail": printable(refused.detail)}, b""
    except MemoryError:
        return {"refused": str(ImageReason.MEMORY), "detail": "the decoder's memory limit was reached"}, b""


def _find(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
