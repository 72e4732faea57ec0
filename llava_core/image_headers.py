"""What an image says about itself before one pixel is decoded: format, size, orientation, colour profile, scans.

    bytes ─ sniff_format ─▶ format ─ read_header ─▶ ImageHeader ─ check_limits ─▶ may be decoded

Sizes are read here and not by a decoder, because some decoders allocate the whole picture on opening. Only AVIF, whose
boxes may nest, is opened with Pillow, which reads its header alone. EXIF is read for one number, the orientation; the
first directory only, so that no loop of offsets can hold it up. XMP is not read.

What this does *not* do: decode (`images`), convert colours (`color`).
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image, features

from llava_core.decoder_guard import refusing_what_fails
from llava_core.errors import ImageReason, ImageRefused
from llava_core.geometry import Size
from llava_core.image_formats import ImageFormat, sniff_format

ORIENTATION_TAG = 0x0112
_SUBFILE, _DNG_VERSION, _TILE_SIDES = 254, 50706, (323, 322)

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
"""Of a segment with a length, or the end; TEM (01), restarts and a second start have none."""
_MOST_PARTS = 100_000
"""Segments, chunks or blocks walked in a header: half a second; a 50 MB PNG of 4 KB chunks has 12,000."""
_TILE_BORDER = 1024
"""Pixels by which a TIFF's tiles may reach beyond a picture of any size."""
_WHOLE_NUMBERS = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 16: 8, 17: 8}
"""Bytes of each TIFF type that libtiff reads a size from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """What is refused before it is decoded."""

    max_bytes: int = 50_000_000
    """Longest encoded file, bytes; above it `TOO_LARGE`."""
    max_pixels: int = 64_000_000
    """Most pixels that a header may declare, a TIFF's whole tiles among them; above it `BOMB`."""
    max_aspect: int = 50
    """Longest side over shortest; above it `ASPECT`. Beyond 72 the released models are left without image features."""
    min_side: int = 2
    """Shortest side, pixels; below it `TOO_SMALL`."""
    max_scans: int = 64
    """Most scans of a progressive JPEG; above it `TIMEOUT`, since each costs a pass over the whole picture."""


DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageHeader:
    """What an image says about itself."""

    format: ImageFormat
    """By its first bytes; a file's name never counts."""
    stored_size: Size
    """(height, width) of the pixels as they are stored."""
    orientation: int = 1
    """EXIF orientation 1..8; anything else that a file says counts as 1."""
    channels: int = 0
    """Colour channels of a JPEG (1 grey, 3 YCbCr or RGB, 4 CMYK or YCCK); 0 for other formats."""
    scans: int = 1
    """Scans of a JPEG with several; otherwise 1."""
    icc_profile: bytes | None = None
    """Colour profile of a JPEG; other formats' profiles are read when they are decoded."""
    gaps: tuple[tuple[int, int], ...] = ()
    """(start, end) of bytes that lie between a JPEG's segments ahead of its picture."""
    picture: int = 0
    """Where a JPEG's first scan starts."""
    tile_size: Size | None = None
    """(height, width) of a TIFF's tiles, which are decoded whole however small the picture is."""

    @property
    def size(self) -> Size:
        """(height, width) as seen: after the orientation has been applied."""
        height, width = self.stored_size
        return Size(width, height) if self.orientation >= 5 else self.stored_size


def read_header(data: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Read an image's header and hold it to the limits, without decoding.

    Args:
        data: the encoded file.
        limits: what is refused.

    Returns:
        The header.

    Raises:
        ImageRefused: no image, a format that is not decoded, cut off within its header, or beyond a limit.

    Example:
        >>> header = b"GIF89a" + (640).to_bytes(2, "little") + (480).to_bytes(2, "little") + bytes(20)
        >>> read_header(header).size
        Size(height=480, width=640)
    """
    if len(data) > limits.max_bytes:
        raise ImageRefused(ImageReason.TOO_LARGE, f"{len(data)} bytes; at most {limits.max_bytes}")
    name = sniff_format(data)
    with refusing_what_fails(name):
        try:
            header = _READERS[name](data)
        except (struct.error, IndexError) as error:
            raise ImageRefused(ImageReason.TRUNCATED, f"{name} ends within its header") from error
    check_limits(header.size, limits)
    if header.tile_size is not None:
        _check_tiles(header.stored_size, header.tile_size, limits)
    if header.scans > limits.max_scans:
        raise ImageRefused(ImageReason.TIMEOUT, f"JPEG of {header.scans} scans; at most {limits.max_scans}")
    return header


def check_limits(size: Size, limits: DecodeLimits) -> None:
    """Raise `ImageRefused` unless a declared size is within the limits.

    Raises:
        ImageRefused: `BAD_DIMENSIONS`, `BOMB`, `ASPECT` or `TOO_SMALL`.

    Example:
        >>> check_limits(Size(20, 1001), DecodeLimits())
        Traceback (most recent call last):
        llava_core.errors.ImageRefused: ASPECT: 20×1001 pixels; at most 50:1
    """
    height, width = size
    if height < 1 or width < 1:
        raise ImageRefused(ImageReason.BAD_DIMENSIONS, f"{height}×{width} pixels")
    if height * width > limits.max_pixels:
        raise ImageRefused(ImageReason.BOMB, f"{height}×{width} pixels; at most {limits.max_pixels}")
    if max(size) > limits.max_aspect * min(size):
        raise ImageRefused(ImageReason.ASPECT, f"{height}×{width} pixels; at most {limits.max_aspect}:1")
    if min(size) < limits.min_side:
        raise ImageRefused(ImageReason.TOO_SMALL, f"{height}×{width} pixels; at least {limits.min_side} a side")


def _check_tiles(size: Size, tile: Size, limits: DecodeLimits) -> None:
    """Raise `ImageRefused` where a picture's tiles are far larger than it is."""
    height, width = (-(-side // step) * step for side, step in zip(size, tile, strict=True))
    if height <= size.height + _TILE_BORDER and width <= size.width + _TILE_BORDER:
        return
    if height * width > limits.max_pixels:
        detail = f"tiles of {tile.height}×{tile.width} make {height}×{width} pixels; at most {limits.max_pixels}"
        raise ImageRefused(ImageReason.BOMB, detail)


def exif_orientation(exif: bytes) -> int:
    """Orientation in the first directory of a TIFF or of EXIF data.

    Args:
        exif: from "II" or "MM" on; a leading "Exif\\0\\0" is left out.

    Returns:
        1..8; 1 where it is absent, out of range, or the data makes no sense.

    Example:
        >>> exif_orientation(b"MM\\0*\\0\\0\\0\\x08" + b"\\0\\x01" + b"\\x01\\x12\\0\\x03\\0\\0\\0\\x01\\0\\x06\\0\\0")
        6
    """
    directory = _first_directory(exif.removeprefix(b"Exif\x00\x00"), {ORIENTATION_TAG})
    orientation = directory.get(ORIENTATION_TAG, 1)
    return orientation if 1 <= orientation <= 8 else 1


def _first_directory(tiff: bytes, tags: set[int]) -> dict[int, int]:
    """Whole-number entries of a TIFF's first directory, the first of each tag; what makes no sense is left out."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    found: dict[int, int] = {}
    if order is None:
        return found
    try:
        version = struct.unpack_from(order + "H", tiff, 2)[0]
        # BigTIFF (version 43) has 8-byte offsets and counts, and 20-byte entries.
        big = version == 43
        offset = struct.unpack_from(order + ("Q" if big else "I"), tiff, 8 if big else 4)[0]
        number = struct.unpack_from(order + ("Q" if big else "H"), tiff, offset)[0]
        start, step, value_at = (offset + 8, 20, 12) if big else (offset + 2, 12, 8)
        for entry in range(start, start + step * min(number, 4096), step):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag in tags and kind in _WHOLE_NUMBERS:
                at, width = entry + value_at, _WHOLE_NUMBERS[kind]
                if width == 8 and not big:  # longer than its place in the entry, which then says where it is
                    at = struct.unpack_from(order + "I", tiff, at)[0]
                found.setdefault(tag, int.from_bytes(tiff[at : at + width], "little" if order == "<" else "big"))
    except (struct.error, OverflowError):
        return found
    return found


def _parts(name: str) -> Iterator[int]:
    """Numbers for the parts of a file as they are walked; too many of them are refused."""
    yield from range(_MOST_PARTS)
    raise ImageRefused(ImageReason.TIMEOUT, f"{name} of more than {_MOST_PARTS} parts")


def _read_jpeg(data: bytes) -> ImageHeader:
    """Walk a JPEG's segments up to its picture; on through its scans where there are several."""
    header: ImageHeader | None = None
    orientation, several, profile = 1, False, {}
    gaps: list[tuple[int, int]] = []
    parts, position = _parts("JPEG"), 2
    while True:
        next(parts)
        found = _MARKER.search(data, position)
        if found is None or found.start() >= len(data) - 3:
            raise ImageRefused(ImageReason.TRUNCATED, "JPEG ends before its picture")
        if found.start() > position:
            if b"\xff\xd8" in data[position : found.start()]:
                # a segment whose length is wrong has led into EXIF's thumbnail, which would pass for the picture
                raise ImageRefused(ImageReason.CORRUPT, "JPEG that starts a second time ahead of its picture")
            gaps.append((position, found.start()))
        position = found.start()
        marker = data[position + 1]
        if marker == 0xD9:
            raise ImageRefused(ImageReason.CORRUPT, "JPEG without a picture")
        length = struct.unpack_from(">H", data, position + 2)[0]
        body = data[position + 4 : position + 2 + length]
        if marker in _SOF and header is None:
            height, width, channels = struct.unpack_from(">HHB", body, 1)
            header = ImageHeader(format="JPEG", stored_size=Size(height, width), channels=channels)
            several = marker in _PROGRESSIVE
        elif marker == 0xE1 and body.startswith(b"Exif\x00\x00") and orientation == 1:
            orientation = exif_orientation(body)
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\x00") and len(body) > 14:
            profile[body[12]] = body[14:]
        elif marker == 0xDA:
            break
        position += 2 + length
    if header is None:
        raise ImageRefused(ImageReason.CORRUPT, "JPEG picture without a frame header")
    scans = _count_scans(data, position) if several or body[0] < header.channels else 1
    icc = b"".join(profile[index] for index in sorted(profile)) or None
    return replace(header, orientation=orientation, scans=scans, icc_profile=icc, gaps=tuple(gaps), picture=position)


def _count_scans(data: bytes, position: int) -> int:
    """Scans of a JPEG from its first on; entropy-coded bytes are skipped, segments jumped over."""
    scans, parts = 0, _parts("JPEG")
    while True:
        next(parts)
        marker = data[position + 1] if position + 3 < len(data) else 0xD9
        if marker == 0xD9:
            return scans
        scans += marker == 0xDA
        length = struct.unpack_from(">H", data, position + 2)[0]
        found = _MARKER.search(data, position + 2 + length)
        if found is None:
            return scans
        position = found.start()


def _read_png(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">ii", data, 16)
    orientation, parts, position = 1, _parts("PNG"), 8
    while position + 12 <= len(data):
        next(parts)
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"eXIf":
            orientation = exif_orientation(data[position + 8 : position + 8 + length])
            break
        position += 12 + length
    return ImageHeader(format="PNG", stored_size=Size(height, width), orientation=orientation)


def _read_gif(data: bytes) -> ImageHeader:
    """The screen, or the first frame where that reaches beyond it, up to which the extensions are jumped over."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    parts = _parts("GIF")
    while data[position : position + 1] == b"!":
        next(parts)
        position += 2
        while data[position]:
            next(parts)
            position += 1 + data[position]
        position += 1
    if data[position : position + 1] == b"," and len(data) >= position + 9:
        left, top, columns, rows = struct.unpack_from("<HHHH", data, position + 1)
        width, height = max(width, left + columns), max(height, top + rows)
    return ImageHeader(format="GIF", stored_size=Size(height, width))


def _read_bmp(data: bytes) -> ImageHeader:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    # A negative height only says that the rows are stored top-down.
    return ImageHeader(format="BMP", stored_size=Size(abs(height), width))


def _read_webp(data: bytes) -> ImageHeader:
    """Walk a WebP's chunks: the canvas is in the first, EXIF in one of the last."""
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise ImageRefused(ImageReason.TRUNCATED, "WebP is shorter than its header says")
    kind, orientation, parts, position = data[12:16], 1, _parts("WebP"), 12
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ImageRefused(ImageReason.CORRUPT, f"WebP starts with chunk {kind!r}")
    while position + 8 <= len(data):
        next(parts)
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"EXIF":
            orientation = exif_orientation(data[position + 8 : position + 8 + length])
            break
        position += 8 + length + length % 2
    return ImageHeader(format="WEBP", stored_size=Size(height, width), orientation=orientation)


def _read_tiff(data: bytes) -> ImageHeader:
    """The first directory. Camera raws are TIFFs too, whose first picture is a thumbnail."""
    found = _first_directory(data, {_SUBFILE, 256, 257, *_TILE_SIDES, _DNG_VERSION, ORIENTATION_TAG})
    if found.get(_SUBFILE, 0) & 1 or _DNG_VERSION in found or data[8:12] == b"CR\x02\x00":
        raise ImageRefused(ImageReason.UNSUPPORTED, "TIFF that begins with a thumbnail, as camera raws do")
    if 256 not in found or 257 not in found:
        raise ImageRefused(ImageReason.CORRUPT, "TIFF's first directory has no size")
    orientation = found.get(ORIENTATION_TAG, 1)
    tile = Size(*(found.get(side, 0) for side in _TILE_SIDES))
    return ImageHeader(
        format="TIFF",
        stored_size=Size(found[257], found[256]),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        tile_size=tile if all(tile) else None,
    )


def _read_avif(data: bytes) -> ImageHeader:
    if not features.check("avif"):
        raise ImageRefused(ImageReason.UNSUPPORTED, "AVIF: this Pillow is built without it")
    with Image.open(io.BytesIO(data), formats=["AVIF"]) as image:
        image.info.pop("xmp", None)  # Pillow would take an orientation from there
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
        size = Size(image.height, image.width)
    return ImageHeader(format="AVIF", stored_size=size, orientation=orientation if orientation in range(1, 9) else 1)


_READERS = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "WEBP": _read_webp,
    "GIF": _read_gif,
    "BMP": _read_bmp,
    "TIFF": _read_tiff,
    "AVIF": _read_avif,
}
