"""Packing, by hand: every feature is its own number, so a wrong order or a shifted newline shows."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from llava_core.config import ConnectorConfig, ModelConfig, TileConfig, VisionConfig, plan_tiles
from llava_core.geometry import Box, Size, TilePlan
from llava_core.packing import join_tiles, pack_image, resize_features
from tests.tiny_models import PINPOINTS, TILE, clip_config

NEWLINE = torch.tensor([-1])


def plan_of(grid: Size, crop: Box, features: Size | None = None) -> TilePlan:
    features = features or Size(crop.bottom - crop.top, crop.right - crop.left)
    return TilePlan(Size(0, 0), grid, 1 + grid.height * grid.width, crop, features, 0)


def numbered(tiles: int, side: int) -> torch.Tensor:
    return torch.arange(tiles * side**2).view(tiles, side**2, 1)


def test_join_tiles_by_hand() -> None:
    #  tile 0: 0 1   tile 1: 4 5
    #          2 3           6 7    and two such rows of tiles
    canvas = join_tiles(numbered(4, 2), 2, 2)[..., 0]
    assert canvas.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert join_tiles(numbered(2, 2), 2, 1)[..., 0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_three_ways_to_pack() -> None:
    features, plan = numbered(3, 2), plan_of(Size(1, 2), Box(0, 2, 0, 4))
    canvas = [4, 5, 8, 9, 6, 7, 10, 11]
    assert pack_image(features, plan, "flat", NEWLINE).flatten().tolist() == list(range(12))
    assert pack_image(features, plan, "spatial", NEWLINE).flatten().tolist() == [0, 1, 2, 3, *canvas]
    unpadded = pack_image(features, plan, "spatial_unpad", NEWLINE).flatten().tolist()
    assert unpadded == [0, 1, 2, 3, 4, 5, 8, 9, -1, 6, 7, 10, 11, -1]
    assert pack_image(features, plan, "spatial_unpad", None).flatten().tolist() == [0, 1, 2, 3, *canvas]


@pytest.mark.parametrize(
    ("crop", "kept"),
    [(Box(1, 2, 0, 4), [6, 7, 10, 11, -1]), (Box(0, 2, 1, 3), [5, 8, -1, 7, 10, -1])],
)
def test_unpadding_cuts_rows_or_columns(crop: Box, kept: list[int]) -> None:
    packed = pack_image(numbered(3, 2), plan_of(Size(1, 2), crop), "spatial_unpad", NEWLINE)
    assert packed.flatten().tolist() == [0, 1, 2, 3, *kept]


@pytest.mark.parametrize(("packing", "ends"), [("flat", []), ("spatial", []), ("spatial_unpad", [-1])])
def test_base_tile_alone(packing: str, ends: list[int]) -> None:
    plan = plan_of(Size(0, 0), Box(0, 0, 0, 0))
    assert pack_image(numbered(1, 2), plan, packing, NEWLINE).flatten().tolist() == [0, 1, 2, 3, *ends]
    assert pack_image(numbered(1, 2), plan, packing, None).flatten().tolist() == [0, 1, 2, 3]


def test_shrinking_is_bilinear_and_comes_before_the_newline() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 9, 5)
    plan = plan_of(Size(1, 2), Box(0, 3, 1, 6), Size(2, 3))
    packed = pack_image(features, plan, "spatial_unpad", torch.full((5,), 9.0))
    canvas = torch.cat([features[1].view(3, 3, 5), features[2].view(3, 3, 5)], dim=1)[:, 1:]
    small = F.interpolate(canvas.permute(2, 0, 1)[None], (2, 3), mode="bilinear")[0].permute(1, 2, 0)
    expected = torch.cat([small, torch.full((2, 1, 5), 9.0)], dim=1).flatten(0, 1)
    assert torch.equal(packed, torch.cat([features[0], expected]))


def test_resize_by_hand() -> None:
    grid = torch.arange(8.0).view(2, 4, 1)  # 0 1 2 3 / 4 5 6 7: each output is the mean of a 2×2 square
    assert resize_features(grid, 1, 2).flatten().tolist() == [2.5, 4.5]


def config(packing: str, newline: bool, ratio: int = 1, shrink: int | None = None) -> ModelConfig:
    return ModelConfig(
        vision=VisionConfig(tower=clip_config().to_dict()),
        text_dim=4,
        connector=ConnectorConfig(image_newline=newline, compression_ratio=ratio),
        tiles=TileConfig(tile_size=TILE, pinpoints=PINPOINTS, axis_order="hf", anyres_max=shrink),
        packing=packing,
    )


@pytest.mark.parametrize("packing", ["flat", "spatial", "spatial_unpad"])
@pytest.mark.parametrize("newline", [True, False])
@pytest.mark.parametrize(("ratio", "shrink"), [(1, None), (2, None), (1, 2)])
def test_every_plan_counts_what_packing_makes(packing: str, newline: bool, ratio: int, shrink: int | None) -> None:
    model = config(packing, newline, ratio, shrink)
    vector = torch.zeros(4) if newline else None
    for height, width in itertools.product((1, 7, 30, 61, 200), (2, 29, 90, 311)):
        for max_tiles in (None, 0):
            plan = plan_tiles(Size(height, width), model, max_tiles=max_tiles)
            features = torch.zeros(plan.num_tiles, model.patches_per_side**2, 4)
            assert pack_image(features, plan, packing, vector).shape[0] == plan.num_image_tokens, (height, width)


def test_wrong_number_of_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match="2 tiles, but the plan has 3"):
        pack_image(numbered(2, 2), plan_of(Size(1, 2), Box(0, 2, 0, 4)), "flat", None)


def test_newline_has_a_gradient_once_for_each_row() -> None:
    newline = torch.zeros(1, requires_grad=True)
    features = torch.zeros(3, 4, 1)
    pack_image(features, plan_of(Size(1, 2), Box(0, 2, 0, 4)), "spatial_unpad", newline).sum().backward()
    assert newline.grad.tolist() == [2.0]
