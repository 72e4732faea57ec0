"""Pictures of any-resolution, drawn from what the code makes of a real photo: `tile_image`, `plan_tiles`.

What this does *not* do: compute a layout of its own; every number and every pixel of a tile comes from `llava_core`.
"""

import io
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

from llava_core.config import plan_tiles
from llava_core.geometry import Size, fit_inside, padding_inside
from llava_core.images import decode_image
from llava_core.tiling import tile_image
from pipelines.curation.models import LLAVA_NEXT
from pipelines.synthetic.lettering import Font, load_font

PAPER, INK = (255, 255, 255), (33, 33, 33)
SEEN, PADDING, NEWLINE = (63, 81, 181), (230, 230, 230), (233, 114, 76)
SIZES = (Size(336, 336), Size(480, 640), Size(1080, 1920), Size(300, 1200), Size(2000, 700))
"""(height, width) of the images whose canvases are drawn."""
TILE, GAP, EDGE = 168, 10, 24
CELL = 6


def photo() -> Image.Image:
    """A real photo, 400 pixels high and 600 wide, decoded as every image is."""
    found = Path(skimage.data.__file__).parent / "coffee.png"
    return Image.fromarray(decode_image(found.read_bytes()))


def tiles_picture() -> bytes:
    """The tiles of a photo as the vision tower sees them: the base tile, and the grid with gaps between."""
    image = photo()
    plan = plan_tiles(Size(image.height, image.width), LLAVA_NEXT)
    tiles = [
        Image.fromarray(tile.transpose(1, 2, 0)).resize((TILE, TILE))
        for tile in tile_image(np.asarray(image), plan, LLAVA_NEXT.tiles)
    ]
    rows, cols = plan.grid
    width = 2 * EDGE + image.width // 2 + 2 * EDGE + TILE + 2 * EDGE + cols * (TILE + GAP)
    page, draw = _page(width, 2 * EDGE + rows * (TILE + GAP) + 24)
    x = EDGE
    page.paste(image.resize((image.width // 2, image.height // 2)), (x, 48))
    _say(draw, (x, 18), f"the photo, {image.height} × {image.width}")
    x += image.width // 2 + 2 * EDGE
    page.paste(tiles[0], (x, 48))
    _say(draw, (x, 18), "tile 0, the base tile")
    x += TILE + 2 * EDGE
    _say(draw, (x, 18), f"canvas {plan.canvas.height} × {plan.canvas.width}: grid of {rows} × {cols} tiles")
    for number, tile in enumerate(tiles[1:]):
        place = (x + number % cols * (TILE + GAP), 48 + number // cols * (TILE + GAP))
        page.paste(tile, place)
        draw.rectangle((place[0] + 4, place[1] + 4, place[0] + 24, place[1] + 26), fill=PAPER)
        _say(draw, (place[0] + 10, place[1] + 4), str(number + 1))
    return _png(page)


def features_picture() -> bytes:
    """The image features of the photo: kept ones, those that only show padding, newlines."""
    image = photo()
    plan = plan_tiles(Size(image.height, image.width), LLAVA_NEXT)
    side = LLAVA_NEXT.patches_per_side
    rows, cols = plan.grid.height * side, plan.grid.width * side
    left = EDGE + side * CELL + 3 * EDGE
    page, draw = _page(left + (cols + 2) * CELL + EDGE, 48 + rows * CELL + EDGE)
    _say(draw, (EDGE, 18), f"base tile: {side} × {side}")
    _say(draw, (left, 18), f"grid: {plan.features.height} rows of {plan.features.width}, and a newline each")
    for row in range(side):
        for col in range(side):
            _cell(draw, EDGE, row, col, SEEN)
    crop = plan.crop
    for row in range(rows):
        for col in range(cols):
            kept = crop.top <= row < crop.bottom and crop.left <= col < crop.right
            _cell(draw, left, row, col, SEEN if kept else PADDING)
        if crop.top <= row < crop.bottom:
            _cell(draw, left, row, cols + 1, NEWLINE)
    return _png(page)


def canvases_picture() -> bytes:
    """The canvas that each of some sizes gets: where the image lies, how it is cut, how many tokens that is."""
    scale, step = 7, 190
    page, draw = _page(EDGE + len(SIZES) * step, 250)
    for number, size in enumerate(SIZES):
        plan = plan_tiles(size, LLAVA_NEXT)
        x, y = EDGE + number * step, 70
        box = padding_inside(fit_inside(size, plan.canvas), plan.canvas)
        draw.rectangle((x, y, x + plan.canvas.width // scale, y + plan.canvas.height // scale), fill=PADDING)
        place = (x + box.left // scale, y + box.top // scale, x + box.right // scale, y + box.bottom // scale)
        draw.rectangle(place, fill=SEEN)
        side = LLAVA_NEXT.tiles.tile_size // scale
        for row in range(plan.grid.height):
            for col in range(plan.grid.width):
                corner = (x + col * side, y + row * side)
                draw.rectangle((*corner, corner[0] + side, corner[1] + side), outline=PAPER, width=2)
        _say(draw, (x, 18), f"{size.height} × {size.width}")
        _say(draw, (x, 40), f"{plan.num_tiles} tiles, {plan.num_image_tokens:,} tokens", 14)
    return _png(page)


def _page(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    page = Image.new("RGB", (width, height), PAPER)
    return page, ImageDraw.Draw(page)


def _cell(draw: ImageDraw.ImageDraw, left: int, row: int, col: int, colour: tuple[int, int, int]) -> None:
    x, y = left + col * CELL, 48 + row * CELL
    draw.rectangle((x, y, x + CELL - 2, y + CELL - 2), fill=colour)


def _say(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int = 16) -> None:
    font: Font = load_font(1, size)
    draw.text(place, text, fill=INK, font=font)


def _png(page: Image.Image) -> bytes:
    file = io.BytesIO()
    page.save(file, "PNG", optimize=True)
    return file.getvalue()
