"""Encoded images become pixels: the only decoder of the project.

    bytes ─ read_header ─▶ limits ─ libjpeg-turbo (JPEG) or Pillow ─▶ sRGB, on white ─ EXIF turn ─▶ uint8[H, W, 3]

Legend: H height, W width, after the EXIF orientation has been applied. RGB, height before width.

Either the whole picture comes out or `ImageRefused` with a reason; nothing is half decoded, and nothing else is raised.
Of an animation the first frame is taken, and the others are not looked at. JPEGs are decoded with libjpeg-turbo's exact
DCT and upsampling, which gives the pixels that Pillow gives.

What this does *not* do: survive a decoder that crashes or hangs the process; that is the business of whoever runs it
(`DECODER_CRASH`, `TIMEOUT` and `MEMORY` of a killed worker). Bits flipped inside a JPEG's entropy-coded data that still
decode without a warning cannot be noticed.
"""

import base64
import binascii
import io
import re
from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from llava_core.color import convert_pixels, to_rgb
from llava_core.decoder_guard import refusing_what_fails
from llava_core.errors import ImageReason, ImageRefused
from llava_core.geometry import Size
from llava_core.image_headers import DEFAULT_LIMITS, DecodeLimits, ImageHeader, check_limits, read_header

__all__ = ["DecodeLimits", "ImageHeader", "decode_base64_image", "decode_image", "orient", "read_header"]

_DATA_URI = re.compile(r"\Adata:[^,]{0,200};base64,")
_AFTER_PICTURE = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def decode_image(
    data: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS, at_least: Size | None = None
) -> NDArray[np.uint8]:
    """Decode an image.

    Args:
        data: the encoded file: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, told by its first bytes.
        limits: what is refused before decoding.
        at_least: decode a JPEG at a half, a quarter or an eighth (or 3/8) of its size if both sides remain at least
            these. Quicker for large photos, but not the pixels of decoding whole and shrinking after. None: whole.

    Returns:
        uint8[H, W, 3], RGB, contiguous, writable, upright.

    Raises:
        ImageRefused: whatever is wrong with the file; never anything else.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(file, "PNG")
        >>> decode_image(file.getvalue()).shape
        (2, 3, 3)
        >>> decode_image(b"<html>")
        Traceback (most recent call last):
        llava_core.errors.ImageRefused: NOT_IMAGE: starts with b'<html>'
    """
    header = read_header(data, limits=limits)
    with refusing_what_fails(header.format):
        if header.format == "JPEG" and header.channels in (1, 3):
            pixels = _decode_jpeg(data, header, limits, at_least)
        else:
            pixels = _decode_with_pillow(data, header, limits)
        # Pillow turns TIFF by itself.
        upright = pixels if header.format == "TIFF" else orient(pixels, header.orientation)
    if at_least is None and upright.shape[:2] != header.size:
        # Token counts are planned from headers, so one that lies must not pass.
        raise ImageRefused(ImageReason.CORRUPT, f"header says {header.size}, the picture is {upright.shape[:2]}")
    return upright


def decode_base64_image(text: str, *, limits: DecodeLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode an image from base64 text, with or without a `data:` prefix.

    Args:
        text: standard alphabet, padded; line breaks and spaces are allowed.
        limits: what is refused before decoding.

    Returns:
        uint8[H, W, 3], as `decode_image`.

    Raises:
        ImageRefused: `BAD_BASE64`, or whatever is wrong with the file.

    Example:
        >>> decode_base64_image("not base64!")
        Traceback (most recent call last):
        llava_core.errors.ImageRefused: BAD_BASE64: ...
    """
    if len(text) > 2 * limits.max_bytes:
        raise ImageRefused(ImageReason.TOO_LARGE, f"{len(text)} characters of base64")
    payload = "".join(_DATA_URI.sub("", text, count=1).split())
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageRefused(ImageReason.BAD_BASE64, str(error)) from error
    return decode_image(data, limits=limits)


def orient(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels upright.

    Args:
        pixels: uint8[H, W, 3] as stored.
        orientation: EXIF's 1..8: where the stored first row and first column belong.

    Returns:
        uint8[H, W, 3], or uint8[W, H, 3] for 5..8; contiguous.

    Example:
        >>> stored = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
        >>> orient(stored, 6)[..., 0].tolist()
        [[3, 0], [4, 1], [5, 2]]
    """
    pixels = np.ascontiguousarray(pixels)
    if orientation == 1:
        return pixels
    # Moved as whole pixels, which takes half as long as moving their channels one by one.
    channels = pixels.shape[2]
    turned = pixels.view(np.dtype((np.void, channels)))[..., 0]
    if orientation >= 5:
        turned = turned.T
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned).view(np.uint8).reshape(*turned.shape, channels)


def _decode_jpeg(data: bytes, header: ImageHeader, limits: DecodeLimits, at_least: Size | None) -> NDArray[np.uint8]:
    """Decode a grey, YCbCr or RGB JPEG with libjpeg-turbo."""
    if header.icc_profile is not None and header.channels == 1:
        # Pillow keeps grey as grey, which a grey profile needs.
        return _decode_with_pillow(data, header, limits)
    # libjpeg only warns of bytes between the segments, and tells of its first warning alone.
    data = _without(data, header.gaps)
    picture = header.picture - sum(end - start for start, end in header.gaps)
    least = Size(0, 0) if at_least is None else at_least
    if header.orientation >= 5:
        least = Size(least.width, least.height)
    try:
        pixels = _libjpeg(data, least, strict=True)
    except ValueError as error:
        message = str(error)
        if "Premature end of JPEG file" in message:
            raise ImageRefused(ImageReason.TRUNCATED, message) from error
        if "Corrupt JPEG data" not in message:
            # A layout that simplejpeg has no name for.
            return _decode_with_pillow(data, header, limits)
        left_over = _AFTER_PICTURE.search(message)
        if left_over is None or not _is_padding(data, picture, int(left_over[1])):
            raise ImageRefused(ImageReason.CORRUPT, message) from error
        # Some cameras pad the picture; every pixel has been read by then.
        pixels = _libjpeg(data, least, strict=False)
    return convert_pixels(pixels, header.icc_profile)


def _without(data: bytes, gaps: Sequence[tuple[int, int]]) -> bytes:
    if not gaps:
        return data
    starts, ends = [0, *(end for _, end in gaps)], [*(start for start, _ in gaps), len(data)]
    return b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))


def _is_padding(data: bytes, picture: int, length: int) -> bool:
    """Whether the last bytes before a JPEG's end marker are zeros and ones only; others are a picture gone astray."""
    end = data.find(b"\xff\xd9", picture)
    if end < 0:
        return False
    while data[end - 1] == 0xFF:  # these belong to the marker, and libjpeg does not count them
        end -= 1
    return not data[max(picture, end - length) : end].strip(b"\x00\xff")


def _libjpeg(data: bytes, least: Size, *, strict: bool) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data,
        colorspace="RGB",
        fastdct=False,
        fastupsample=False,
        min_height=least.height,
        min_width=least.width,
        min_factor=2,
        strict=strict,
    )
    return pixels


def _decode_with_pillow(data: bytes, header: ImageHeader, limits: DecodeLimits) -> NDArray[np.uint8]:
    """Decode the first frame with Pillow, which is told which format to expect and tries no other."""
    with Image.open(io.BytesIO(data), formats=[header.format]) as image:
        # What Pillow makes of the header counts too, before it allocates.
        check_limits(Size(image.height, image.width), limits)
        image.info.pop("xmp", None)  # Pillow would turn a TIFF by it
        image.load()
        bits, colour_type = data[24:26] if header.format == "PNG" else (8, 0)
        # Pillow opens 16-bit grey with alpha as RGBA, to which a grey profile says nothing.
        grey_with_alpha = (bits, colour_type) == (16, 4)
        return np.array(to_rgb(image.convert("LA") if grey_with_alpha else image, stored_bits=bits))
