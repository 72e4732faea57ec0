"""Each measure against a value worked out by hand, and in the order that people would give."""

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipelines.curation.measures import blockiness, blur, border, measure_pixels, saturation, to_grey
from tests.pipelines.curation.cases import real
from tests.pipelines.curation.pictures import Pixels, encoded, scene


def test_blur_is_the_variance_of_the_laplacian() -> None:
    grey = to_grey(scene(1, 384, 512)).astype(np.int64)
    up, down, left, right, middle = grey[:-2, 1:-1], grey[2:, 1:-1], grey[1:-1, :-2], grey[1:-1, 2:], grey[1:-1, 1:-1]
    expected = float((up + down + left + right - 4 * middle).var())
    assert blur(grey.astype(np.uint8)) == pytest.approx(expected, rel=1e-5)


def test_blur_means_the_same_at_every_size() -> None:
    large = scene(2, 600, 800).repeat(2, axis=0).repeat(2, axis=1)
    soft = Image.fromarray(large).filter(ImageFilter.GaussianBlur(1.5))
    sized = [soft.resize(size, Image.Resampling.BICUBIC) for size in ((1600, 1200), (800, 600))]
    values = [blur(to_grey(np.asarray(image))) for image in sized]
    # measured: 1.25, since the smaller one lost fine grain; without scaling it would be about 16
    assert values[1] / values[0] == pytest.approx(1, abs=0.3), values


def test_blurring_lowers_blur_and_a_turned_picture_keeps_it() -> None:
    pixels = scene(3, 300, 500)
    values = [blur(to_grey(np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(r))))) for r in (0, 1, 3)]
    assert values[0] > 4 * values[1] > 8 * values[2] > 0
    assert blur(to_grey(np.ascontiguousarray(pixels.transpose(1, 0, 2)))) == pytest.approx(values[0], rel=0.02)
    assert blur(np.zeros((2, 900), np.uint8)) == 0.0


def test_brightness_contrast_and_entropy_by_hand() -> None:
    # 100 pixels: 3 of level 0, 47 of 51, 46 of 102, 4 of 255
    grey = np.repeat(np.array([0, 51, 102, 255], np.uint8), [3, 47, 46, 4]).reshape(10, 10)
    found = measure_pixels(np.repeat(grey[..., None], 3, axis=2))
    levels = (
        found.brightness_p01,
        found.brightness_p05,
        found.brightness_p50,
        found.brightness_p95,
        found.brightness_p99,
    )
    assert levels == pytest.approx([0.0, 0.2, 0.2, 0.4, 1.0])
    assert found.contrast == pytest.approx(float(grey.std()) / 255)
    expected = -sum(share * math.log2(share) for share in (0.03, 0.47, 0.46, 0.04))
    assert found.entropy == pytest.approx(expected)
    assert found.saturation == 0


def test_saturation_is_the_distance_of_channels() -> None:
    pixels = np.zeros((3, 5, 3), np.uint8)
    pixels[0] = (255, 0, 51)
    assert saturation(pixels) == pytest.approx(1 / 3)
    large = scene(4, 700, 900)
    exact = float((large.max(axis=2).astype(int) - large.min(axis=2)).mean()) / 255
    assert saturation(large) == pytest.approx(exact, abs=0.01)


def test_blockiness_rises_as_quality_falls_and_survives_cropping() -> None:
    pixels = scene(5, 250, 330)

    def saved(quality: int) -> Pixels:
        return to_grey(np.asarray(Image.open(io.BytesIO(encoded(pixels, quality=quality))).convert("RGB")))

    values = [blockiness(saved(quality)) for quality in (95, 30, 10, 3)]
    assert values == sorted(values)
    assert values[0] < 1.15
    assert values[3] > 1.5 * values[0]
    cropped = saved(3)[3:, 5:]
    assert blockiness(cropped) == pytest.approx(values[3], rel=0.05)
    assert blockiness(np.full((40, 50), 9, np.uint8)) == blockiness(np.zeros((7, 9), np.uint8)) == 1.0


def test_border_counts_bars_of_one_level_and_not_gradients() -> None:
    pixels = to_grey(scene(6, 100, 160))
    assert border(pixels) < 0.05
    boxed = np.full((140, 200), 7, np.uint8)
    boxed[25:125, 30:190] = pixels
    assert border(boxed) == pytest.approx(1 - 100 * 160 / (140 * 200), abs=0.02)
    sky = np.repeat(np.arange(200, dtype=np.uint8)[:, None], 90, axis=1)
    assert border(sky) == pytest.approx(22 / 200, abs=0.01)


def test_real_pictures_fall_where_people_put_them() -> None:
    folder = real("quality/cleanvision")
    found = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as opened:
            if opened.width * opened.height > 5_000_000:
                continue
            found[path.stem] = measure_pixels(np.asarray(opened.convert("RGB")))
    by_blur = sorted(found, key=lambda name: found[name].blur)
    by_light = sorted(found, key=lambda name: found[name].brightness_p99)
    # INDEX.md: blurry, dark, low-information pictures are among them
    assert len(found) >= 8
    assert found[by_blur[0]].blur < 50 < 500 < found[by_blur[-1]].blur
    assert found[by_light[0]].brightness_p99 < 0.35 < found[by_light[1]].brightness_p99
