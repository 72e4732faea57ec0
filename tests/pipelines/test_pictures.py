"""Thumbnails are small and upright, and what is wrong with an image is its own affair."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from llava_core.errors import ImageReason, ImageRefused
from llava_core.image_headers import DEFAULT_LIMITS
from llava_core.images import decode_image
from pipelines.pictures import shrink, thumbnails
from pipelines.sandbox import SandboxSettings
from tests.pipelines.hostile import hostile
from tests.pipelines.inference.fakes import photo


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


def test_small_and_in_order_whatever_the_neighbours_do() -> None:
    settings = SandboxSettings(decoder="tests.pipelines.hostile:decode")
    crash = hostile(photo(50, 40), "crash")
    tall, gone, bad, wide = thumbnails([photo(1500, 900), crash, b"<html>", photo(30, 70)], settings, side=480)
    assert (opened(tall).format, opened(tall).size) == ("JPEG", (288, 480))
    assert (gone, bad) == (None, None)
    assert opened(wide).size == (70, 30)


def test_of_an_image_that_is_cut_off_there_is_as_much_as_there_is() -> None:
    whole = photo(160, 120, encoding="JPEG")
    cut = whole[: len(whole) // 2]
    assert thumbnails([cut]) == [None]
    (shown,) = thumbnails([cut], side=80, broken=True)
    assert opened(shown).size == (60, 80)
    pixels = np.asarray(opened(shown).convert("L")).astype(int)
    # the photo grows brighter from top to bottom; what is missing is all of one grey
    assert np.ptp(pixels[-6:]) < 12 < np.ptp(pixels[:20])
    assert thumbnails([b"\xff\xd8\xff\xe0 no more"], broken=True) == [None]


@pytest.mark.parametrize(("height", "width"), [(65000, 65000), (13000, 13000), (100, 6000)])
def test_what_is_cut_off_within_its_header_is_no_way_round_the_limits(height: int, width: int) -> None:
    """Such an image is refused as cut off before its size is looked at."""
    whole = photo(160, 120, encoding="JPEG")
    frame, scan = whole.index(b"\xff\xc0"), whole.index(b"\xff\xda")
    cut = whole[: frame + 5] + struct.pack(">HH", height, width) + whole[frame + 9 : scan]
    with pytest.raises(ImageRefused) as refused:
        decode_image(cut)
    assert refused.value.reason is ImageReason.TRUNCATED
    with pytest.raises(ImageRefused) as refused:
        shrink(cut, DEFAULT_LIMITS, decode_image, {"side": 80, "broken": True})
    assert refused.value.reason is (ImageReason.ASPECT if height == 100 else ImageReason.BOMB)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
