"""Signs: one or two made-up words on a coloured board."""

from random import Random

import numpy as np
from PIL import Image, ImageDraw

from pipelines.synthetic.drawing import Drawing, Glyph, Seen, Split, Turn
from pipelines.synthetic.lettering import NUM_FONTS, Colour, make_word, width_of, write

BOARDS: dict[str, Colour] = {
    "white": (245, 245, 240),
    "yellow": (240, 215, 50),
    "red": (190, 30, 30),
    "green": (25, 110, 55),
    "blue": (30, 60, 160),
    "black": (25, 25, 28),
}
DARK = ("red", "green", "blue", "black")
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
    edge = 0.4 * size
    pen.rectangle((left - edge, top - edge, left + wide + edge, top + tall + 0.1 * edge), fill=BOARDS[colour])
    ink = (245, 245, 245) if colour in DARK else (20, 20, 20)
    lines = [write(pen, (left, top + row * pitch), word, font, size, ink) for row, word in enumerate(words)]
    glyphs = [glyph for line in lines for glyph in line]
    return Drawing("sign", np.asarray(image), tuple(glyphs), (), _turns(draw, colour, words, lines))


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
