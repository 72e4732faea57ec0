"""What a header must not hide: whole tiles, more scans, thumbnails, and parts without end."""

import struct
import zlib

import numpy as np
import pytest

from llava_core import image_headers
from llava_core.errors import ImageReason, ImageRefused
from llava_core.image_headers import DecodeLimits, read_header
from llava_core.images import decode_image
from tests.llava_core.image_files import encode, exif, grey_tiff, png, png_chunk, ramp, tiff, with_segment

R = ImageReason


def reason_of(data: bytes, **settings: DecodeLimits) -> ImageReason:
    with pytest.raises(ImageRefused) as refused:
        read_header(data, **settings)
    return refused.value.reason


def tiled(height: int, width: int, tile: tuple[int, int], kind: int = 4) -> bytes:
    """A grey TIFF of one tile, deflated."""
    plain = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1}
    sides = {322: (kind, tile[1]), 323: (kind, tile[0])}
    pixels = np.arange(tile[0] * tile[1], dtype=np.uint8).tobytes() if tile[0] * tile[1] < 1e6 else b""
    return tiff({tag: (3, value) for tag, value in plain.items()} | sides, zlib.compress(pixels))


def test_tiles_count_as_pixels_because_they_are_decoded_whole() -> None:
    assert reason_of(tiled(100, 120, (20000, 16000))) is R.BOMB
    # signed numbers are read by libtiff too
    assert reason_of(tiled(100, 120, (20000, 16000), kind=9)) is R.BOMB
    # 50 × 2,000 pixels in tiles of 2 × 1,000,000: 25 of them, 50 million pixels; one million more in each is too much
    assert read_header(tiled(50, 2000, (2, 1_000_000))).size == (50, 2000)
    assert reason_of(tiled(50, 2000, (2, 2_000_000))) is R.BOMB


def test_tiles_of_eight_byte_numbers_count() -> None:
    """Such numbers do not fit into their entry: it says where they are."""
    file = tiled(100, 120, (20000, 16000), kind=16)
    sides = len(file)
    for side, at in (
        (16000, file.index(struct.pack("<HH", 322, 16))),
        (20000, file.index(struct.pack("<HH", 323, 16))),
    ):
        file = file[: at + 8] + struct.pack("<I", len(file)) + file[at + 12 :] + struct.pack("<Q", side)
    assert len(file) == sides + 16
    assert reason_of(file) is R.BOMB


def test_ordinary_tiles_are_decoded_even_at_the_limit() -> None:
    small = decode_image(tiled(20, 50, (64, 128)))
    assert small[..., 0].tolist() == [[(128 * row + col) % 256 for col in range(50)] for row in range(20)]
    # 8,192 × 8,192 with its tiles, where 64 million pixels are allowed
    assert read_header(tiled(8000, 8000, (256, 256))).size == (8000, 8000)


def test_scans_behind_a_marker_without_length_are_counted() -> None:
    """TEM (FF 01) has no length; taken for one, it hides the 64 KB behind it."""
    file = encode(ramp(), "JPEG", progressive=True)
    scans, last = read_header(file).scans, file.rindex(b"\xff\xda")
    one_scan = file[last:-2]
    hidden = file[:-2] + b"\xff\x01" + b"\xff\xff" + one_scan * 500 + file[-2:]
    assert read_header(hidden, limits=DecodeLimits(max_scans=1000)).scans == scans + 500
    assert reason_of(hidden) is R.TIMEOUT


@pytest.mark.parametrize("tag", [254, 50706])
def test_camera_raws_are_not_taken_for_their_thumbnails(tag: int) -> None:
    """First directory: a reduced picture (bit 0 of tag 254), or Adobe's DNG version, four bytes from 1 on."""
    values = bytes(range(15))
    assert read_header(grey_tiff(3, 5, 8, values, {254: (4, 2)})).size == (3, 5)
    raw = grey_tiff(3, 5, 8, values, {tag: (4, 1) if tag == 254 else (1, 0x00000401)})
    assert reason_of(raw) is R.UNSUPPORTED
    assert reason_of(b"II*\0\x10\0\0\0CR\x02\0" + raw[12:]) is R.UNSUPPORTED


def endless(kind: str, number: int) -> bytes:
    """A file with so many empty parts in its header."""
    jpeg, scans = encode(ramp(), "JPEG"), encode(ramp(), "JPEG", progressive=True)
    comments = b"\xff\xfe\0\2" * number
    gif = b"GIF89a" + struct.pack("<HHBBB", 40, 24, 0, 0, 0)
    webp = b"VP8X\x0a\0\0\0" + bytes(4) + b"\x27\0\0\x17\0\0" + b"junk\0\0\0\0" * number
    return {
        "JPEG": jpeg[:2] + comments + jpeg[2:],
        "JPEG scans": scans[:-2] + comments + scans[-2:],
        "PNG": png(2, 3, 8, 0, bytes(8), png_chunk(b"teXt", b"") * number),
        "GIF": gif + b"!\xfe\0" * number + b",",
        "GIF blocks": gif + b"!\xfe" + b"\1x" * number + b"\0,",
        "WEBP": b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
    }[kind]


@pytest.mark.parametrize("kind", ["JPEG", "JPEG scans", "PNG", "GIF", "GIF blocks", "WEBP"])
def test_headers_of_too_many_parts_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read outside the sandbox, where nothing ends what takes too long."""
    monkeypatch.setattr(image_headers, "_MOST_PARTS", 1000)
    assert read_header(endless(kind, 900)).size == ((2, 3) if kind == "PNG" else (24, 40))
    assert reason_of(endless(kind, 1001)) is R.TIMEOUT


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\x00", b"\xff\x01", b"\xff\xd3"])
def test_what_is_no_segment_is_passed_over(filler: bytes) -> None:
    """Fill bytes, a zero after one, and markers without a length, ahead of an orientation that turns the picture."""
    file = with_segment(encode(ramp(), "JPEG"), 0xE1, exif(6))
    stuffed = file[:2] + filler * 3000 + file[2:]
    assert read_header(stuffed).size == (40, 24)
    np.testing.assert_array_equal(decode_image(stuffed), decode_image(file))
