"""One picture for a page: made small, and as the HTML that shows it.

What this does *not* do: find pictures.
"""

import base64
import html
import io

from PIL import Image

from llava_core.geometry import Size
from llava_core.images import decode_image

SIDE = 256
"""Longest side of a thumbnail, pixels."""


def thumbnail(data: bytes) -> bytes:
    """Shrink an encoded image to a JPEG of at most `SIDE` a side.

    Raises:
        ImageRefused: it cannot be decoded.
    """
    image = Image.fromarray(decode_image(data, at_least=Size(SIDE, SIDE)))
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=76)
    return file.getvalue()


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
