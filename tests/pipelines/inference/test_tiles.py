"""What a decoding process answers about an image, called in this one."""

import dataclasses
import json

import numpy as np

from llava_core.config import TileConfig, plan_tiles
from llava_core.geometry import Size
from llava_core.image_headers import DecodeLimits
from llava_core.images import decode_image
from llava_core.tiling import tile_image
from pipelines.inference.tiles import Wish, cut, tiled
from pipelines.sandbox import Answer
from tests.pipelines.inference.fakes import TINY, photo

PINPOINTS = (Size(56, 112), Size(112, 56), Size(112, 112))
SEVERAL = dataclasses.replace(
    TINY, tiles=TileConfig(tile_size=56, pinpoints=PINPOINTS, axis_order="hf", multi_image="single")
)
"""A model that gives each of several images its base tile alone."""


def test_the_images_beside_it_decide_the_tiles_of_an_image() -> None:
    file = photo(56, 112)
    pixels, size = decode_image(file), Size(56, 112)
    for num_images, grid, num_tiles in ((1, Size(1, 2), 3), (2, Size(0, 0), 1)):
        wish = dataclasses.asdict(Wish(num_images, 2, 2))
        options = {"config": json.loads(json.dumps(SEVERAL.to_dict())), "wish": wish}
        values, payload = cut(file, DecodeLimits(), decode_image, options)
        image, bound = tiled(file, Answer(json.loads(json.dumps(values)), payload))
        assert (image.file, image.size, image.grid, bound) == (file, size, grid, 2)
        assert image.tiles.shape == (num_tiles, 3, 56, 56)
        plan = plan_tiles(size, SEVERAL, num_images=num_images)
        np.testing.assert_array_equal(image.tiles, tile_image(pixels, plan, SEVERAL.tiles))
