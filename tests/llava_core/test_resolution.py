"""The document's resolution strategies: by task, by the user, by the image itself."""

from pathlib import Path

import numpy as np
import pytest

from llava_core.config import ConnectorConfig, ModelConfig, TileConfig, VisionConfig, plan_tiles
from llava_core.errors import ConfigError
from llava_core.geometry import Size
from llava_core.images import decode_image
from llava_core.resolution import choose_resolution, image_resolution, lost_detail, select_resolution, tile_bound

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("task", "bound"),
    [("ocr", None), ("text_vqa", None), ("document", None), ("caption", 2), ("vqa", 2), ("classification", 0)],
)
def test_a_task_decides_as_the_document_says(task: str, bound: int | None) -> None:
    assert select_resolution("auto", task=task) == bound


def test_what_the_user_asked_for_comes_before_the_task() -> None:
    assert select_resolution("low", task="ocr") == 0
    assert select_resolution("medium", task="ocr") == 2
    assert select_resolution("high", task="classification") is None
    assert choose_resolution("auto", "general") == "auto"


def test_the_users_own_bound_is_never_exceeded() -> None:
    assert [tile_bound("medium", most) for most in (0, 1, 2, 3, None)] == [0, 1, 2, 2, 2]
    assert [tile_bound("high", most) for most in (0, 5, None)] == [0, 5, None]
    assert tile_bound("low", 9) == 0


def stripes(height: int, width: int, wide: int) -> np.ndarray:
    """Vertical stripes, levels 40 and 240, each `wide` pixels."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, np.arange(width) // wide % 2 == 1] = 240
    return image


def test_the_image_decides_a_general_task() -> None:
    fine, coarse = stripes(400, 900, 1), stripes(400, 900, 90)
    assert select_resolution("auto", fine) is None
    assert select_resolution("auto", coarse) == 2
    assert select_resolution("auto", fine, max_tiles=3) == 3
    assert select_resolution("auto", fine, tile_side=900) == 2  # one tile shows it whole
    with pytest.raises(ValueError, match="needs the image"):
        select_resolution("auto")


def test_lost_detail_by_hand() -> None:
    # 900 wide on tiles of 450: two columns share a base-tile pixel, 40 and 240, each 100 from their mean
    assert lost_detail(stripes(300, 900, 1), 450) == 10000
    # stripes two wide coincide with the cells: nothing lost
    assert lost_detail(stripes(300, 900, 2), 450) == 0
    # tall instead of wide: cells of 2×1 pixels lie along the stripes
    assert lost_detail(stripes(900, 300, 1), 450) == 0
    # cells of 3 columns: (40, 240, 40) has mean 320/3, away 800/3 in all, 88.88 each; inverted, the same
    assert lost_detail(stripes(10, 1200, 1), 400) == 8888
    # cells of 2×2 with one bright pixel of 200: mean 50, away (150 + 3·50) / 4 = 75
    dots = np.zeros((20, 30, 3), np.uint8)
    dots[::2, ::2] = 200
    assert lost_detail(dots, 15) == 7500
    # the remainder that fills no cell is left out: 31 columns of 2 → 15 cells, the last column is not seen
    odd = np.zeros((20, 31, 3), np.uint8)
    odd[:, 30] = 255
    assert lost_detail(odd, 16) == 0


def test_only_green_is_looked_at_and_colour_alone_changes_nothing() -> None:
    image = np.zeros((100, 900, 3), np.uint8)
    image[:, ::2, 0] = 255
    assert lost_detail(image, 450) == 0


def test_the_bound_reaches_the_plan() -> None:
    tower = {"model_type": "clip_vision_model", "hidden_size": 8, "image_size": 336, "patch_size": 14}
    tiles = TileConfig(pinpoints=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)))
    config = ModelConfig(
        vision=VisionConfig(tower=tower), text_dim=8, tiles=tiles, connector=ConnectorConfig(image_newline=True)
    )
    found = [
        plan_tiles(Size(480, 640), config, max_tiles=select_resolution(name)).num_tiles
        for name in ("low", "medium", "high")
    ]
    assert found == [1, 3, 5]


@pytest.mark.parametrize(("resolution", "task"), [("huge", "ocr"), ("auto", "poetry")])
def test_unknown_names(resolution: str, task: str) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        select_resolution(resolution, task=task)  # type: ignore[arg-type]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared images are not on this machine")
def test_the_threshold_tells_most_text_from_most_photos() -> None:
    """Measured: 33 of 40 receipts and charts ask for "high", 16 of 30 photos do (fur, foliage, print)."""

    def asking_for_high(folder: str, most: int) -> tuple[int, int]:
        files = [file for file in sorted((SHARED / folder).rglob("*")) if file.suffix in (".jpg", ".png")][:most]
        images = [decode_image(file.read_bytes()) for file in files if file.name != "truncated.jpg"]
        return sum(image_resolution(image) == "high" for image in images), len(images)

    text = [asking_for_high("documents/sroie10", 10), asking_for_high("documents/opencqa", 30)]
    photos = [asking_for_high("photos/coco_cc0", 30)]
    assert sum(high for high, _ in text) / sum(count for _, count in text) >= 0.75
    assert sum(high for high, _ in photos) / sum(count for _, count in photos) <= 0.6
