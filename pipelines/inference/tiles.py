"""What a decoding process makes of an image for an engine: its tiles, two megabytes where a photo's pixels are 36.

    file, wish ─▶ decoded ─ detail ─▶ bound ─ plan_tiles ─▶ tile_image ─▶ TiledImage

What this does *not* do: run in the engine's process, or choose a bound by more than one image (`prepare`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_core.config import ModelConfig, plan_tiles
from llava_core.geometry import Size
from llava_core.image_headers import DecodeLimits
from llava_core.resampling import resample
from llava_core.resolution import image_resolution
from llava_core.tiled_image import TiledImage
from llava_core.tiling import tile_image
from pipelines.child import Buffer
from pipelines.decoder_process import Decoder
from pipelines.sandbox import Answer

TILES = f"{__name__}:cut"
"""The task that a decoding process runs."""
PREPARE = f"{__name__}:prepare"


@dataclass(frozen=True, slots=True)
class Wish:
    """What tiles of an image are wanted."""

    num_images: int
    """Of its row."""
    plain: int | None
    """Bound on tiles, as `plan_tiles` takes it, where the base tile would lose nothing of the image."""
    detailed: int | None
    """Bound where it would; one that equals `plain` settles it without a look."""


def prepare() -> None:
    """Compile what resizes, or load what was compiled before."""
    resample(np.zeros((8, 8, 3), np.uint8), Size(4, 4))


Tiled = tuple[TiledImage, int | None]
"""An image, and the bound that was chosen for it."""


def cut(
    data: bytes, limits: DecodeLimits, decoder: Decoder, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Buffer]:
    """The task: the bound that was chosen, the size and the grid; uint8[N, 3, S, S] of the tiles."""
    config, wish = ModelConfig.from_dict(options["config"]), Wish(**options["wish"])
    pixels = decoder(data, limits=limits)
    bound = wish.plain
    if wish.plain != wish.detailed and image_resolution(pixels, config.tiles.tile_size) == "high":
        bound = wish.detailed
    size = Size(*pixels.shape[:2])
    plan = plan_tiles(size, config, num_images=wish.num_images, max_tiles=bound)
    tiles = tile_image(pixels, plan, config.tiles)
    return {"bound": bound, "size": size, "grid": plan.grid, "shape": tiles.shape}, tiles.reshape(-1).data


def tiled(file: bytes, answer: Answer) -> Tiled:
    """What the task answered about a file."""
    values = answer.values
    tiles = np.frombuffer(answer.payload, np.uint8).reshape(values["shape"])
    return TiledImage(file, Size(*values["size"]), Size(*values["grid"]), tiles), values["bound"]
