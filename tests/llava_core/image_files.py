"""Image files made in the test: every pixel differs from its neighbours, no side equals the other."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def ramp(height: int = 24, width: int = 40) -> Pixels:
    """uint8[H, W, 3] where no two pixels are equal (up to 256×256): red by row, green by column, blue by both."""
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, cols * 255 // width, (rows * 7 + cols * 3) % 256], -1).astype(np.uint8)


def encode(image: Image.Image | Pixels, kind: str, **settings: Any) -> bytes:
    """The image as a file."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **settings)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    """EXIF data of one entry."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HH", orientation, 0) + bytes(4)


def png_chunk(kind: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    """One chunk, with its checksum or another."""
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def png(height: int, width: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand: `rows` are filtered scan lines, `extra` chunks come before them."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment after its start."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def with_size(jpeg: bytes, height: int, width: int) -> bytes:
    """A JPEG whose frame header claims another size."""
    at = next(
        jpeg.index(bytes([0xFF, marker, 0, 17])) for marker in (0xC0, 0xC2) if bytes([0xFF, marker, 0, 17]) in jpeg
    )
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def gif_frame_at(gif: bytes) -> int:
    """Where the first frame of a GIF without extensions starts: after the 13 bytes of the screen and the palette."""
    at = 13 + 3 * (2 << (gif[10] & 7))
    assert gif[at : at + 1] == b","
    return at


def tiff(entries: dict[int, tuple[int, int]], pixels: bytes) -> bytes:
    """A little-endian TIFF of one strip or tile, written by hand; the tag of its offset is added.

    Args:
        entries: tag: (type, value), without 273 or 324.
        pixels: what the offset points to.
    """
    offset_tag, length_tag = (324, 325) if 322 in entries else (273, 279)
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    whole = entries | {offset_tag: (4, start), length_tag: (4, len(pixels))}
    rows = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(whole.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(whole)) + rows + bytes(4) + pixels


def grey_tiff(height: int, width: int, bits: int, pixels: bytes, more: dict[int, tuple[int, int]]) -> bytes:
    """An uncompressed grey TIFF, 0 black unless `more` says otherwise."""
    plain = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 277: 1, 278: height}
    return tiff({tag: (3, value) for tag, value in plain.items()} | more, pixels)
