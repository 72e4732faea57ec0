"""Where a point of an image lies in its tiles, and which image token shows it.

Legend: S tile side, p image features along it. What this does *not* do: know any loss.
"""

from typing import NamedTuple

from llava_core.config import ModelConfig
from llava_core.geometry import Size, TilePlan, fit_inside, padding_inside


class InTile(NamedTuple):
    """A point of one tile."""

    tile: int
    """0 is the base tile."""
    y: float
    """Pixels from its upper edge."""
    x: float
    """Pixels from its left edge."""


def in_base(x: float, y: float, size: Size, side: int) -> InTile:
    """Where the base tile, the whole image squeezed, shows a point of an image.

    Example:
        >>> in_base(50, 20, Size(100, 200), 112)
        InTile(tile=0, y=22.4, x=28.0)
    """
    return InTile(0, y * side / size.height, x * side / size.width)


def in_grid(x: float, y: float, size: Size, plan: TilePlan, side: int) -> InTile | None:
    """Where the grid shows a point of an image; None without a grid."""
    if plan.grid == (0, 0):
        return None
    inner = fit_inside(size, plan.canvas)
    box = padding_inside(inner, plan.canvas)
    across = min(max(box.left + x * inner.width / size.width, 0.0), plan.canvas.width - 1.0)
    down = min(max(box.top + y * inner.height / size.height, 0.0), plan.canvas.height - 1.0)
    row, col = int(down // side), int(across // side)
    return InTile(1 + row * plan.grid.width + col, down - row * side, across - col * side)


def token_of(place: InTile, plan: TilePlan, config: ModelConfig) -> int | None:
    """The image token, counted from the image's first, that shows a place; None where unpadding drops it.

    Args:
        place: of the image's tiles.
        plan: of the image, packed "spatial_unpad" and not shrunk.
        config: of the model.
    """
    per_side = config.patches_per_side
    patch = config.tiles.tile_size / per_side
    row, col = (min(int(offset // patch), per_side - 1) for offset in (place.y, place.x))
    if place.tile == 0:
        return row * per_side + col
    row += (place.tile - 1) // plan.grid.width * per_side - plan.crop.top
    col += (place.tile - 1) % plan.grid.width * per_side - plan.crop.left
    if not (0 <= row < plan.features.height and 0 <= col < plan.features.width):
        return None
    return per_side**2 + row * (plan.features.width + int(config.connector.image_newline)) + col
