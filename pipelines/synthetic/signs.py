"""Signs: one or two made-up words on a coloured board.

Lines are kept clear of the edges between tiles, and words stand so that an edge goes between two letters, where there
is room (`edges`). What this does *not* do: draw letters (`lettering`).
"""

import itertools
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from llava_core.geometry import Size
from pipelines.synthetic.drawing import Drawing, Glyph, Seen, Split, Turn
from pipelines.synthetic.edges import depth, least_cut, tile_edges
from pipelines.synthetic.lettering import NUM_FONTS, Colour, advance, make_word, width_of, write

BOARDS: dict[str, Colour] = {
    "white": (245, 245, 240),
    "yellow": (240, 215, 50),
    "red": (190, 30, 30),
    "green": (25, 110, 55),
    "blue": (30, 60, 160),
    "black": (25, 25, 28),
}
DARK = ("red", "green", "blue", "black")
CAPITAL = 0.75
"""Height of a capital in parts of a font's size, at most."""
CANVASES = ((112, 224), (112, 336), (224, 112), (224, 224), (112, 224))


def draw_sign(draw: Random, split: Split) -> Drawing:
    """A board with a word of a split on it, sometimes two.

    Args:
        draw: everything follows from it.
        split: whose words.
    """
    canvas = draw.choice(CANVASES)
    zoom = draw.uniform(0.7, 1.3)
    height, width = (round(side * draw.uniform(0.85, 1.0) * zoom) for side in canvas)
    colour = draw.choice(tuple(BOARDS))
    street = tuple(draw.randint(110, 200) for _ in range(3))
    image = Image.new("RGB", (width, height), street)
    pen = ImageDraw.Draw(image)
    words = [make_word(draw, split) for _ in range(draw.choice((1, 1, 2)) if height > 80 * zoom else 1)]
    font, size = draw.randrange(NUM_FONTS), round(draw.uniform(13, 26) * zoom)
    longest = max(words, key=len)
    while width_of(longest, font, size) > 0.86 * width:
        size -= 1
    wide, pitch = max(width_of(word, font, size) for word in words), 1.35 * size
    tall = pitch * len(words)
    left, top = (
        draw.uniform(0.05 * width, 0.95 * width - wide),
        draw.uniform(0.3 * size, max(0.3 * size, height - tall - 0.2 * size)),
    )
    heights, sides = tile_edges(Size(height, width))
    rows = [row * pitch for row in range(len(words))]
    top = least_cut(
        top,
        max(0.2 * size, top - 1.5 * size),
        min(height - tall, top + 1.5 * size),
        lambda y: sum(depth(y + row - 1, y + row + CAPITAL * size + 1, heights) > 0 for row in rows),
    )
    lefts = [_between_letters(word, left, font, size, sides, width) for word in words]
    edge = 0.4 * size
    board = (min(lefts) - edge, top - edge, max(lefts) + wide + edge, top + tall + 0.1 * edge)
    pen.rectangle(board, fill=BOARDS[colour])
    ink = (245, 245, 245) if colour in DARK else (20, 20, 20)
    lines = [
        write(pen, (start, top + row), word, font, size, ink)
        for start, row, word in zip(lefts, rows, words, strict=True)
    ]
    glyphs = [glyph for line in lines for glyph in line]
    return Drawing("sign", np.asarray(image), tuple(glyphs), (), _turns(draw, colour, words, lines))


def _between_letters(word: str, left: float, font: int, size: int, sides: list[float], width: int) -> float:
    """Where a word begins, no further than a letter from `left`, for edges between tiles to cut its letters least."""
    ends = list(itertools.accumulate((advance(font, size, char) for char in word), initial=0.0))
    return least_cut(
        left,
        max(2.0, left - 0.6 * size),
        min(width - ends[-1] - 2, left + 0.6 * size),
        lambda x: sum(depth(x + start, x + stop, sides) for start, stop in itertools.pairwise(ends)),
    )


def _turns(draw: Random, colour: str, words: list[str], lines: list[list[Glyph]]) -> tuple[Turn, ...]:
    text = " ".join(words)
    answer = Turn("word", "What does the sign say?", text, _places(0, lines))
    start = f"A {colour} sign that says "
    caption = Turn("caption", "Describe the image.", f"{start}{text}.", _places(len(start), lines))
    turns = [answer, Turn("colour", "What colour is the sign?", colour)]
    if draw.random() < 0.3:
        turns.append(caption)
    draw.shuffle(turns)
    return tuple(turns)


def _places(start: int, lines: list[list[Glyph]]) -> tuple[Seen, ...]:
    """Where each letter of the text is; words are a space apart."""
    seen = []
    for line in lines:
        seen += [Seen(start + i, start + i + 1, glyph.x, glyph.y) for i, glyph in enumerate(line)]
        start += len(line) + 1
    return tuple(seen)
