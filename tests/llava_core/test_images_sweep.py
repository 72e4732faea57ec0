"""`decode_image` on files that nobody made by hand for it: a public collection of hostile ones, and random damage.

Whatever comes in, an array or `ImageRefused` comes out.
"""

import csv
import io
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_core.errors import ImageReason, ImageRefused
from llava_core.images import decode_base64_image, decode_image, read_header
from tests.llava_core.image_files import encode, exif, png_chunk, ramp

MALFORMED = Path(__file__).parents[2] / ".." / "shared" / "data" / "malformed"
R = ImageReason

MAY_REFUSE_WHAT_PILLOW_READS = {R.NOT_IMAGE, R.UNSUPPORTED, R.UNSUPPORTED_MODE, R.TOO_SMALL}
"""Formats and modes outside the list, and 1×1 pictures; everything else that Pillow reads has to come out."""


def test_public_hostile_files() -> None:
    """About 1,400 files: none raises anything else, hangs, or is refused without need; pixels are Pillow's."""
    if not MALFORMED.is_dir():
        pytest.skip("shared/data/malformed is not here")
    found: Counter[str] = Counter()
    with (MALFORMED / "pil_status.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if (MALFORMED / row["path"]).is_file()]
    assert len(rows) > 1000
    for row in rows:
        data = (MALFORMED / row["path"]).read_bytes()
        start = time.process_time()
        outcome = _outcome(data)
        assert time.process_time() - start < 5, row["path"]
        found[outcome if isinstance(outcome, str) else "ok"] += 1
        if isinstance(outcome, np.ndarray):
            assert row["pillow_13.0.0_result"] == "ok", f"{row['path']}: Pillow refuses it"
            if row["format"] == "JPEG" and row["mode"] == "RGB":
                _agrees_with_pillow(data, outcome, row["path"])
        elif row["pillow_13.0.0_result"] == "ok":
            assert outcome in MAY_REFUSE_WHAT_PILLOW_READS, f"{row['path']}: {outcome}, but Pillow reads it"
    assert found["ok"] > 800 and {R.BOMB, R.CORRUPT, R.TRUNCATED, R.UNSUPPORTED_MODE} <= found.keys()


def _agrees_with_pillow(data: bytes, decoded: np.ndarray, name: str) -> None:
    header = read_header(data)
    if header.icc_profile is None and header.orientation == 1:
        with Image.open(io.BytesIO(data)) as image:
            theirs = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(theirs - decoded).max() <= 1, name


def _outcome(data: bytes) -> np.ndarray | ImageReason:
    try:
        pixels = decode_image(data)
    except ImageRefused as refused:
        assert isinstance(refused.reason, ImageReason) and refused.detail
        return refused.reason
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.flags.c_contiguous and pixels.flags.writeable
    assert read_header(data).size == pixels.shape[:2]
    return pixels


def _seeds() -> list[bytes]:
    pixels = ramp(40, 56)
    alpha = np.dstack([pixels, pixels[..., 0]])
    entries = Image.Exif()
    entries[0x0112] = 6
    palette = Image.fromarray(pixels).quantize(64)
    return [
        encode(pixels, "JPEG", exif=exif(6)),
        encode(pixels, "JPEG", progressive=True),
        encode(Image.fromarray(pixels).convert("CMYK"), "JPEG"),
        encode(alpha, "PNG", exif=entries),
        encode(palette, "PNG", transparency=3),
        encode(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
        encode(alpha, "WEBP", exif=entries),
        encode(pixels, "WEBP", lossless=True),
        encode(pixels, "BMP"),
        encode(pixels, "TIFF", compression="tiff_lzw"),
        encode(pixels, "TIFF", compression="jpeg"),
        encode(pixels, "AVIF", quality=50),
    ]


SEEDS = _seeds()


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(SEEDS),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    keep=st.booleans(),
)
def test_random_damage(seed: bytes, cut: float, flips: list[tuple[float, int]], keep: bool) -> None:
    damaged = bytearray(seed if keep else seed[: int(len(seed) * cut)])
    for place, value in flips:
        if damaged:
            damaged[int(place * len(damaged))] = value
    _outcome(bytes(damaged))


@settings(max_examples=200, deadline=None, database=None)
@given(seed=st.sampled_from(SEEDS), at=st.integers(0, 300), insert=st.binary(max_size=40))
def test_random_insertions_near_the_header(seed: bytes, at: int, insert: bytes) -> None:
    _outcome(seed[:at] + insert + seed[at:])


@settings(max_examples=200, deadline=None, database=None)
@given(
    kind=st.sampled_from([b"eXIf", b"iCCP", b"tRNS", b"acTL", b"zTXt", b"pHYs", b"PLTE"]), body=st.binary(max_size=64)
)
def test_random_chunks(kind: bytes, body: bytes) -> None:
    plain = encode(ramp(), "PNG")
    _outcome(plain[:33] + png_chunk(kind, body) + plain[33:])


@settings(max_examples=100, deadline=None, database=None)
@given(st.text(max_size=200))
def test_random_base64(text: str) -> None:
    with pytest.raises(ImageRefused):
        decode_base64_image(text)
