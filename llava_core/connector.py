"""The connector: from the vision tower's width to the language model's.

    patch features[N, P², Dv] ─ pool ─▶ [N, p², Dv] ─ Linear (GELU Linear)* ─▶ [N, p², Dt] ─ + embedding of the tile's
    place in the grid ─▶ image features[N, p², Dt] ─ attention between the images of one sample ─▶ the same shape

Legend: N tiles, P patches along a side, p = ceil(P / compression_ratio), Dv tower width, Dt text width. Everything but
the linear layers is off in the released checkpoints.

What this does *not* do: put features in order, add newlines (`packing`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_core.config import ConnectorConfig
from llava_core.geometry import Size

POSITION_STD = 0.02


class AnyResolutionProjector(nn.Module):
    """Pools, projects and places the features of tiles.

    Args:
        visual_dim: tower width Dv.
        text_dim: language model width Dt.
        num_layers: linear layers, GELU between them and none after the last.
        config: the other settings; its `num_layers` replaces the one above.

    Example:
        >>> projector = AnyResolutionProjector(visual_dim=8, text_dim=12, num_layers=3)
        >>> [type(module).__name__ for module in projector.projector]
        ['Linear', 'GELU', 'Linear', 'GELU', 'Linear']
        >>> projector(torch.zeros(5, 49, 8)).shape
        torch.Size([5, 49, 12])
    """

    def __init__(
        self,
        visual_dim: int = 1024,
        text_dim: int = 4096,
        num_layers: int = 2,
        *,
        config: ConnectorConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config or ConnectorConfig(num_layers=num_layers)
        layers: list[nn.Module] = []
        for index in range(self.config.num_layers):
            layers += [nn.Linear(text_dim if index else visual_dim, text_dim, bias=self.config.bias), nn.GELU()]
        self.projector = nn.Sequential(*layers[:-1])
        self.position_embedding: nn.Parameter | None = None
        if self.config.position_embedding:
            shape = (self.config.max_grid, self.config.max_grid, text_dim)
            self.position_embedding = nn.Parameter(torch.randn(shape) * POSITION_STD)
        self.cross_image_attention = CrossImageAttention(text_dim) if self.config.cross_image_attention else None

    def forward(self, features: Tensor, grids: Sequence[Size] | None = None) -> Tensor:
        """Project the tiles of any number of images.

        Args:
            features: float[N, P², Dv], each image's base tile and then its grid, row by row.
            grids: (rows, cols) of each image's tiles, (0, 0) for a base tile alone; only position embeddings need it.

        Returns:
            float[N, p², Dt].

        Raises:
            ValueError: a grid larger than there are position embeddings for, or grids that do not add up to N tiles.
        """
        if self.config.compression_ratio > 1:
            features = pool_patches(features, self.config.compression_ratio)
        projected: Tensor = self.projector(features)
        if self.position_embedding is None:
            return projected
        if grids is None:
            raise ValueError("position embeddings need the grid of each image; pass grids=[(rows, cols), ...]")
        return projected + self._positions(grids, projected.shape[0])[:, None].to(projected)

    def attend_across(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Let the images of one sample see one another; without the module, or with one image, nothing changes.

        Args:
            images: float[N_i, p², Dt] for each image of one sample.

        Returns:
            The same shapes.
        """
        if self.cross_image_attention is None or len(images) < 2:
            return list(images)
        attended: list[Tensor] = self.cross_image_attention(images)
        return attended

    def _positions(self, grids: Sequence[Size], num_tiles: int) -> Tensor:
        """float[N, Dt]: zero for base tiles, the learned embedding of (row, col) for the others."""
        assert self.position_embedding is not None
        parts, most = [], self.config.max_grid
        for rows, cols in grids:
            if rows > most or cols > most:
                raise ValueError(f"grid {rows}×{cols} has no position embeddings; connector.max_grid is {most}")
            base = torch.zeros_like(self.position_embedding[0, :1])
            parts += [base, self.position_embedding[:rows, :cols].flatten(0, 1)]
        positions = torch.cat(parts)
        if positions.shape[0] != num_tiles:
            raise ValueError(f"grids stand for {positions.shape[0]} tiles, but there are features of {num_tiles}")
        return positions


class CrossImageAttention(nn.Module):
    """Attention over all tokens of all images of one sample, added to them.

    Images have no order here, so permuting them permutes the result. The output starts at zero: a model that gains
    this module is at first the model that it was.

    Args:
        width: of the features, Dt.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads(width), batch_first=True)
        nn.init.zeros_(self.attention.out_proj.weight)
        nn.init.zeros_(self.attention.out_proj.bias)

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Attend; `images` and the result are float[N_i, p², Dt] for each image of the sample."""
        flat = torch.cat([image.flatten(0, 1) for image in images])[None]
        normed = self.norm(flat)
        attended, _ = self.attention(normed, normed, normed, need_weights=False)
        parts = (flat + attended)[0].split([image.shape[0] * image.shape[1] for image in images])
        return [part.view_as(image) for part, image in zip(parts, images, strict=True)]


def pool_patches(features: Tensor, ratio: int) -> Tensor:
    """Average a tile's patch grid down to ceil(P / ratio) a side.

    Args:
        features: float[N, P², D], square grids, row by row.
        ratio: ≥ 1.

    Returns:
        float[N, p², D].

    Raises:
        ValueError: the number of patches is not a square.

    Example:
        >>> pool_patches(torch.arange(16.0).view(1, 16, 1), 2).flatten()
        tensor([ 2.5000,  4.5000, 10.5000, 12.5000])
    """
    side = side_of(features.shape[1])
    grid = torch.unflatten(features.transpose(1, 2), 2, (side, side))
    return F.adaptive_avg_pool2d(grid, -(-side // ratio)).flatten(2).transpose(1, 2)


def side_of(patches: int) -> int:
    """Side of a square of so many patches.

    Raises:
        ValueError: not a square; a class token that should have been dropped is the usual cause.

    Example:
        >>> side_of(576)
        24
    """
    side = int(patches**0.5 + 0.5)
    if side * side != patches:
        raise ValueError(f"{patches} patches are not a square grid; is a class token among them (select_feature)?")
    return side


def num_heads(width: int, head_dim: int = 128) -> int:
    """The most attention heads, each at least `head_dim` wide, that divide a width; one where it is narrower.

    Example:
        >>> num_heads(4096), num_heads(896), num_heads(48)
        (32, 7, 1)
    """
    return next(heads for heads in range(max(width // head_dim, 1), 0, -1) if width % heads == 0)
