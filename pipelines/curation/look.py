"""One look at one encoded image: header, limits, one decode at reduced scale, hashes and measures.

    bytes ─ read_header ─▶ size, format ─ decode_image(at_least) ─▶ probe pixels ─▶ pixel hash, pHash, measures

The *probe pixels* are a function of the bytes alone: a JPEG is decoded by libjpeg at the smallest of its scales (1/8,
1/4, 3/8, 1/2) that leaves the longest side at `PROBE_SIDE` or more, everything else whole. Both hashes are of them. So
two JPEGs of the same size that differ only in what a half-size decode does not show have one pixel hash, and a large
JPEG that was saved as PNG is found by its pHash, not by its pixel hash.

This runs inside a process that may die (`decoder_process`). What it does *not* do: text, tile plans (`probe`).
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from llava_core.geometry import Size
from llava_core.image_headers import DEFAULT_LIMITS, DecodeLimits
from llava_core.images import decode_image, read_header
from pipelines.curation.hashes import HASH_BYTES, content_hash, phash, pixel_hash
from pipelines.curation.measures import JPEG_BLOCK, PixelMeasures, measure_pixels, to_grey

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PROBE_SIDE = 512
"""Pixels that the longest side of the probe pixels has at least, where the image has as many."""

Decoder = Callable[..., NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """What one look found out about one image."""

    content_hash: bytes
    """Of the encoded bytes; 16 bytes."""
    pixel_hash: bytes
    """Of the probe pixels and the true size; 16 bytes."""
    phash: int
    """64 bits, unsigned."""
    low_information: bool
    """Whether the pHash is mostly noise."""
    file_bytes: int
    """Encoded length."""
    format: str
    """By the first bytes."""
    size: Size
    """(height, width), upright, whole."""
    scale: float
    """Longest side of the probe pixels over that of the image."""
    measures: PixelMeasures
    """On the probe pixels."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` undoes it."""
        values = shallow(self) | {"measures": shallow(self.measures)}
        return values | {"content_hash": self.content_hash.hex(), "pixel_hash": self.pixel_hash.hex()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the facts that `to_json` gave."""
        hashes = {name: bytes.fromhex(values[name]) for name in ("content_hash", "pixel_hash")}
        parts = {"size": Size(*values["size"]), "measures": PixelMeasures(**values["measures"])}
        return cls(**{**values, **hashes, **parts})


def shallow(values: "DataclassInstance") -> dict[str, Any]:
    """The fields of a dataclass by name, themselves and not the copies that `dataclasses.asdict` spends its time on."""
    return {one.name: getattr(values, one.name) for one in dataclasses.fields(values)}


def look(
    data: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS, decoder: Decoder = decode_image
) -> tuple[ImageFacts, NDArray[np.uint8]]:
    """Decode an image once and find out everything about it that needs no model.

    Args:
        data: the encoded file.
        limits: what is refused before decoding.
        decoder: called as `decode_image` is; for tests.

    Returns:
        The facts, and the probe pixels uint8[h, w, 3].

    Raises:
        ImageRefused: whatever is wrong with the file.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (2000, 1000), (200, 30, 30)).save(file, "JPEG")
        >>> facts, pixels = look(file.getvalue())
        >>> facts.size, facts.scale, pixels.shape, facts.low_information
        (Size(height=1000, width=2000), 0.375, (375, 750, 3), True)
    """
    header = read_header(data, limits=limits)
    at_least = probe_size(header.size) if header.format == "JPEG" else None
    pixels = decoder(data, limits=limits, at_least=at_least)
    scale = max(pixels.shape[:2]) / max(header.size)
    grey = to_grey(pixels)
    hashed = phash(grey)
    facts = ImageFacts(
        content_hash=content_hash(data),
        pixel_hash=_whole_hash(pixels, header.size),
        phash=hashed.bits,
        low_information=hashed.low_information,
        file_bytes=len(data),
        format=header.format,
        size=header.size,
        scale=scale,
        measures=measure_pixels(pixels, grey=grey, block=round(JPEG_BLOCK * scale)),
    )
    return facts, pixels


def probe_size(size: Size) -> Size | None:
    """The least size of the probe pixels; None where the image is decoded whole.

    Example:
        >>> probe_size(Size(3000, 4001)), probe_size(Size(375, 500))
        (Size(height=384, width=512), None)
    """
    longest = max(size)
    if longest < 2 * PROBE_SIDE:
        return None
    return Size(*(math.ceil(side * PROBE_SIDE / longest) for side in size))


def _whole_hash(pixels: NDArray[np.uint8], size: Size) -> bytes:
    """The pixel hash; of reduced pixels together with the size that they stand for."""
    own = pixel_hash(pixels)
    if pixels.shape[:2] == size:
        return own
    return blake2b(own + repr(tuple(size)).encode(), digest_size=HASH_BYTES).digest()
