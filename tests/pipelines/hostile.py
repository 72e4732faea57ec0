"""Decoders for tests: what they do to their process stands in the file, after the picture."""

import os
import signal
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_core.image_headers import DecodeLimits
from llava_core.images import decode_image
from pipelines.decoder_process import Decoder

MARK = b"\nHOSTILE:"
PIXELS = f"{__name__}:pixels"
"""A task that decodes and does nothing else."""
warm: list[float] = []
"""When `warm_up` was called, seconds of processor time."""


def warm_up() -> None:
    """Work for 0.6 seconds, which is longer than an image may take in tests."""
    start = time.process_time()
    while time.process_time() < start + 0.6:
        pass
    warm.append(start)


def decode(data: bytes, **options: Any) -> NDArray[np.uint8]:
    """Decode an image, unless it says `crash`, `hang`, `spin`, `swell`, `killed`, `once=PATH`, `exit` or `warm`."""
    _, marked, what = data.partition(MARK)
    match what.partition(b"="):
        case (b"crash", _, _):
            os.kill(os.getpid(), signal.SIGSEGV)
        case (b"killed", _, _):
            os.kill(os.getpid(), signal.SIGKILL)
        case (b"exit", _, _):
            os._exit(3)
        case (b"warm", _, _):
            assert warm, "warm_up was not called"
        case (b"hang", _, _):
            time.sleep(3600)
        case (b"spin", _, _):
            while True:
                pass
        case (b"swell", _, _):
            held = [np.empty(2**28, np.uint8) for _ in range(64)]
            raise AssertionError(f"{len(held)} × 256 MiB fitted")
        case (b"once", _, path) if not Path(path.decode()).exists():
            Path(path.decode()).touch()
            os.kill(os.getpid(), signal.SIGABRT)
        case _:
            assert not marked or what.startswith(b"once="), what
    return decode_image(data, **options)


def pixels(
    data: bytes, limits: DecodeLimits, decoder: Decoder, options: Mapping[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """The shape of an image, the options, and its uint8[H, W, 3]."""
    found = decoder(data, limits=limits)
    return {"shape": found.shape, **options}, found.tobytes()


def hostile(picture: bytes, what: str) -> bytes:
    """A picture that does this to whoever decodes it."""
    return picture + MARK + what.encode()


def noting(log: Path, pause: float = 0.0) -> str:
    """The name, as settings take it, of a decoder that first writes a line to a file, and waits some seconds."""
    return f"{__name__}:noting_{os.fsencode(log).hex()}_{pause}"


def __getattr__(name: str) -> Any:
    """The decoder that `noting` names: a process of its own finds it by nothing but this name."""
    if not name.startswith("noting_"):
        raise AttributeError(name)
    place, _, pause = name.removeprefix("noting_").partition("_")
    log = Path(os.fsdecode(bytes.fromhex(place)))

    def noted(data: bytes, **options: Any) -> NDArray[np.uint8]:
        with log.open("a") as file:
            file.write(sha256(data).hexdigest() + "\n")
        time.sleep(float(pause))
        return decode(data, **options)

    return noted
