"""Tiles equal those of transformers' Pillow processors before normalisation, every value."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaNextImageProcessorPil, LlavaOnevisionImageProcessorPil

from llava_core.config import ModelConfig, TileConfig, VisionConfig, plan_tiles
from llava_core.errors import ConfigError
from llava_core.geometry import Box, Size, TilePlan, square_plan
from llava_core.tiling import base_tile, tile_image

SIDE = 28
# Not closed under transposition, and wide enough for odd remainders on both sides.
PINPOINTS = ((56, 56), (28, 84), (140, 28), (56, 84), (112, 56))


def config_of(**tiles: object) -> ModelConfig:
    return ModelConfig(
        vision=VisionConfig(tower={"hidden_size": 8, "image_size": SIDE, "patch_size": 14}),
        text_dim=8,
        tiles=TileConfig(**{"tile_size": SIDE, "pinpoints": PINPOINTS, "axis_order": "hf", "rounding": "hf"} | tiles),
    )


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Worst case for rounding: every pass overshoots and is clipped somewhere."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photo(height: int, width: int) -> np.ndarray:
    """Smooth, with edges; no two rows or columns alike."""
    rows, cols = np.mgrid[:height, :width]
    red = 127 + 120 * np.sin(rows * 0.11 + cols * cols * 0.0003)
    green = 255 * ((rows // 9 + cols // 13) % 2)
    blue = (rows * 255 / height + cols * 40 / width) % 256
    return np.stack([red, green, blue], -1).astype(np.uint8)


def check_equal(tiles: NDArray[np.uint8], theirs: torch.Tensor) -> None:
    np.testing.assert_array_equal(tiles, theirs.numpy())


def next_tiles(image: np.ndarray, side: int = SIDE, pinpoints: tuple = PINPOINTS) -> torch.Tensor:
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=[list(pinpoint) for pinpoint in pinpoints],
        do_rescale=False,
        do_normalize=False,
    )
    return processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("make", [noise, photo])
@pytest.mark.parametrize(
    "size",
    [
        (30, 41),
        (41, 30),
        (57, 33),
        (100, 101),
        (200, 199),
        (37, 123),
        (211, 64),
        (29, 28),
        (28, 28),
        (300, 17),
        (9, 390),
    ],
)
def test_tiles_equal_llava_next(make, size: tuple[int, int]) -> None:
    image = make(*size)
    config = config_of()
    plan = plan_tiles(Size(*size), config)
    tiles = tile_image(image, plan, config.tiles)
    check_equal(tiles, next_tiles(image))
    assert tiles.dtype == np.uint8 and tiles.flags.c_contiguous and len(tiles) == plan.num_tiles


@settings(max_examples=60, deadline=None, database=None)
@given(height=st.integers(2, 400), width=st.integers(2, 400))
def test_tiles_equal_llava_next_for_any_size(height: int, width: int) -> None:
    if max(height, width) > 50 * min(height, width):
        return
    image, config = noise(height, width), config_of()
    tiles = tile_image(image, plan_tiles(Size(height, width), config), config.tiles)
    check_equal(tiles, next_tiles(image))


def test_tiles_equal_llava_next_at_its_real_size() -> None:
    pinpoints = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
    for size in ((1300, 1001), (1501, 1700), (640, 480)):
        image = photo(*size)
        config = ModelConfig(
            vision=VisionConfig(tower={"hidden_size": 8, "image_size": 336, "patch_size": 14}),
            text_dim=8,
            tiles=TileConfig(pinpoints=pinpoints, axis_order="hf"),
        )
        tiles = tile_image(image, plan_tiles(Size(*size), config), config.tiles)
        check_equal(tiles, next_tiles(image, 336, pinpoints))


@pytest.mark.parametrize("num_images", [1, 2])
def test_tiles_equal_onevision(num_images: int) -> None:
    """One image: any-res. Several: each padded to a square of the mean colour."""
    config = config_of(multi_image="single", image_mean=(0.5, 0.3, 0.7), image_std=(0.5, 0.5, 0.5))
    processor = LlavaOnevisionImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=[list(pinpoint) for pinpoint in PINPOINTS],
        image_mean=[0.5, 0.3, 0.7],
        do_rescale=False,
        do_normalize=False,
    )
    pictures = [noise(91, 40, 1), photo(64, 121)][:num_images]
    theirs = processor([[Image.fromarray(picture) for picture in pictures]], return_tensors="pt")["pixel_values"]
    for picture, expected in zip(pictures, theirs, strict=True):
        plan = plan_tiles(Size(*picture.shape[:2]), config, num_images=num_images)
        tiles = tile_image(picture, plan, config.tiles)
        check_equal(tiles, expected[: len(tiles)])
        assert len(tiles) == (1 if num_images > 1 else plan.num_tiles)


@pytest.mark.parametrize("size", [(57, 33), (33, 57), (61, 200), (30, 31), (12, 500)])
def test_cropped_base_tile_equals_clips(size: tuple[int, int]) -> None:
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        do_rescale=False,
        do_normalize=False,
    )
    image = noise(*size)
    expected = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    config = config_of(policy="single", pinpoints=(), base_tile="crop")
    tiles = tile_image(image, plan_tiles(Size(*size), config), config.tiles)
    check_equal(tiles, expected)


def test_padded_base_tile_by_hand() -> None:
    """3×6 → 6×6 with one row above and two below; no resizing, so the values are exact."""
    image = np.arange(54, dtype=np.uint8).reshape(3, 6, 3)
    square = base_tile(image, 6, "pad", (201, 202, 203))
    assert (square[0] == (201, 202, 203)).all() and (square[4:] == (201, 202, 203)).all()
    np.testing.assert_array_equal(square[1:4], image)
    turned = base_tile(np.ascontiguousarray(image.swapaxes(0, 1)), 6, "pad", (201, 202, 203))
    np.testing.assert_array_equal(turned[:, 1:4], image.swapaxes(0, 1))


def test_tiles_by_hand() -> None:
    """A 5×8 image, not resized, on a 6×8 canvas of 2×2-pixel tiles: the odd row out is black, at the bottom."""
    image = (1 + np.arange(120)).astype(np.uint8).reshape(5, 8, 3)
    plan = TilePlan(Size(6, 8), Size(3, 4), 13, Box(0, 3, 0, 4), Size(3, 4), 0)
    tiles = tile_image(image, plan, TileConfig(tile_size=2, policy="grid", max_tiles=12))
    canvas = np.concatenate([image, np.zeros((1, 8, 3), np.uint8)])
    for row in range(3):
        for col in range(4):
            expected = canvas[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].transpose(2, 0, 1)
            np.testing.assert_array_equal(tiles[1 + 4 * row + col], expected)


def test_odd_remainder_goes_below_and_right() -> None:
    """A white 84×79-to-56×53 image on a 56×56 canvas: 1 black column at the left, 2 at the right."""
    config = config_of(pinpoints=((56, 56),))
    tiles = tile_image(np.full((84, 79, 3), 255, np.uint8), plan_tiles(Size(84, 79), config), config.tiles)
    canvas = tiles[1:].reshape(2, 2, 3, SIDE, SIDE).transpose(2, 0, 3, 1, 4).reshape(3, 56, 56)
    assert (canvas[:, :, 1:54] == 255).all() and canvas[:, :, 0].max() == 0 and canvas[:, :, 54:].max() == 0
    assert (tiles[0] == 255).all()


@pytest.mark.parametrize(
    ("fit", "several", "expected"),
    [("squash", "single", "pad"), ("squash", "anyres", "squash"), ("crop", "anyres", "crop")],
)
def test_how_a_lone_base_tile_is_made(fit: str, several: str, expected: str) -> None:
    image, tiles = photo(40, 90), config_of(base_tile=fit, multi_image=several).tiles
    made = tile_image(image, square_plan(SIDE, 1), tiles)
    np.testing.assert_array_equal(made[0].transpose(1, 2, 0), base_tile(image, SIDE, expected, tiles.pad_color))


def test_base_tile_beside_a_grid_is_never_padded() -> None:
    image, config = photo(40, 90), config_of(multi_image="single")
    tiles = tile_image(image, plan_tiles(Size(40, 90), config), config.tiles)
    np.testing.assert_array_equal(tiles[0].transpose(1, 2, 0), base_tile(image, SIDE, "squash", (0, 0, 0)))


def test_plan_for_another_tile_size_is_refused() -> None:
    plan = plan_tiles(Size(40, 90), config_of())
    with pytest.raises(ConfigError, match="tile_size 14"):
        tile_image(photo(40, 90), plan, TileConfig(tile_size=14, policy="grid"))


def test_read_only_and_cropped_pixels_are_tiled_without_a_warning() -> None:
    """Such arrays come from Pillow; torch would warn, and a warning is an error here."""
    locked = noise(60, 90)
    locked.flags.writeable = False
    unchanged = noise(SIDE, SIDE)
    unchanged.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tile_image(locked, square_plan(SIDE, 1), config_of(base_tile="squash").tiles)
        tile_image(unchanged, square_plan(SIDE, 1), config_of(base_tile="squash").tiles)
        tile_image(noise(28, 28), square_plan(SIDE, 1), config_of(base_tile="crop").tiles)
