"""The images and videos of one sample: loaded, planned, tiled and counted.

What this does *not* do: batch (`collation`), decide how an image is tiled (`config.plan_tiles`) or resized (`tiling`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_core.config import ModelConfig, plan_tiles
from llava_core.errors import PromptReason, PromptRefused
from llava_core.geometry import Size, TilePlan
from llava_core.media_inputs import load_image, load_video
from llava_core.tiled_image import TiledImage
from llava_core.tiling import squash_frames, tile_image
from llava_core.video import num_video_tokens


@dataclass(frozen=True, slots=True)
class Media:
    """The images and videos of one sample, tiled and counted."""

    tiles: Tensor
    """uint8[ΣN, 3, S, S]."""
    sizes: tuple[Size, ...]
    """Of each image."""
    grids: tuple[Size, ...]
    """Of each image."""
    videos: tuple[Tensor, ...]
    """uint8[F, 3, S, S] of each video."""
    image_tokens: list[int]
    """Of each image."""
    video_tokens: list[int]
    """Of each video."""


class MediaLoader:
    """Loads the media of samples for one model.

    Args:
        config: the model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    def __call__(self, images: Sequence[Any], videos: Sequence[Any], max_tiles: int | None) -> Media:
        """Load, plan and tile the images and videos of one sample.

        Args:
            images: each as `load_image` takes it.
            videos: each uint8[F, H, W, 3].
            max_tiles: as in `plan_tiles`.

        Raises:
            ImageRefused: one of them cannot be used.
            PromptRefused: TOO_LONG for more images than the model takes.
        """
        config = self.config
        most = config.tiles.max_images
        if most is not None and len(images) > most:
            raise PromptRefused(PromptReason.TOO_LONG, f"{len(images)} images; the model takes at most {most}")
        side = config.tiles.tile_size
        # Where features are put before the text, the text has no placeholders for them.
        placed = config.placement == "placeholder"
        tiled = [self._tile(image, len(images), max_tiles) for image in images]
        tiles = [torch.from_numpy(own) for _, _, own in tiled]
        frames = [self._tile_video(video) for video in videos]
        counts = [
            num_video_tokens(len(video), config.patches_per_side, config.video, config.connector.image_newline)
            for video in frames
        ]
        return Media(
            tiles=torch.cat(tiles) if tiles else torch.empty((0, 3, side, side), dtype=torch.uint8),
            sizes=tuple(size for size, _, _ in tiled),
            grids=tuple(plan.grid for _, plan, _ in tiled),
            videos=tuple(frames),
            image_tokens=[plan.num_image_tokens * placed for _, plan, _ in tiled],
            video_tokens=[count * placed for count in counts],
        )

    def _tile(self, image: Any, num_images: int, max_tiles: int | None) -> tuple[Size, TilePlan, NDArray[np.uint8]]:
        """Size, plan and uint8[N, 3, S, S] of an image; its own tiles if it comes with those of the plan."""
        config = self.config
        if isinstance(image, TiledImage):
            plan = plan_tiles(image.size, config, num_images=num_images, max_tiles=max_tiles)
            if (image.grid, image.tiles.shape[-1]) == (plan.grid, config.tiles.tile_size):
                return image.size, plan, image.tiles
        pixels = load_image(image)
        size = Size(*pixels.shape[:2])
        plan = plan_tiles(size, config, num_images=num_images, max_tiles=max_tiles)
        return size, plan, tile_image(pixels, plan, config.tiles)

    def _tile_video(self, video: Any) -> Tensor:
        """uint8[F, 3, S, S] of a video, each frame squashed to one tile."""
        frames = load_video(video, self.config.video.max_frames)
        return torch.from_numpy(squash_frames(frames, self.config.tiles.tile_size))
