"""Colours that files tell in their own way: white as zero, transparent colours in few bits, grey profiles."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from llava_core.images import decode_image
from tests.llava_core.image_files import encode, grey_tiff, png, png_chunk


def test_16_bit_tiff_whose_zero_is_white() -> None:
    """By hand: (65535 − v)·255/65535, rounded."""
    values = np.array([[0, 1000, 30000], [65535, 514, 32000]], dtype="<u2")
    white_is_zero = decode_image(grey_tiff(2, 3, 16, values.tobytes(), {262: (3, 0)}))
    assert white_is_zero[..., 0].tolist() == [[255, 251, 138], [0, 253, 130]]
    assert decode_image(grey_tiff(2, 3, 16, values.tobytes(), {}))[..., 2].tolist() == [[0, 4, 117], [255, 2, 125]]


@pytest.mark.parametrize(
    ("bits", "row", "key", "expected"),
    [
        (2, 0b00_01_10_11, 1, [0, 255, 170, 255]),
        (2, 0b00_01_10_11, 85, [0, 255, 170, 255]),  # a key's other bits do not count: 85 = 0b1010101
        (4, 0x05F6, 5, [0, 255, 255, 102]),
        (4, 0x05F6, 6, [0, 85, 255, 255]),
    ],
)
def test_transparent_grey_of_few_bits(bits: int, row: int, key: int, expected: list[int]) -> None:
    """Pixels are scaled to 8 bits (by 85 and 17), so the transparent colour must be too."""
    rows = (b"\0" + row.to_bytes(bits // 2, "big")) * 2
    file = png(2, 4, bits, 0, rows, png_chunk(b"tRNS", struct.pack(">H", key)))
    assert decode_image(file)[1, :, 0].tolist() == expected


def test_transparent_colour_of_16_bit_rgb() -> None:
    pixels = struct.pack(">9H", 0x1234, 0x5678, 0x9ABC, 0x3400, 0x7800, 0xBC00, 65535, 0, 0)
    key = png_chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    decoded = decode_image(png(2, 3, 16, 2, (b"\0" + pixels) * 2, key))
    assert decoded[1].tolist() == [[255, 255, 255], [0x34, 0x78, 0xBC], [255, 0, 0]]


def linear_grey_profile() -> bytes:
    """An ICC profile of grey whose values are light, without a curve."""
    white = struct.pack(">3i", *(round(level * 65536) for level in (0.9642, 1, 0.8249)))
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 256) + bytes(2)
    name = b"desc" + bytes(4) + struct.pack(">I", 2) + b"g\0" + bytes(78)
    tags = [(b"desc", name), (b"wtpt", b"XYZ " + bytes(4) + white), (b"kTRC", curve)]
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags:
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I4xI", start + len(body), 0x02400000) + b"mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28)
    return (head + white).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


LINEAR = [0, 133, 188, 255]
"""sRGB's curve of the light 0, 60, 128 and 255 of 255."""


def test_grey_profile_of_16_bits_with_alpha() -> None:
    """Pillow opens colour type 4 of 16 bits as RGBA."""
    pixels = struct.pack(">6H", 60 * 257, 65535, 60 * 257, 0, 128 * 257, 65535)
    profile = png_chunk(b"iCCP", b"g\0\0" + zlib.compress(linear_grey_profile()))
    assert decode_image(png(2, 3, 16, 4, (b"\0" + pixels) * 2, profile))[1].tolist() == [
        [133] * 3,
        [255] * 3,
        [188] * 3,
    ]
    assert decode_image(png(2, 3, 16, 4, (b"\0" + pixels) * 2))[1, :, 0].tolist() == [60, 255, 128]


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "alpha", "JPEG"])
def test_grey_profile(kind: str) -> None:
    grey = np.array([[0, 60, 128, 255]] * 3, np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if kind == "16 bits" else Image.fromarray(grey)
    if kind == "alpha":
        image = image.convert("LA")
    elif kind == "JPEG":
        image = image.resize((32, 24), Image.Resampling.NEAREST)
    form = {"format": "JPEG", "quality": 100} if kind == "JPEG" else {"format": "PNG"}
    decoded = decode_image(encode(image, form.pop("format"), icc_profile=linear_grey_profile(), **form))
    assert decoded[1, :: 8 if kind == "JPEG" else 1, 0].tolist() == LINEAR


def test_grey_profile_leaves_the_white_ground_white() -> None:
    """Half transparent: 133 and white come to 194; with the profile after the mixture it would be another grey."""
    pixels = np.array([[[60, 255], [60, 0], [60, 128]]] * 2, np.uint8)
    decoded = decode_image(encode(Image.fromarray(pixels, "LA"), "PNG", icc_profile=linear_grey_profile()))
    assert decoded[1, :, 1].tolist() == [133, 255, 194]
    values = np.array([[60, 128, 255]] * 2, np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    with Image.open(io.BytesIO(png(2, 3, 16, 0, rows))) as image:
        file = encode(image, "PNG", icc_profile=linear_grey_profile(), transparency=128 * 257)
    assert decode_image(file)[1, :, 2].tolist() == [133, 255, 255]


@pytest.mark.parametrize(("extra", "expected"), [(1, 177), (2, 152)])
def test_grey_tiff_with_alpha(extra: int, expected: int) -> None:
    """By hand, 50 at alpha 128: 50 + 255·127/255 = 177 where it has been multiplied (1), 25 + 127 = 152 where not."""
    file = grey_tiff(2, 2, 8, bytes([50, 128, 200, 255] * 2), {258: (3, 8), 277: (3, 2), 338: (3, extra)})
    assert np.abs(decode_image(file)[1, :, 0].astype(int) - [expected, 200]).max() <= 1
