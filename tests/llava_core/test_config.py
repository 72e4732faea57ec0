"""Settings refuse what cannot be, survive JSON, and plan tiles and tokens for every released kind of model."""

import dataclasses
import json
import random
from typing import Any

import pytest

from llava_core.config import (
    ConnectorConfig,
    ModelConfig,
    TileConfig,
    VideoConfig,
    VisionConfig,
    plan_grid,
    plan_tiles,
)
from llava_core.errors import ConfigError
from llava_core.geometry import Box, Size

CLIP = {"model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "patch_size": 14}
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 384, "patch_size": 14}
NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
ONEVISION_PINPOINTS = tuple((384 * i, 384 * j) for i in range(1, 7) for j in range(1, 7))


def next_config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "vision": VisionConfig(tower=CLIP),
        "text_dim": 4096,
        "connector": ConnectorConfig(image_newline=True),
        "tiles": TileConfig(pinpoints=NEXT_PINPOINTS),
    }
    return ModelConfig(**{**values, **changes})


def onevision_config(**changes: Any) -> ModelConfig:
    tiles = TileConfig(pinpoints=ONEVISION_PINPOINTS, tile_size=384, anyres_max=9, multi_image="single")
    values: dict[str, Any] = {
        "family": "llava_onevision",
        "vision": VisionConfig(tower=SIGLIP, select_feature="full", select_layer=-1),
        "text_dim": 896,
        "connector": ConnectorConfig(image_newline=True),
        "tiles": tiles,
    }
    return ModelConfig(**{**values, **changes})


@pytest.mark.parametrize(
    ("width", "height", "next_tokens", "onevision_tokens"),
    [(336, 336, 1176, 1485), (640, 480, 2340, 2929), (1024, 899, 2634, 6551), (1920, 1080, 1948, 7269)],
)
def test_published_token_counts(width: int, height: int, next_tokens: int, onevision_tokens: int) -> None:
    size = Size(height, width)
    assert plan_tiles(size, next_config()).num_image_tokens == next_tokens
    assert plan_tiles(size, onevision_config()).num_image_tokens == onevision_tokens


def test_the_most_tokens_that_an_image_can_have() -> None:
    """2,928 = 576 + 48·49, a full 2×2 grid; OneVision's 8,765 is 20 % above 729·10, because 1.1² is allowed."""
    assert plan_tiles(Size(672, 672), next_config()).num_image_tokens == 2928
    assert plan_tiles(Size(1168, 960), onevision_config()).num_image_tokens == 8765
    rng = random.Random(0)
    for _ in range(4000):
        size = Size(rng.randint(1, 2600), rng.randint(1, 2600))
        assert plan_tiles(size, next_config()).num_image_tokens <= 2928
        assert plan_tiles(size, onevision_config()).num_image_tokens <= 8765


def test_a_plan_in_full() -> None:
    # 480 · 48/640 = 36 of 48 rows kept, 6 cut on each side
    plan = plan_tiles(Size(480, 640), next_config())
    assert (plan.canvas, plan.grid, plan.num_tiles) == (Size(672, 672), Size(2, 2), 5)
    assert (plan.crop, plan.features) == (Box(6, 42, 0, 48), Size(36, 48))
    assert plan.num_image_tokens == 576 + 36 * 49
    tall = plan_tiles(Size(1000, 200), next_config())
    # canvas 1008×336: 200 · 72/1000 = 14 of 24 columns kept, 5 cut on each side
    assert (tall.canvas, tall.grid, tall.num_tiles) == (Size(1008, 336), Size(3, 1), 4)
    assert (tall.crop, tall.num_image_tokens) == (Box(0, 72, 5, 19), 576 + 72 * 15)


def test_several_images_of_onevision_are_a_square_each() -> None:
    plan = plan_tiles(Size(480, 640), onevision_config(), num_images=3)
    assert (plan.grid, plan.num_tiles, plan.num_image_tokens) == (Size(0, 0), 1, 730)
    assert plan_tiles(Size(480, 640), next_config(), num_images=3).num_image_tokens == 2340


def test_llava_1_5_sees_one_tile() -> None:
    config = next_config(tiles=TileConfig(policy="single", base_tile="pad"), connector=ConnectorConfig())
    plan = plan_tiles(Size(480, 640), config)
    assert (plan.canvas, plan.grid, plan.num_tiles, plan.num_image_tokens) == (Size(336, 336), Size(0, 0), 1, 576)


@pytest.mark.parametrize(
    ("packing", "grid_tokens", "single_tokens"),
    [("spatial_unpad", 576 + 36 * 49, 577), ("spatial", 576 + 48 * 48, 576), ("flat", 576 + 48 * 48, 576)],
)
def test_packings_count_newlines_only_where_they_unpad(packing: Any, grid_tokens: int, single_tokens: int) -> None:
    config = next_config(packing=packing)
    assert plan_tiles(Size(480, 640), config).num_image_tokens == grid_tokens
    assert plan_tiles(Size(480, 640), config, max_tiles=0).num_image_tokens == single_tokens


def test_without_a_newline_rows_end_silently() -> None:
    config = next_config(connector=ConnectorConfig())
    assert plan_tiles(Size(480, 640), config).num_image_tokens == 576 + 36 * 48


def test_pooling_before_the_projector_makes_fewer_patches() -> None:
    config = next_config(connector=ConnectorConfig(image_newline=True, compression_ratio=5))
    assert config.patches_per_side == 5  # ceil(24 / 5)
    # 10×10 features on the canvas; 480 · 10/640 = 7.5 → 7 rows kept, (10 − 7) // 2 = 1 cut on each side: 8 rows
    assert plan_tiles(Size(480, 640), config).num_image_tokens == 25 + 8 * 11


def test_max_tiles_lowers_a_grid() -> None:
    size = Size(480, 640)
    assert plan_tiles(size, next_config(), max_tiles=4).grid == Size(2, 2)
    assert plan_tiles(size, next_config(), max_tiles=3).grid == Size(1, 2)
    assert plan_tiles(size, next_config(), max_tiles=1).grid == Size(0, 0)  # no canvas of one tile in the list
    assert plan_tiles(size, onevision_config(), max_tiles=1).grid == Size(1, 1)
    assert plan_tiles(size, next_config(), max_tiles=0).grid == Size(0, 0)


def test_max_tiles_is_never_exceeded() -> None:
    rng = random.Random(1)
    for _ in range(500):
        size, most = Size(rng.randint(1, 3000), rng.randint(1, 3000)), rng.randint(0, 8)
        for config in (next_config(), onevision_config(), next_config(tiles=TileConfig(policy="grid", max_tiles=6))):
            assert plan_tiles(size, config, max_tiles=most).num_tiles - 1 <= most


def test_the_documents_grid_policy() -> None:
    config = next_config(tiles=TileConfig(policy="grid", max_tiles=5))
    assert plan_tiles(Size(1080, 1920), config).grid == Size(1, 2)
    assert plan_tiles(Size(2000, 400), config).grid == Size(5, 1)
    assert plan_tiles(Size(2000, 400), config, max_tiles=3).grid == Size(3, 1)
    # at most 8 images or tiles in a sample: with 2 images 4 tiles each, 3 beside the base tile
    bounded = next_config(tiles=TileConfig(policy="grid", max_tiles=5, max_images=8))
    assert plan_tiles(Size(2000, 400), bounded, num_images=2).grid == Size(3, 1)
    assert plan_tiles(Size(2000, 400), bounded, num_images=4).grid == Size(0, 0)


def test_axis_order_and_rounding_reach_the_plan() -> None:
    small = Size(198, 324)
    assert plan_tiles(small, next_config()).num_image_tokens == 926
    hf = TileConfig(pinpoints=NEXT_PINPOINTS, axis_order="hf", rounding="hf")
    assert plan_tiles(small, next_config(tiles=hf)).num_image_tokens == 1560
    wide = Size(784, 1323)
    assert plan_tiles(wide, onevision_config()).num_image_tokens == 7596
    rounded = dataclasses.replace(onevision_config().tiles, rounding="hf")
    assert plan_tiles(wide, onevision_config(tiles=rounded)).num_image_tokens == 7814


def test_a_class_token_that_is_kept_counts_for_each_tile() -> None:
    vision = VisionConfig(tower=CLIP, select_feature="full")
    connector = ConnectorConfig(image_newline=False)
    config = next_config(vision=vision, packing="flat", connector=connector)
    assert plan_grid(Size(480, 640), Size(0, 0), config).num_image_tokens == 24 * 24 + 1
    assert plan_grid(Size(480, 640), Size(2, 2), config).num_image_tokens == 5 * (24 * 24 + 1)


def test_plan_grid_completes_a_chosen_grid() -> None:
    for size in (Size(480, 640), Size(1000, 200)):
        plan = plan_tiles(size, next_config())
        assert plan_grid(size, plan.grid, next_config()) == plan


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TileConfig(), "pinpoints is empty"),
        (lambda: TileConfig(pinpoints=((336, 500),)), r"\(336, 500\); each side must be a multiple of 336"),
        (lambda: TileConfig(pinpoints=((336, 0),)), "multiple of 336"),
        (lambda: TileConfig(policy="mosaic"), "tiles.policy is 'mosaic'; expected one of 'pinpoints', 'grid'"),
        (lambda: TileConfig(policy="single", axis_order="wh"), "tiles.axis_order"),
        (lambda: TileConfig(policy="single", rounding="up"), "tiles.rounding"),
        (lambda: TileConfig(policy="single", base_tile="fit"), "tiles.base_tile"),
        (lambda: TileConfig(policy="single", multi_image="two"), "tiles.multi_image"),
        (lambda: TileConfig(policy="single", tile_size=0), "tiles.tile_size is 0; expected at least 1"),
        (lambda: TileConfig(policy="grid", max_tiles=0), "tiles.max_tiles"),
        (lambda: TileConfig(policy="grid", anyres_max=0), "tiles.anyres_max"),
        (lambda: TileConfig(policy="grid", max_images=0), "tiles.max_images"),
        (lambda: VisionConfig(tower=CLIP, select_feature="cls"), "vision.select_feature"),
        (lambda: VisionConfig(tower={**CLIP, "patch_size": None}), "vision.tower.patch_size is None"),
        (lambda: VisionConfig(), "vision.tower.hidden_size"),
        (lambda: ConnectorConfig(num_layers=0), "connector.num_layers"),
        (lambda: ConnectorConfig(compression_ratio=0), "connector.compression_ratio"),
        (lambda: ConnectorConfig(max_grid=0), "connector.max_grid"),
        (lambda: VideoConfig(newline_position="end"), "video.newline_position"),
        (lambda: VideoConfig(max_frames=0), "video.max_frames"),
        (lambda: VideoConfig(pool_stride=0), "video.pool_stride"),
        (lambda: VideoConfig(temporal_layers=0), "video.temporal_layers"),
        (lambda: next_config(family="blip"), "model.family"),
        (lambda: next_config(vision=VisionConfig(tower=CLIP, select_feature="full")), "has no place on a grid"),
        (lambda: next_config(packing="dense"), "model.packing"),
        (lambda: next_config(placement="prefix"), "model.placement"),
        (lambda: next_config(text_dim=0), "model.text_dim"),
        (lambda: next_config(text={"hidden_size": 8}), "text_dim is 4096, but text.hidden_size is 8"),
        (lambda: next_config(tiles=TileConfig(policy="single", tile_size=224)), "is 224, but the tower takes 336"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_config_survives_json() -> None:
    config = onevision_config(
        text={"model_type": "qwen2", "hidden_size": 896, "rope_scaling": {"type": "yarn", "factor": 2.0}},
        video=VideoConfig(max_frames=7, newline_position="grid"),
        video_token_id=151647,
        template="qwen_2",
        trained=False,
    )
    read = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config
    assert isinstance(read.tiles.pinpoints[0], Size) and isinstance(read.tiles.image_mean, tuple)
    other = dataclasses.replace(config, video_token_id=5)
    assert ModelConfig.from_dict(other.to_dict()) != config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("colour",), 1, "colour"),
        (("tiles", "colour"), 1, "colour"),
        (("vision",), None, "model config"),
        (("tiles", "policy"), "mosaic", "mosaic"),
    ],
)
def test_a_dict_that_is_no_config(path: tuple[str, ...], value: object, message: str) -> None:
    values = next_config().to_dict()
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


def test_a_dict_without_a_part() -> None:
    values = next_config().to_dict()
    del values["text_dim"]
    with pytest.raises(ConfigError, match="text_dim"):
        ModelConfig.from_dict(values)


def test_colours_and_sides() -> None:
    assert next_config().tiles.pad_color == (122, 116, 104)
    halves = TileConfig(policy="single", image_mean=(0.5, 0.25, 0.1))
    assert halves.pad_color == (127, 63, 25)
    assert next_config().patches_per_side == 24 and onevision_config().patches_per_side == 27
    assert onevision_config().vision.hidden_size == 1152
