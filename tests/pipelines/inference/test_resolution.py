"""The document's resolution strategies, and the measure that decides where no task does."""

import numpy as np
import pytest

from pipelines.inference.resolution import (
    Resolution,
    Task,
    choose_resolution,
    image_resolution,
    lost_detail,
    tile_bound,
)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("ocr", "high"),
        ("text_vqa", "high"),
        ("document", "high"),
        ("caption", "medium"),
        ("vqa", "medium"),
        ("classification", "low"),
        ("general", "auto"),
    ],
)
def test_a_task_settles_auto_and_nothing_else(task: Task, expected: Resolution) -> None:
    assert choose_resolution("auto", task) == expected
    assert choose_resolution("low", task) == "low"


@pytest.mark.parametrize(
    ("resolution", "max_tiles", "expected"),
    [("low", 5, 0), ("medium", None, 2), ("medium", 1, 1), ("medium", 9, 2), ("high", None, None), ("high", 3, 3)],
)
def test_bound_is_the_lower_of_the_two(resolution: Resolution, max_tiles: int | None, expected: int | None) -> None:
    assert tile_bound(resolution, max_tiles) == expected


def test_detail_is_what_one_base_tile_pixel_averages_away() -> None:
    # 6×4 image, 2-pixel tiles: cells of 3 rows × 2 cols. Only the green channel counts.
    image = np.zeros((6, 4, 3), np.uint8)
    image[..., 0] = np.arange(24).reshape(6, 4) * 10
    image[0:3, 0, 1] = 60  # one cell: 3 pixels of 60, 3 of 0 → mean 30, each 30 away
    assert lost_detail(image, 2) == pytest.approx(30 * 6 / 24)
    assert lost_detail(image, 6) == 0.0


def test_rows_and_columns_are_squeezed_each_by_its_own_ratio() -> None:
    # stripes that alternate along the width: lost where columns are squeezed, kept where only rows are
    stripes = np.zeros((4, 16, 3), np.uint8)
    stripes[:, ::2] = 200
    assert lost_detail(stripes, 8) == 100.0
    assert lost_detail(stripes.transpose(1, 0, 2), 8) == 100.0
    tall = np.zeros((16, 4, 3), np.uint8)
    tall[:, ::2] = 200
    assert lost_detail(tall, 8) == 0.0


def test_small_text_asks_for_high_and_a_smooth_photo_for_medium() -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 900).astype(np.uint8)[:, None, None], (900, 700, 3))
    text = np.full((900, 700, 3), 255, np.uint8)
    text[10:890:7, 20:680:3] = 0
    assert image_resolution(np.ascontiguousarray(smooth), 336) == "medium"
    assert image_resolution(text, 336) == "high"
    assert image_resolution(text[:300, :300], 336) == "medium"  # it fits into the base tile as it is
