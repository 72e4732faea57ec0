"""`decode_image` on what it refuses: each row of the bad-input catalogue that ends in a reason."""

import io
import struct
import threading
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, features

from llava_core import image_headers, images
from llava_core.errors import ImageReason, ImageRefused
from llava_core.geometry import Size
from llava_core.images import DecodeLimits, ImageHeader, decode_base64_image, decode_image, read_header
from tests.llava_core.image_files import encode, exif, gif_frame_at, png, png_chunk, ramp, with_segment, with_size

RAMP = ramp()
R = ImageReason


def gif_header(height: int, width: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(20)


def webp_header(height: int, width: int) -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp_header(height: int, width: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<IiiHH", 40, width, height, 1, 24) + bytes(100)


def tiff_header(height: int, width: int) -> bytes:
    entries = struct.pack("<HHII", 256, 4, 1, width) + struct.pack("<HHII", 257, 4, 1, height)
    return b"II*\0\x08\0\0\0\x02\0" + entries + bytes(40)


def png_header(height: int, width: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + bytes(50)


def jpeg_header(height: int, width: int) -> bytes:
    return with_size(encode(RAMP, "JPEG"), height, width)


HEADERS = [gif_header, webp_header, bmp_header, tiff_header, png_header, jpeg_header]


def text_bomb(kind: bytes) -> bytes:
    packed = zlib.compress(bytes(20_000_000))
    body = b"Comment\0\0" + packed if kind == b"zTXt" else b"Comment\0\1\0en\0c\0" + packed
    return png(2, 3, 8, 0, bytes(8), png_chunk(kind, body))


def tiff_of(mode: str) -> bytes:
    return encode(Image.new(mode, (7, 5)), "TIFF")


CASES = {
    "1 nothing": (b"", R.EMPTY),
    "2 JPEG cut in its picture": (encode(ramp(200, 300), "JPEG")[:-2000], R.TRUNCATED),
    "2 JPEG without its last bytes": (encode(RAMP, "JPEG")[:-10], R.TRUNCATED),
    "2 JPEG without its end marker": (encode(RAMP, "JPEG")[:-2], R.TRUNCATED),
    "2 JPEG cut in its header": (encode(RAMP, "JPEG")[:100], R.TRUNCATED),
    "2 progressive JPEG cut between scans": (encode(ramp(200, 300), "JPEG", progressive=True)[:-1500], R.TRUNCATED),
    "2 CMYK JPEG cut": (encode(Image.new("CMYK", (90, 70), (9, 8, 7, 6)), "JPEG")[:-30], R.TRUNCATED),
    "3 PNG cut": (encode(np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8), "PNG")[:-3000], R.TRUNCATED),
    "3 PNG cut in its header": (encode(RAMP, "PNG")[:20], R.TRUNCATED),
    "3 GIF cut": (encode(Image.fromarray(ramp(90, 100)).quantize(256), "GIF")[:-2000], R.TRUNCATED),
    "3 WebP cut": (encode(RAMP, "WEBP")[:-20], R.TRUNCATED),
    "3 BMP cut": (encode(RAMP, "BMP")[:-50], R.TRUNCATED),
    "7 HTML": (b"<!doctype html><title>404</title>", R.NOT_IMAGE),
    "7 text": (b"BM, they said, is a car maker's name without its W", R.NOT_IMAGE),
    "7 zeros": (bytes(500), R.NOT_IMAGE),
    "8 SVG": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x --><svg xmlns="http://www.w3.org/2000/svg"/>', R.UNSUPPORTED),
    "9 PDF": (b"%PDF-1.7\n%\xe2\xe3", R.UNSUPPORTED),
    "10 PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", R.UNSUPPORTED),
    "10 EPS with preview": (b"\xc5\xd0\xd3\xc6" + bytes(40), R.UNSUPPORTED),
    "23 floating point": (encode(Image.fromarray(np.full((5, 7), np.nan, np.float32)), "TIFF"), R.UNSUPPORTED_MODE),
    "23 32-bit": (encode(Image.fromarray(np.full((5, 7), 70000, np.int32)), "TIFF"), R.UNSUPPORTED_MODE),
    "24 LAB": (tiff_of("LAB"), R.UNSUPPORTED_MODE),
    "31 HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", R.UNSUPPORTED),
    "31 video": (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", R.UNSUPPORTED),
    "32 JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", R.UNSUPPORTED),
    "32 JPEG 2000 codestream": (b"\xff\x4f\xff\x51\0\0", R.UNSUPPORTED),
    "33 JPEG XL": (b"\xff\x0a\0\0", R.UNSUPPORTED),
    "33 JPEG XL in a container": (b"\0\0\0\x0cJXL \r\n\x87\n", R.UNSUPPORTED),
    "34 PSD": (b"8BPS\0\x01" + bytes(30), R.UNSUPPORTED),
    "34 DDS": (b"DDS \x7c" + bytes(30), R.UNSUPPORTED),
    "34 ICO": (encode(RAMP, "ICO"), R.UNSUPPORTED),
    "34 FITS": (b"SIMPLE  =                    T", R.UNSUPPORTED),
    "34 PPM": (encode(RAMP, "PPM"), R.UNSUPPORTED),
    "45 zTXt": (text_bomb(b"zTXt"), R.BOMB),
    "45 iTXt": (text_bomb(b"iTXt"), R.BOMB),
    "46 negative width": (bmp_header(20, -30), R.BAD_DIMENSIONS),
    "49 checksum": (
        encode(RAMP, "PNG")[:29] + b"\0\0\0\0" + encode(RAMP, "PNG")[33:],
        R.CORRUPT,
    ),
    "49 TIFF without a size": (b"II*\0\x08\0\0\0\0\0\0\0\0\0", R.CORRUPT),
    "49 TIFF's directory beyond its end": (b"II*\0\xf0\xff\xff\xff", R.CORRUPT),
    "49 JPEG without a picture": (b"\xff\xd8\xff\xe0\0\x04ab\xff\xd9\0\0", R.CORRUPT),
    "55 base64": (None, R.BAD_BASE64),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_with_its_reason(name: str) -> None:
    data, reason = CASES[name]
    with pytest.raises(ImageRefused) as refused:
        decode_base64_image("=") if data is None else decode_image(data)
    assert refused.value.reason is reason and refused.value.detail


def test_avif_cut() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    with pytest.raises(ImageRefused) as refused:
        decode_image(encode(ramp(60, 90), "AVIF")[:-100])
    assert refused.value.reason in (R.TRUNCATED, R.CORRUPT)


def test_avif_is_refused_where_pillow_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_headers.features, "check", lambda name: False)
    with pytest.raises(ImageRefused) as refused:
        decode_image(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif")
    assert refused.value.reason is R.UNSUPPORTED


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    ("height", "width", "reason"),
    [
        (8001, 8000, R.BOMB),
        (16000, 16001, R.BOMB),
        (1, 1, R.TOO_SMALL),
        (1, 30, R.TOO_SMALL),
        (20, 1001, R.ASPECT),
        (10000, 1, R.ASPECT),
    ],
)
def test_declared_sizes_are_refused_without_decoding(header, height: int, width: int, reason: ImageReason) -> None:
    """The files end after their headers, so a decoder would have called them truncated."""
    tracemalloc.start()
    with pytest.raises(ImageRefused) as refused:
        decode_image(header(height, width))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.reason is reason and f"{height}×{width}" in refused.value.detail
    assert peak < 2_000_000


@pytest.mark.parametrize("header", [gif_header, tiff_header, png_header, jpeg_header])
def test_largest_and_least_headers(header) -> None:
    for height, width, reason in ((65535, 65535, R.BOMB), (0, 30, R.BAD_DIMENSIONS), (30, 0, R.BAD_DIMENSIONS)):
        with pytest.raises(ImageRefused) as refused:
            read_header(header(height, width))
        assert refused.value.reason is reason


@pytest.mark.parametrize("header", HEADERS)
def test_limits_are_inclusive(header) -> None:
    assert read_header(header(8000, 8000)).size == (8000, 8000)
    assert read_header(header(20, 1000)).size == (20, 1000)
    assert read_header(header(2, 100)).size == (2, 100)


def gif_with_frame(left: int, top: int, height: int, width: int) -> bytes:
    """A GIF of a 24×40 screen whose frame says it lies elsewhere."""
    gif = bytearray(encode(Image.fromarray(RAMP).quantize(64), "GIF"))
    at = gif_frame_at(gif)
    gif[at + 1 : at + 9] = struct.pack("<HHHH", left, top, width, height)
    return bytes(gif)


def test_gif_frame_larger_than_its_screen_counts() -> None:
    """The decoder makes room for it, so the header has to say so: limits and token counts go by the header."""
    moved = gif_with_frame(5, 3, 24, 40)
    assert read_header(moved).size == (27, 45) == decode_image(moved).shape[:2]
    with pytest.raises(ImageRefused) as refused:
        read_header(gif_with_frame(0, 0, 60000, 60000))
    assert refused.value.reason is R.BOMB


def test_a_header_that_lies_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No known file gets past `read_header` so; whatever does is stopped before Pillow allocates, or after."""
    lie = ImageHeader(format="GIF", stored_size=Size(24, 40))
    monkeypatch.setitem(image_headers._READERS, "GIF", lambda data: lie)
    for height, width, reason in ((9000, 9000, R.BOMB), (30, 40, R.TRUNCATED)):
        with pytest.raises(ImageRefused) as refused:
            decode_image(gif_with_frame(0, 0, height, width))
        assert refused.value.reason is reason
    with pytest.raises(ImageRefused, match="header says") as refused:
        decode_image(gif_with_frame(5, 3, 24, 40))
    assert refused.value.reason is R.CORRUPT


def test_too_many_scans() -> None:
    """Each scan of a progressive JPEG goes over the whole picture, so thousands of small ones would take minutes."""
    file = encode(RAMP, "JPEG", progressive=True)
    scans = read_header(file).scans
    assert 4 < scans < 20
    last = file.rindex(b"\xff\xda")
    one_scan = file[last:-2]
    with pytest.raises(ImageRefused) as refused:
        decode_image(file[:-2] + one_scan * 3000 + file[-2:])
    assert refused.value.reason is R.TIMEOUT and str(scans + 3000) in refused.value.detail
    assert decode_image(file, limits=DecodeLimits(max_scans=scans)).shape == (24, 40, 3)
    with pytest.raises(ImageRefused):
        decode_image(file, limits=DecodeLimits(max_scans=scans - 1))
    # A sequential picture ends with its only scan: what looks like more of them is never read.
    assert read_header(encode(RAMP, "JPEG")[:-2] + one_scan * 3000).scans == 1


def test_a_long_file_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_headers, "sniff_format", lambda data: pytest.fail("was read"))
    with pytest.raises(ImageRefused) as refused:
        decode_image(bytes(1001), limits=DecodeLimits(max_bytes=1000))
    assert refused.value.reason is R.TOO_LARGE
    with pytest.raises(ImageRefused) as refused:
        decode_base64_image("A" * 2001, limits=DecodeLimits(max_bytes=1000))
    assert refused.value.reason is R.TOO_LARGE


def test_corrupt_entropy_that_libjpeg_notices() -> None:
    """A restart marker in a picture that has none; Pillow would hand out what was decoded up to it."""
    file = encode(ramp(200, 300), "JPEG")
    start = file.index(b"\xff\xda") + 400
    with pytest.raises(ImageRefused) as refused:
        decode_image(file[:start] + b"\xff\xd3" + file[start + 2 :])
    assert refused.value.reason is R.CORRUPT


def test_a_picture_that_ends_before_its_data_is_corrupt() -> None:
    """Left over before the end marker: padding, as cameras write it, or the picture's own data after a flipped bit."""
    file = encode(RAMP, "JPEG")
    for padding in (bytes(7), b"\0\xff\0", bytes(3) + b"\xff" * 4):
        np.testing.assert_array_equal(decode_image(file[:-2] + padding + file[-2:]), decode_image(file))
    for rest in (b"\x5a" * 7, bytes(6) + b"\x80" + bytes(6), b"\x5a" * 9 + b"\xff" * 4):
        with pytest.raises(ImageRefused, match="extraneous") as refused:
            decode_image(file[:-2] + rest + file[-2:])
        assert refused.value.reason is R.CORRUPT


@pytest.mark.parametrize("marker", [b"\xff\xda", b"\xff\xc4"])
def test_data_left_over_between_scans_is_corrupt(marker: bytes) -> None:
    """Pillow, which does not warn, decodes such a picture."""
    file = encode(ramp(200, 300), "JPEG", progressive=True)
    at = file.index(marker, file.index(b"\xff\xda") + 2)
    with pytest.raises(ImageRefused, match="extraneous") as refused:
        decode_image(file[:at] + bytes(9) + file[at:])
    assert refused.value.reason is R.CORRUPT


def test_a_thumbnail_is_not_taken_for_its_picture() -> None:
    """EXIF whose length is too small (it holds the 16 lower bits) ends ahead of the thumbnail in it."""
    thumbnail = encode(ramp(12, 20), "JPEG")
    body = exif(1) + thumbnail
    file = with_segment(encode(RAMP, "JPEG"), 0xE1, body)
    assert decode_image(file).shape == (24, 40, 3)
    for length in (len(exif(1)) + 2, len(exif(1)) - 3):
        with pytest.raises(ImageRefused, match="a second time") as refused:
            decode_image(file[:4] + struct.pack(">H", length) + file[6:])
        assert refused.value.reason is R.CORRUPT


@pytest.mark.parametrize("number", [0, 5, 4000])
def test_bytes_between_segments_do_not_hide_a_picture_gone_astray(number: int) -> None:
    file = encode(RAMP, "JPEG")
    at = file.index(b"\xff\xdb")
    stuffed = file[:at] + bytes(number) + file[at:-2]
    assert number < 4000 or number > len(file)
    assert decode_image(stuffed + bytes(7) + file[-2:]).shape == (24, 40, 3)
    with pytest.raises(ImageRefused, match="extraneous") as refused:
        decode_image(stuffed + b"\x5a" * 7 + file[-2:])
    assert refused.value.reason is R.CORRUPT


def test_bytes_between_segments_do_not_hide_a_corrupt_picture() -> None:
    """libjpeg tells of its first warning alone."""
    file = encode(ramp(200, 300), "JPEG")
    table, start = file.index(b"\xff\xdb"), file.index(b"\xff\xda") + 400
    corrupt = file[:start] + b"\xff\xd3" + file[start + 2 :]
    with pytest.raises(ImageRefused) as refused:
        decode_image(corrupt[:table] + bytes(4) + corrupt[table:])
    assert refused.value.reason is R.CORRUPT


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("no"), R.MEMORY),
        (SyntaxError("broken"), R.CORRUPT),
        (RecursionError("deep"), R.CORRUPT),
        (Image.DecompressionBombError("big"), R.BOMB),
        (Image.DecompressionBombWarning("big"), R.BOMB),
        (EOFError("end"), R.TRUNCATED),
    ],
)
def test_whatever_a_decoder_raises_is_a_refusal(
    error: Exception, reason: ImageReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", fail)
    for kind in ("PNG", "JPEG"):
        with pytest.raises(ImageRefused) as refused:
            decode_image(encode(RAMP, kind))
        assert refused.value.reason is reason and refused.value.__cause__ is error


def test_wrong_extension_does_not_matter() -> None:
    """There is no name to go by: only the bytes."""
    assert read_header(encode(RAMP, "PNG")).format == "PNG"
    assert read_header(encode(RAMP, "WEBP")).format == "WEBP"


def test_warning_filters_are_as_before_and_threads_agree() -> None:
    before = list(warnings.filters)
    file, found = encode(RAMP, "PNG"), []

    def work() -> None:
        for _ in range(20):
            found.append(decode_image(file))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80 and all((pixels == RAMP).all() for pixels in found)
    assert list(warnings.filters) == before


def test_pillows_warnings_do_not_become_errors() -> None:
    """A TIFF whose entry has too many values makes Pillow warn; the tests turn warnings into errors."""
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "TIFF", tiffinfo={270: "words"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_image(file.getvalue()), RAMP)
