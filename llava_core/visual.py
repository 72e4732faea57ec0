"""From tiles and frames to packed features: vision tower, connector and packing as one module.

    tiles[ΣN, 3, S, S] ─ image_processor ─▶ [ΣN, P², Dv] ─ projector ─▶ [ΣN, p², D] ─ pack ─▶ [T_i, D] for each image

Legend: N tiles, S tile side (px), P and p patches along a side before and after pooling, Dv tower width, D text width,
T tokens. Everything that depends on sizes is decided by `TilePlan`, in plain integers.

What this does *not* do: know a language model (`model`), cut images into tiles (`tiling`).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llava_core.config import ModelConfig, plan_grid, plan_tiles
from llava_core.connector import AnyResolutionProjector
from llava_core.geometry import Size, TilePlan
from llava_core.packing import pack_image
from llava_core.video import TemporalEncoder, pack_video, pool_frames
from llava_core.vision_tower import DynamicImageProcessor

Sizes = Tensor | Sequence[Sequence[int]]
"""int64[num_images, 2] or the same as plain numbers; with plain numbers `torch.compile` needs no graph break."""
Counts = Tensor | Sequence[int]
"""int64[B] or the same as plain numbers."""
VisualInputs = tuple[Tensor | None, Sizes | None, Sizes | None, Counts | None]
"""pixel_values, image_sizes, image_grids, num_images_per_sample: what `encode_images` takes."""


class VisualEncoder(nn.Module):
    """The visual half of the model.

    Args:
        config: the whole model.
    """

    image_newline: nn.Parameter | None
    """float[D], or None."""
    temporal_encoder: TemporalEncoder | None
    """Of videos, or None."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, video = config.text_dim, config.video
        self.image_processor = DynamicImageProcessor(vision=config.vision, tiles=config.tiles)
        self.projector = AnyResolutionProjector(config.vision.hidden_size, width, config=config.connector)
        newline = nn.Parameter(torch.randn(width) / math.sqrt(width)) if config.connector.image_newline else None
        self.register_parameter("image_newline", newline)
        self.temporal_encoder = None
        if video.temporal_encoder:
            self.temporal_encoder = TemporalEncoder(width, video.max_frames, video.temporal_layers)

    @property
    def use_video(self) -> bool:
        """Whether video is enabled: a OneVision model, or one with a temporal encoder."""
        return self.config.family == "llava_onevision" or self.temporal_encoder is not None

    def plan_images(
        self,
        image_sizes: Sizes,
        image_grids: Sizes | None = None,
        num_images_per_sample: Counts | None = None,
    ) -> list[TilePlan]:
        """Plan each image: by its grid where that is given, else by the config's policy.

        Args:
            image_sizes: (height, width) of each image, pixels.
            image_grids: (rows, cols) of tiles that each image was cut into.
            num_images_per_sample: how many belong to each sample; None for one each.

        Returns:
            A plan for each image.

        Raises:
            ValueError: sizes, grids and numbers do not add up, or more images than a sample may have.
        """
        sizes = [Size(*size) for size in plain_rows(image_sizes)]
        counts = [1] * len(sizes) if num_images_per_sample is None else plain_counts(num_images_per_sample)
        if sum(counts) != len(sizes):
            raise ValueError(f"num_images_per_sample adds up to {sum(counts)}, but image_sizes has {len(sizes)}")
        most = self.config.tiles.max_images
        if most is not None and max(counts, default=0) > most:
            raise ValueError(f"a sample has {max(counts)} images, but the model takes at most {most} (max_images)")
        if image_grids is None:
            companions = [count for count in counts for _ in range(count)]
            return [plan_tiles(s, self.config, num_images=n) for s, n in zip(sizes, companions, strict=True)]
        grids = [Size(*grid) for grid in plain_rows(image_grids)]
        if len(grids) != len(sizes):
            raise ValueError(f"image_grids has {len(grids)} images, image_sizes has {len(sizes)}")
        return [plan_grid(size, grid, self.config) for size, grid in zip(sizes, grids, strict=True)]

    def tile_images(self, images: Tensor, num_images_per_sample: Counts | None = None) -> VisualInputs:
        """Cut whole images into tiles, as the document's form needs it.

        Args:
            images: [num_images, 3, H, W], uint8 or float in 0..1.
            num_images_per_sample: how many images belong to each sample; None for one each.

        Returns:
            What `encode_images` takes, tiles uint8[ΣN, 3, S, S].
        """
        sizes = [list(images.shape[-2:])] * images.shape[0]
        plans = self.plan_images(sizes, None, num_images_per_sample)
        tiles = self.image_processor.plan_and_tile(list(images), plans)
        return tiles, sizes, [list(plan.grid) for plan in plans], num_images_per_sample

    def tile_frames(self, frames: Tensor) -> Tensor:
        """Squash whole frames into tiles; [B, F, 3, H, W], uint8 or float in 0..1, to uint8[B, F, 3, S, S]."""
        return torch.unflatten(self.image_processor.squash(frames.flatten(0, 1)), 0, tuple(frames.shape[:2]))

    def encode_images(
        self,
        pixel_values: Tensor,
        image_sizes: Sizes | None = None,
        image_grids: Sizes | None = None,
        num_images_per_sample: Counts | None = None,
    ) -> list[Tensor]:
        """From tiles to packed image features.

        Args:
            pixel_values: [ΣN, 3, S, S], all images' tiles, uint8 (normalised here) or float (normalised already); or
                transformers' padded form [num_images, max N, 3, S, S].
            image_sizes: (height, width) of each image; may be left out where every image is one square tile.
            image_grids: (rows, cols) of tiles of each image; None plans by the config's policy.
            num_images_per_sample: how many images belong to each sample; None for one each.

        Returns:
            float[T_i, D] for each image, T_i = its plan's `num_image_tokens`.

        Raises:
            ValueError: tiles and plans do not add up; both numbers are named.
        """
        if image_sizes is None:
            if self.config.tiles.policy != "single":
                raise ValueError("pixel_values came without image_sizes, which any-res needs: (height, width) of each")
            image_sizes = [[self.config.tiles.tile_size] * 2] * pixel_values.shape[0]
        plans = self.plan_images(image_sizes, image_grids, num_images_per_sample)
        return self.pack_images(self.image_processor(_flat_tiles(pixel_values, plans)), plans, num_images_per_sample)

    def pack_images(
        self, patches: Tensor, plans: Sequence[TilePlan], num_images_per_sample: Counts | None = None
    ) -> list[Tensor]:
        """From patch features to packed image features: the half of `encode_images` after the tower.

        Args:
            patches: float[ΣN, P², D_v] of all images' tiles.
            plans: of each image, N tiles each.
            num_images_per_sample: how many images belong to each sample; None for one each.

        Returns:
            float[T_i, D] for each image, T_i = its plan's `num_image_tokens`.
        """
        features = self._project_features(patches, [plan.grid for plan in plans])
        images = list(torch.split(features, [plan.num_tiles for plan in plans]))
        if self.projector.cross_image_attention is not None and num_images_per_sample is not None:
            counts = iter(plain_counts(num_images_per_sample))
            queue = iter(images)
            images = [one for n in counts for one in self.projector.attend_across([next(queue) for _ in range(n)])]
        return [
            pack_image(image, plan, self.config.packing, self.image_newline)
            for image, plan in zip(images, plans, strict=True)
        ]

    def encode_videos(self, pixel_values_videos: Tensor) -> list[Tensor]:
        """From frames to packed video features.

        Args:
            pixel_values_videos: [num_videos, F, 3, S, S], uint8 or normalised float.

        Returns:
            float[T, D] for each video.

        Raises:
            ValueError: the model has no video.
        """
        if not self.use_video:
            raise ValueError("Video encoding not enabled: not a OneVision model, nor was use_video=True given")
        count, frames = pixel_values_videos.shape[:2]
        projected = self._project(pixel_values_videos.flatten(0, 1), [Size(0, 0)] * (count * frames))
        pooled = torch.unflatten(pool_frames(projected, self.config.video.pool_stride), 0, (count, frames))
        if self.temporal_encoder is not None:
            encode = self.temporal_encoder
            pooled = torch.stack([encode(video) for video in pooled])
        return [pack_video(video, self.config.video.newline_position, self.image_newline) for video in pooled]

    @torch.no_grad()
    def process_patches_sequential(
        self, patches: Tensor, max_memory_mb: int = 4096, grids: Sequence[Size] | None = None
    ) -> Tensor:
        """Encode tiles in chunks whose activations stay under a budget, and project them; no gradients.

        Args:
            patches: tiles, [N, 3, S, S], uint8 or normalised float ("patches" is the document's word).
            max_memory_mb: the budget for the tower's activations, MiB.
            grids: (rows, cols) of each image's tiles; None takes each tile for an image of its own.

        Returns:
            float[N, p², D]: what one pass over all tiles gives.
        """
        chunks = torch.split(patches, self.image_processor.tiles_per_chunk(max_memory_mb))
        features = torch.cat([self.image_processor(chunk) for chunk in chunks])
        return self._project_features(features, grids or [Size(0, 0)] * len(patches))

    def empty_features(self) -> Tensor:
        """float[0, D] that depends on every visual parameter: their gradients are zero, but there are gradients.

        Training on several devices needs it where one device's batch has no image: the tower runs on an empty tile,
        as everywhere else, and all devices exchange the same gradients.
        """
        side, weight = self.config.tiles.tile_size, next(self.projector.parameters())
        tile = torch.zeros(1, 3, side, side, device=weight.device, dtype=torch.uint8)
        return self._project(tile, [Size(0, 0)])[0, :0] + self.visual_zero()

    def visual_zero(self) -> Tensor:
        """float[]: 0, but it depends on all of projector, temporal encoder and newline, so that each has a gradient.

        One image, several and video go through different ones of them. The tower's are reached through its output
        alone: outside of its own layers a sharded one is not whole.
        """
        visual = (self.projector, self.temporal_encoder)
        own = [p for part in visual if part is not None for p in part.parameters()]
        own += [self.image_newline] if self.image_newline is not None else []
        return torch.stack([parameter.flatten()[:0].sum() for parameter in own]).sum()

    def _project(self, tiles: Tensor, grids: Sequence[Size]) -> Tensor:
        return self._project_features(self.image_processor(tiles), grids)

    def _project_features(self, features: Tensor, grids: Sequence[Size]) -> Tensor:
        # The document moves the tower alone to another device; features follow the connector.
        projected: Tensor = self.projector(features.to(next(self.projector.parameters())), grids)
        return projected


def plain_rows(values: Sizes) -> list[list[int]]:
    """Pairs as plain integers: sizes must never be computed with tensors, whose rounding differs."""
    return values.tolist() if isinstance(values, Tensor) else [[int(n) for n in row] for row in values]


def plain_counts(values: Counts) -> list[int]:
    """Numbers as plain integers."""
    return values.tolist() if isinstance(values, Tensor) else [int(n) for n in values]


def _flat_tiles(pixel_values: Tensor, plans: Sequence[TilePlan]) -> Tensor:
    """All images' tiles without padding between them, [ΣN, 3, S, S]."""
    planned = [plan.num_tiles for plan in plans]
    if pixel_values.ndim == 5:
        if pixel_values.shape[0] != len(plans) or pixel_values.shape[1] < max(planned):
            raise ValueError(
                f"pixel_values has {pixel_values.shape[0]} images of {pixel_values.shape[1]} tiles; "
                f"image_sizes stand for {len(plans)} images of up to {max(planned)}"
            )
        return torch.cat([tiles[:count] for tiles, count in zip(pixel_values, planned, strict=True)])
    if pixel_values.shape[0] != sum(planned):
        raise ValueError(f"pixel_values has {pixel_values.shape[0]} tiles, but image_sizes stand for {sum(planned)}")
    return pixel_values
