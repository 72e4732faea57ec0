"""Pictures and rows that the tests of the probe share."""

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.fragments import CorpusRow

Pixels = NDArray[np.uint8]


def scene(seed: int = 0, height: int = 120, width: int = 170) -> Pixels:
    """Smooth colours with edges and fine grain, every seed another picture: uint8[H, W, 3]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    blocks = np.kron(rng.integers(-30, 30, (6, 8)), np.ones((-(-height // 6), -(-width // 8))))[:height, :width]
    grain = rng.integers(-9, 10, (height, width))
    return np.clip(smooth + (blocks + grain)[..., None], 0, 255).astype(np.uint8)


def encoded(pixels: Pixels, kind: str = "JPEG", **settings: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **settings)
    return file.getvalue()


def row(number: int, *images: bytes, metadata: dict[str, Any] | None = None, **changes: Any) -> CorpusRow:
    """A row whose every value differs with its number."""
    values: dict[str, Any] = {
        "uid": f"uid{number}",
        "uri": f"/corpus/web/{number}.jpg",
        "index": number,
        "images": images,
        "image_uris": tuple(f"/corpus/web/{number}.jpg" for _ in images),
        "text": f"Caption number {number}",
        "metadata": json.dumps(metadata or {}),
    }
    return CorpusRow(**(values | changes))
