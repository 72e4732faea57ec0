"""The media of one sample: loaded, or taken with the tiles that they come with."""

import io

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from llava_core.checkpoints import read_config
from llava_core.config import plan_tiles
from llava_core.errors import ImageRefused
from llava_core.geometry import Size
from llava_core.media import MediaLoader
from llava_core.media_inputs import load_image
from llava_core.tiled_image import TiledImage
from tests.tiny_models import untrained_folder


def test_tiles_that_come_with_an_image_are_taken_where_they_are_those_of_the_plan() -> None:
    """A file of other pixels than the tiles tells which of both were looked at."""
    pixels = np.arange(90 * 200 * 3, dtype=np.uint32).reshape(90, 200, 3).astype(np.uint8)
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, "PNG")
    config = read_config(untrained_folder())
    size, side = Size(90, 200), config.tiles.tile_size
    load = MediaLoader(config)
    plan = plan_tiles(size, config, max_tiles=2)
    assert plan.grid == (1, 2)
    image = TiledImage(file.getvalue(), size, plan.grid, np.full((3, 3, side, side), 7, np.uint8))
    taken = load([image], (), 2)
    assert (taken.tiles == 7).all() and taken.grids == (plan.grid,) and taken.sizes == (size,)
    assert taken.image_tokens == [plan.num_image_tokens]
    # another bound, or an image of that grid beside it: its own are made of the file
    for images, max_tiles in (([image], 0), ([image], None), ([pixels, image], 4)):
        made = load(images, (), max_tiles)
        expected = load([pixels] * len(images), (), max_tiles)
        assert plan.grid not in made.grids
        assert torch.equal(made.tiles, expected.tiles)
        assert (made.grids, made.sizes, made.image_tokens) == (expected.grids, expected.sizes, expected.image_tokens)
    assert load([image], (), 0).grids == ((0, 0),)
    np.testing.assert_array_equal(load_image(image), pixels)


def test_a_tiled_image_that_was_let_in_by_other_limits_is_decoded_again() -> None:
    thin = np.zeros((4, 400, 3), np.uint8)
    file = io.BytesIO()
    PILImage.fromarray(thin).save(file, "PNG")
    with pytest.raises(ImageRefused):
        load_image(file.getvalue())
    image = TiledImage(file.getvalue(), Size(4, 400), Size(1, 2), np.zeros((3, 3, 56, 56), np.uint8))
    assert load_image(image).shape == (4, 400, 3)
