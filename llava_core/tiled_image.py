"""An image whose tiles were made elsewhere, so that whoever has the model need not decode.

What this does *not* do: tile (`tiling`), see whether the tiles are those that are wanted (`media`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava_core.geometry import Size


@dataclass(frozen=True, eq=False, slots=True)
class TiledImage:
    """An image that was decoded and tiled elsewhere, with its file for whoever needs other tiles of it."""

    file: bytes
    """Encoded; it has been decoded once, so no limit is asked again."""
    size: Size
    """Decoded, pixels."""
    grid: Size
    """(rows, cols) of its tiles; (0, 0) for the base tile alone."""
    tiles: NDArray[np.uint8]
    """uint8[N, 3, S, S], as `tiling.tile_image` makes them."""
