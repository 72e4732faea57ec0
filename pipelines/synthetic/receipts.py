"""Receipts: lines of small text, of which a few fields are asked for.

A page is laid out for one canvas of 112-pixel tiles, at which its capitals are 7 to 10 pixels high, and then made
larger or smaller as a whole: read through the tiles they are legible, squeezed into the base tile (2 or 3 times smaller
on one side at least) they are not. Lines and the fields' values are kept clear of the edges between tiles (`edges`).
What this does *not* do: draw letters (`lettering`).
"""

import itertools
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from llava_core.geometry import Size
from pipelines.synthetic.drawing import Drawing, Glyph, Seen, Split, Turn
from pipelines.synthetic.edges import TILE, clear_of, tile_edges, uncut
from pipelines.synthetic.lettering import NUM_FONTS, make_word, width_of, write

CANVASES = ((224, 224), (224, 224), (336, 112), (224, 112))
"""(height, width) that a page is laid out for; every one is a grid of 112-pixel tiles."""
FIELDS = {"total": "TOTAL", "tax": "TAX", "date": "DATE", "number": "NO"}
"""Asked for → as printed."""
QUESTIONS = {
    "total": "What is the total?",
    "tax": "What is the tax?",
    "date": "What is the date?",
    "number": "What is the receipt number?",
}
ORDERS = tuple(itertools.permutations(("name", "date", "number")))
TRANSCRIPT_QUESTION = "Read all the text."
TRANSCRIPT_SHARE = 0.6
"""Of receipts that are also read out whole."""
ALIGNMENTS = ("right", "beside", "column")
COLONS = ("", ":")
LAYOUTS = tuple(itertools.product(range(len(ORDERS)), ALIGNMENTS, COLONS, ("items first", "totals first")))
"""Order of the head, where values stand, a colon or none, and where the items are."""


def layouts_of(split: Split) -> tuple[tuple[int, str, str, str], ...]:
    """The layouts of a split; none is in both.

    Example:
        >>> train, held_out = layouts_of("train"), layouts_of("held_out")
        >>> len(train), len(held_out), set(train) & set(held_out)
        (58, 14, set())
    """
    return tuple(layout for place, layout in enumerate(LAYOUTS) if (place % 5 == 3) == (split == "held_out"))


def draw_receipt(draw: Random, split: Split) -> Drawing:
    """A receipt with its fields, in a layout and with words of a split.

    Args:
        draw: everything follows from it.
        split: whose.
    """
    canvas = draw.choice(CANVASES)
    zoom = draw.choice((1.0, draw.uniform(0.85, 1.5)))
    height, width = round(canvas[0] * draw.uniform(0.9, 1.0) * zoom), round(canvas[1] * draw.uniform(0.92, 1.0) * zoom)
    # a narrow page has room for "TOTAL: 999.99" only in smaller print
    print_size = draw.uniform(10.5, 12) if canvas[1] == TILE else draw.uniform(12, 14.5)
    font, size = draw.randrange(NUM_FONTS), round(print_size * zoom)
    paper = draw.randint(225, 255)
    ink = draw.randint(0, 70)
    image = Image.new("RGB", (width, height), (paper, paper, paper - draw.randint(0, 12)))
    pen = ImageDraw.Draw(image)
    layout = draw.choice(layouts_of(split))
    values = _values(draw)
    lines = _lines(draw, split, layout, values, most=int(height / (1.2 * size)) - 2)
    pitch = min((height - 4) / (len(lines) + 1), 1.7 * size)
    margin = 3 * zoom + draw.uniform(0, 3)
    column = width_of("TOTAL:", font, size) + 0.6 * size
    y = draw.uniform(2, max(3.0, height - (len(lines) + 1) * pitch - 1)) + 0.15 * pitch
    glyphs: list[Glyph] = []
    seen: dict[str, list[Glyph]] = {}
    printed: list[list[Glyph]] = []
    edges, sides = tile_edges(Size(height, width))
    for key, label, value in lines:
        y = clear_of(y, 0.75 * size, edges)
        drawn = write(pen, (margin, y), label, font, size, (ink, ink, ink)) if label else []
        after = width_of(label, font, size) + 0.6 * size if label else 0.0
        if layout[1] == "right" and label:
            after = width - 2 * margin - width_of(value, font, size)
        elif layout[1] == "column" and key in FIELDS:
            after = column
        start = margin + after
        if key in FIELDS:
            start = uncut(start, width_of(value, font, size), sides, width)
        digits = write(pen, (start, y), value, font, size, (ink, ink, ink))
        seen[key] = digits
        printed += [drawn, digits]
        glyphs += drawn + digits
        y += pitch
    turns = _turns(draw, values, seen)
    if draw.random() < TRANSCRIPT_SHARE:
        turns += (_transcript(lines, printed),)
    return Drawing("receipt", np.asarray(image), tuple(glyphs), (), turns)


def _values(draw: Random) -> dict[str, str]:
    total = draw.choice((draw.randint(100, 9999), draw.randint(1000, 99999)))
    tax = max(1, round(total * draw.choice((0.05, 0.07, 0.1, 0.19, 0.2))))
    return {
        "total": f"{total / 100:.2f}",
        "tax": f"{tax / 100:.2f}",
        "date": f"{draw.randint(1, 28):02d}/{draw.randint(1, 12):02d}/{draw.randint(20, 29)}",
        "number": str(draw.randint(1000, 999999)),
    }


def _lines(
    draw: Random, split: Split, layout: tuple[int, str, str, str], values: dict[str, str], most: int
) -> list[tuple[str, str, str]]:
    """(key, label, value) of each line, no more than fit; every field is among them."""
    order, _, colon, items_at = layout
    head: list[tuple[str, str, str]] = []
    for part in ORDERS[order]:
        label = "" if part == "name" else FIELDS[part] + colon
        head.append((part, label, make_word(draw, split) if part == "name" else values[part]))
    room = max(0, min(most - len(head) - 2, draw.randint(0, 6)))
    items = [(f"item {i}", make_word(draw, split, 6), f"{draw.randint(10, 9999) / 100:.2f}") for i in range(room)]
    totals = [(key, FIELDS[key] + colon, values[key]) for key in ("tax", "total")]
    if draw.random() < 0.3:
        totals.reverse()
    return head + (items + totals if items_at == "items first" else totals + items)


def _turns(draw: Random, values: dict[str, str], seen: dict[str, list[Glyph]]) -> tuple[Turn, ...]:
    turns = [
        Turn("field", QUESTIONS[key], value, tuple(Seen(i, i + 1, g.x, g.y) for i, g in enumerate(seen[key])), key)
        for key, value in values.items()
    ]
    if draw.random() < 0.25:
        shop = "".join(glyph.char for glyph in seen["name"])
        places = [*_letters(len("A receipt from "), seen["name"])]
        start = len(f"A receipt from {shop} with a total of ")
        text = f"A receipt from {shop} with a total of {values['total']}."
        places += _letters(start, seen["total"])
        turns.append(Turn("caption", "Describe the image.", text, tuple(places)))
    draw.shuffle(turns)
    return tuple(turns)


def _transcript(lines: list[tuple[str, str, str]], printed: list[list[Glyph]]) -> Turn:
    """Everything that is printed, line by line, and where each letter of it is."""
    text, places = "", []
    for (_, label, value), drawn, digits in zip(lines, printed[::2], printed[1::2], strict=True):
        text += "\n" if text else ""
        places += _letters(len(text), drawn)
        text += f"{label} " if label else ""
        places += _letters(len(text), digits)
        text += value
    return Turn("transcript", TRANSCRIPT_QUESTION, text, tuple(places))


def _letters(start: int, glyphs: list[Glyph]) -> list[Seen]:
    return [Seen(start + i, start + i + 1, glyph.x, glyph.y) for i, glyph in enumerate(glyphs)]
