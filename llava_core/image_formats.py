"""Which format a file's first bytes announce: the allow-list of `decode_image`.

A file's name never counts. Formats outside the list are named where their signature is known, because "this is a PDF"
helps whoever has to mend the corpus; none of them is ever parsed: their parsers are where the security holes are.

What this does *not* do: read sizes (`image_headers`), decode (`images`).
"""

import re
from typing import Literal

from llava_core.errors import ImageReason, ImageRefused

ImageFormat = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]

_SIGNATURES: tuple[tuple[bytes, ImageFormat], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)

_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})

_UNSUPPORTED: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"8BPS", "PSD"),
    (b"DDS ", "DDS"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x02\x00", "CUR"),
    (b"SIMPLE  =", "FITS"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"qoif", "QOI"),
    (b"icns", "ICNS"),
    (b"gimp xcf", "XCF"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\x01\xda", "SGI"),
    (b"\x59\xa6\x6a\x95", "Sun raster"),
    (b"BLP1", "BLP"),
    (b"BLP2", "BLP"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"farbfeld", "farbfeld"),
    (b"\x8aMNG", "MNG"),
    (b"\x8bJNG", "JNG"),
)

_NETPBM = re.compile(rb"P[1-7fF][\s#]")
_SVG = re.compile(rb"<svg[\s>]")
_AVIF_BRANDS = frozenset({b"avif", b"avis"})


def sniff_format(data: bytes) -> ImageFormat:
    """Name the format that the first bytes announce.

    Args:
        data: the file; its first kilobyte is looked at.

    Returns:
        One of the seven formats that are decoded.

    Raises:
        ImageRefused: `EMPTY`, `UNSUPPORTED` for a known format outside the list, `NOT_IMAGE` for anything else.

    Example:
        >>> sniff_format(b"GIF89a...")
        'GIF'
        >>> sniff_format(b"%PDF-1.7 ...")
        Traceback (most recent call last):
        llava_core.errors.ImageRefused: UNSUPPORTED: PDF
    """
    if not data:
        raise ImageRefused(ImageReason.EMPTY, "0 bytes")
    head = bytes(data[:1024])
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if head[4:8] == b"ftyp":
        return _iso_media_format(head)
    raise _not_listed(head)


def _iso_media_format(head: bytes) -> ImageFormat:
    """AVIF or nothing: HEIC, video and the rest share its container."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12]] + [head[start : start + 4] for start in range(16, end, 4)]
    if _AVIF_BRANDS & set(brands):
        return "AVIF"
    raise ImageRefused(ImageReason.UNSUPPORTED, f"ISO media of brand {brands[0]!r}")


def _not_listed(head: bytes) -> ImageRefused:
    for signature, other in _UNSUPPORTED:
        if head.startswith(signature):
            return ImageRefused(ImageReason.UNSUPPORTED, other)
    if _NETPBM.match(head):
        return ImageRefused(ImageReason.UNSUPPORTED, "Netpbm")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and _SVG.search(head):
        return ImageRefused(ImageReason.UNSUPPORTED, "SVG")
    return ImageRefused(ImageReason.NOT_IMAGE, f"starts with {head[:16]!r}")
