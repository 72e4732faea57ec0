"""Pixels become tiles: resize, pad to the canvas, cut.

    uint8[H, W, 3] ─ fit_inside ─▶ resized ─ black canvas, centred ─▶ grid of tiles, row by row ┐
                   ─ base tile: squashed, padded or centre-cropped to one square ───────────────┴▶ uint8[N, 3, S, S]

Legend: H, W image; N tiles, the base tile at index 0; S tile side, pixels.

Tiles stay uint8 until they are on the device; whoever has them there normalises. Resizing is bicubic with antialiasing,
as Pillow does it and the released models were trained with. All in numpy, so that a process that decodes can tile too.

What this does *not* do: choose a canvas (`config.plan_tiles`, `geometry`), decode (`images`), normalise (`model`).
"""

import numpy as np
from numpy.typing import NDArray

from llava_core.config import SquareFit, TileConfig
from llava_core.errors import ConfigError
from llava_core.geometry import Box, Size, TilePlan, fit_inside, padding_inside
from llava_core.resampling import resample


def tile_image(image: NDArray[np.uint8], plan: TilePlan, tiles: TileConfig) -> NDArray[np.uint8]:
    """Cut one image into the tiles of its plan.

    Args:
        image: uint8[H, W, 3], RGB.
        plan: from `plan_tiles` or `plan_grid` for this image's size.
        tiles: how the whole image becomes the base tile; tile size and colours.

    Returns:
        uint8[N, 3, S, S] with N = plan.num_tiles, contiguous; index 0 the base tile, then the grid's tiles row by row.
        An image whose base tile stands alone in a model that pads several images to squares (OneVision) is padded.

    Raises:
        ConfigError: the plan was made for another tile size.

    Source: `process_anyres_image` in LLaVA `mm_utils.py`; transformers `image_processing_pil_llava_next.py`.

    Example:
        >>> from llava_core.geometry import square_plan
        >>> config = TileConfig(policy="single", tile_size=4)
        >>> tile_image(np.zeros((6, 8, 3), dtype=np.uint8), square_plan(4, 1), config).shape
        (1, 3, 4, 4)
    """
    side = tiles.tile_size
    rows, cols = plan.grid
    if rows and plan.canvas != (rows * side, cols * side):
        raise ConfigError(f"plan of {plan.canvas} in a grid of {plan.grid} does not fit tiles.tile_size {side}")
    out = np.zeros((1 + rows * cols, 3, side, side), np.uint8)
    alone = rows == 0
    pads = alone and tiles.policy == "pinpoints" and tiles.multi_image == "single"
    out[0] = base_tile(image, side, "pad" if pads else tiles.base_tile, tiles.pad_color).transpose(2, 0, 1)
    if not alone:
        inner = fit_inside(image.shape[:2], plan.canvas)
        grid = out[1:].reshape(rows, cols, 3, side, side)
        _cut(resample(image, inner).transpose(2, 0, 1), padding_inside(inner, plan.canvas), grid)
    return out


def base_tile(
    image: NDArray[np.uint8], side: int, fit: SquareFit, pad_color: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Make a whole image one square.

    Args:
        image: uint8[H, W, 3].
        side: S, pixels.
        fit: "squash" changes its aspect ratio; "pad" adds borders before resizing; "crop" resizes the shorter side to
            S, truncating the longer, and keeps the centre.
        pad_color: uint8[3] of the borders.

    Returns:
        uint8[S, S, 3].

    Source: `expand2square` of LLaVA `mm_utils.py` ("pad"), `CLIPImageProcessor` ("crop").
    """
    height, width = image.shape[:2]
    if fit == "squash":
        return resample(image, Size(side, side))
    if fit == "pad":
        longest = max(height, width)
        square = np.empty((longest, longest, 3), dtype=np.uint8)
        square[:] = pad_color
        box = padding_inside((height, width), (longest, longest))
        square[box.top : box.bottom, box.left : box.right] = image
        return resample(square, Size(side, side))
    shortest = min(height, width)
    resized = resample(image, Size(height * side // shortest, width * side // shortest))
    box = padding_inside((side, side), resized.shape[:2])
    return resized[box.top : box.bottom, box.left : box.right]


def squash_frames(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Make each frame of a video one square tile, whatever images are padded or cut to.

    Args:
        frames: uint8[F, H, W, 3].
        side: S, pixels.

    Returns:
        uint8[F, 3, S, S].
    """
    return np.stack([resample(frame, Size(side, side)).transpose(2, 0, 1) for frame in frames])


def _cut(image: NDArray[np.uint8], box: Box, out: NDArray[np.uint8]) -> None:
    """Write an image that lies at `box` of a canvas into the canvas's tiles, without making the canvas.

    Args:
        image: uint8[3, h, w].
        box: where it lies; its size is the image's.
        out: uint8[rows, cols, 3, S, S], black before.
    """
    rows, cols, _, side, _ = out.shape
    for row in range(rows):
        top, bottom = max(box.top, row * side), min(box.bottom, (row + 1) * side)
        for col in range(cols):
            left, right = max(box.left, col * side), min(box.right, (col + 1) * side)
            if top < bottom and left < right:
                tile = out[row, col, :, top - row * side : bottom - row * side, left - col * side : right - col * side]
                tile[:] = image[:, top - box.top : bottom - box.top, left - box.left : right - box.left]
