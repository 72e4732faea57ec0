"""Images looked at in a process that may die: `look` as a task of `pipelines.sandbox`.

What this does *not* do: measure (`look`), survive (`sandbox`), know rows (`probe`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_core.config import check_at_least
from llava_core.errors import ImageRefused
from llava_core.image_headers import DecodeLimits
from pipelines.curation.hashes import phash
from pipelines.curation.look import Decoder, ImageFacts, look
from pipelines.curation.measures import measure_pixels, to_grey
from pipelines.sandbox import Answer, Sandbox, SandboxSettings


@dataclass(frozen=True, slots=True)
class Looked:
    """What came back for one image."""

    facts: ImageFacts
    """What was found out."""
    square: NDArray[np.uint8] | None = None
    """uint8[S, S, 3], if one was asked for."""


class Looker:
    """A sandbox that looks at images. Close it, or use it in `with`.

    Args:
        settings: its limits.
        square: side of the square that models are shown, pixels; 0 for none.
    """

    def __init__(self, settings: SandboxSettings, square: int = 0) -> None:
        check_at_least("looker", "square", square, 0)
        self.square = square
        self.sandbox = Sandbox(settings, f"{__name__}:look_at", {"square": square}, f"{__name__}:prepare")

    def look(self, files: Sequence[bytes]) -> list[Looked | ImageRefused]:
        """Look at images.

        Args:
            files: encoded images.

        Returns:
            For each, in order, what was found out or why it was refused.

        Raises:
            SandboxError: the process does not start.
        """
        return [one if isinstance(one, ImageRefused) else self._looked(one) for one in self.sandbox.run(files)]

    def close(self) -> None:
        """End the process."""
        self.sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _looked(self, answer: Answer) -> Looked:
        side = self.square
        square = np.frombuffer(answer.payload, np.uint8).reshape(side, side, 3) if side else None
        return Looked(ImageFacts.from_json(dict(answer.values)), square)


def look_at(
    data: bytes, limits: DecodeLimits, decoder: Decoder, options: Mapping[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """The task: facts as JSON, and the centre of the image as one square uint8[S, S, 3] if one is asked for."""
    facts, pixels = look(data, limits=limits, decoder=decoder)
    return facts.to_json(), _square(pixels, options["square"]) if options["square"] else b""


def prepare() -> None:
    """Compile everything that loops over pixels, or load what was compiled before."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    grey = to_grey(pixels)
    phash(grey)
    measure_pixels(pixels, grey=grey)


def _square(pixels: NDArray[np.uint8], side: int) -> bytes:
    height, width = pixels.shape[:2]
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC, box=box).tobytes()
