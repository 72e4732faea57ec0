"""Small pictures for pages: decoded at arm's length, made small there, and as the HTML that shows them.

What this does *not* do: find pictures.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from llava_core.decoder_guard import refusing_what_fails
from llava_core.errors import ImageReason, ImageRefused
from llava_core.geometry import Size
from llava_core.image_formats import sniff_format
from llava_core.image_headers import DecodeLimits, check_limits
from pipelines.child import Buffer
from pipelines.decoder_process import Decoder
from pipelines.sandbox import Sandbox, SandboxSettings

SIDE = 256
"""Longest side of a thumbnail, pixels."""
SHRINK = "pipelines.pictures:shrink"
"""The task that a decoding process runs for `thumbnails`."""


def thumbnails(
    files: Sequence[bytes], settings: SandboxSettings | None = None, *, side: int = SIDE, broken: bool = False
) -> list[bytes | None]:
    """Make images small, in a process that may die of them.

    Args:
        files: encoded images.
        settings: limits of the process.
        side: longest side of a thumbnail, pixels.
        broken: show as much as there is of an image that is cut off.

    Returns:
        For each, in order, a JPEG; None where the image is refused.

    Raises:
        SandboxError: the process does not start.
    """
    if not files:
        return []
    options = {"side": side, "broken": broken}
    with Sandbox(settings or SandboxSettings(), SHRINK, options) as sandbox:
        found = sandbox.run(files)
    return [None if isinstance(one, ImageRefused) else bytes(one.payload) for one in found]


def shrink(
    data: bytes, limits: DecodeLimits, decoder: Decoder, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Buffer]:
    """The task: a JPEG of at most `side` a side.

    Raises:
        ImageRefused: it cannot be decoded.
    """
    side = options["side"]
    try:
        pixels = decoder(data, limits=limits, at_least=Size(side, side))
    except ImageRefused as refused:
        if not options["broken"] or refused.reason != ImageReason.TRUNCATED:
            raise
        pixels = _what_there_is(data, limits)
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=76)
    return {}, file.getvalue()


def _what_there_is(data: bytes, limits: DecodeLimits) -> NDArray[np.uint8]:
    """The pixels of an image that is cut off, grey where there are none; its size has to be within the limits."""
    name = sniff_format(data)
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        with refusing_what_fails(name), Image.open(io.BytesIO(data), formats=[name]) as image:
            # A header that ends too soon was refused as such, before its size was looked at.
            check_limits(Size(image.height, image.width), limits)
            return np.asarray(image.convert("RGB"))
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def image_tag(data: bytes | None, words: str) -> str:
    """HTML of a picture, or of the words where there is none.

    Example:
        >>> image_tag(None, "a<b")
        '<div class="noimage">a&lt;b</div>'
    """
    alt = html.escape(words)
    if data is None:
        return f'<div class="noimage">{alt}</div>'
    return f'<img loading="lazy" alt="{alt}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
