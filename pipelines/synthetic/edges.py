"""Where a page is cut into tiles, and how drawn text is kept from being cut in two there.

A letter of which each of two tiles shows a half can be read in neither. What this does *not* do: draw.
"""

from collections.abc import Callable, Sequence

from llava_core.geometry import Size, fit_inside, padding_inside, select_canvas

TILE = 112
"""Side of a tile of the model that pages are laid out for."""
PINPOINTS = ((112, 224), (224, 112), (224, 224), (336, 112), (112, 336))
"""Canvases that the small model knows, as `llava_core.checkpoints.fresh` has them."""


def tile_edges(size: Size) -> tuple[list[float], list[float]]:
    """Heights and distances from the left on a page, pixels, at which its canvas is cut into tiles.

    Example:
        >>> tile_edges(Size(100, 300))
        ([], [100.0, 200.0])
    """
    canvas = select_canvas(size, PINPOINTS, "hf")
    inner = fit_inside(size, canvas)
    box = padding_inside(inner, canvas)
    heights = [(cut - box.top) * size.height / inner.height for cut in range(TILE, canvas.height, TILE)]
    return heights, [(cut - box.left) * size.width / inner.width for cut in range(TILE, canvas.width, TILE)]


def clear_of(y: float, tall: float, edges: Sequence[float]) -> float:
    """The same height, or the next one at which a line is not cut in two by an edge between tiles.

    Example:
        >>> clear_of(100.0, 9.0, [112.0]), clear_of(105.0, 9.0, [112.0])
        (100.0, 114.0)
    """
    return next((edge + 2 for edge in edges if y - 1 < edge < y + tall + 1), y)


def uncut(x: float, wide: float, sides: Sequence[float], width: int) -> float:
    """The same start, or one beyond the edge between tiles that would cut a value, where the page has room for it.

    Example:
        >>> uncut(20.0, 30.0, [112.0], 224), uncut(90.0, 40.0, [112.0], 224), uncut(90.0, 40.0, [112.0], 150)
        (20.0, 114.0, 90.0)
    """
    moved = next((side + 2 for side in sides if x - 1 < side < x + wide + 1), x)
    return moved if moved + wide < width else x


def least_cut(start: float, least: float, most: float, cut: Callable[[float], float]) -> float:
    """The place within bounds at which least is cut; of several, the nearest to a start.

    Args:
        start: where it would be.
        least: the smallest place there is.
        most: the largest; `start` where there is none.
        cut: how much is cut at a place.

    Example:
        >>> least_cut(10.0, 0.0, 30.0, lambda place: 1.0 if 8 < place < 14.5 else 0.0)
        8.0
    """
    places = [start + step for step in range(-int(start - least), int(most - start) + 1)] or [start]
    return min(places, key=lambda place: (cut(place), abs(place - start)))


def depth(start: float, stop: float, edges: Sequence[float]) -> float:
    """How far edges lie within a stretch: the part of it that the smaller piece of a cut has, over all edges.

    Example:
        >>> depth(10, 20, [14.0, 40.0]), depth(10, 20, [20.0])
        (0.4, 0.0)
    """
    return sum(max(0.0, min(edge - start, stop - edge)) / (stop - start) for edge in edges)
