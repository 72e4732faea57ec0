"""Bar and line charts: an axis with numbers, labelled bars or points, values asked for."""

from random import Random

import numpy as np
from PIL import Image, ImageDraw

from pipelines.synthetic.drawing import Drawing, Glyph, Seen, Split, Thing, Turn
from pipelines.synthetic.lettering import NUM_FONTS, make_word, width_of, write
from pipelines.synthetic.scenes import COLOURS

SCALES = (20, 40, 100, 200)
"""What an axis ends at; it begins at 0."""
STEPS = 20
"""Equal parts of an axis, at which values are: round ones, as charts in print mostly have."""
TICKS = 5
"""Numbers on an axis above 0."""
MOST_BARS = 5
CANVASES = ((224, 224), (224, 224), (112, 224))


def draw_chart(draw: Random, split: Split) -> Drawing:
    """A chart with two to five values.

    Args:
        draw: everything follows from it.
        split: whose word its title is.
    """
    canvas = draw.choice(CANVASES)
    zoom = draw.choice((1.0, draw.uniform(0.85, 1.4)))
    height, width = (round(side * draw.uniform(0.9, 1.0) * zoom) for side in canvas)
    font, size = draw.randrange(NUM_FONTS), round(draw.uniform(10.5, 12.5) * zoom)
    image = Image.new("RGB", (width, height), (draw.randint(235, 255),) * 3)
    pen = ImageDraw.Draw(image)
    scale = draw.choice(SCALES)
    title = make_word(draw, split)
    title_glyphs = write(pen, (0.4 * width, 2 * zoom), title, font, size, (20, 20, 20))
    left, right = width_of(str(scale), font, size) + 6 * zoom, width - 4 * zoom
    top, bottom = 2 * size, height - 1.6 * size
    axis_glyphs = _axis(pen, scale, (left, right, top, bottom), font, size)
    glyphs = title_glyphs + axis_glyphs
    count = draw.randint(2, MOST_BARS)
    labels = sorted(draw.sample("ABCDEFGHJKLMNPRSTUVWXYZ", count))
    values = [scale // STEPS * draw.randint(1, STEPS) for _ in range(count)]
    colour, bars = draw.choice(tuple(COLOURS)), draw.random() < 0.6
    step = (right - left) / count
    centres = [left + (index + 0.5) * step for index in range(count)]
    tops = [bottom - (bottom - top) * value / scale for value in values]
    if not bars:
        pen.line(list(zip(centres, tops, strict=True)), fill=COLOURS[colour], width=max(1, round(1.5 * zoom)))
    reach = 3 * zoom
    for x, y in zip(centres, tops, strict=True):
        if bars:
            pen.rectangle((x - 0.32 * step, y, x + 0.32 * step, bottom), fill=COLOURS[colour])
        else:
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=COLOURS[colour])
    for label, x in zip(labels, centres, strict=True):
        glyphs += write(pen, (x - 0.35 * size, bottom + 0.35 * size), label, font, size, (20, 20, 20))
    shape = "bar" if bars else "dot"
    things = tuple(Thing(shape, colour, "", x, y) for x, y in zip(centres, tops, strict=True))
    turns = _turns(draw, labels, values, things, title_glyphs, axis_glyphs[-len(str(scale)) :])
    return Drawing("chart", np.asarray(image), tuple(glyphs), things, turns, float(scale))


def _axis(
    pen: ImageDraw.ImageDraw, scale: int, area: tuple[float, float, float, float], font: int, size: int
) -> list[Glyph]:
    left, right, top, bottom = area
    glyphs = []
    for tick in range(TICKS + 1):
        y = bottom - (bottom - top) * tick / TICKS
        pen.line((left, y, right, y), fill=(40, 40, 40) if tick == 0 else (205, 205, 205))
        # every second number where lines are close
        if tick % (1 if bottom - top > 7 * size else 5) == 0:
            text = str(scale * tick // TICKS)
            glyphs += write(
                pen, (left - 3 - width_of(text, font, size), y - 0.35 * size), text, font, size, (20, 20, 20)
            )
    pen.line((left, top, left, bottom), fill=(40, 40, 40))
    return glyphs


def _turns(
    draw: Random,
    labels: list[str],
    values: list[int],
    things: tuple[Thing, ...],
    title: list[Glyph],
    end: list[Glyph],
) -> tuple[Turn, ...]:
    text, seen = "", []
    for value, thing in zip(values, things, strict=True):
        text += ", " if text else ""
        seen.append(Seen(len(text), len(text) + len(str(value)), thing.x, thing.y))
        text += str(value)
    turns = [Turn("values", "What are the values from left to right?", text, tuple(seen))]
    largest = "".join(glyph.char for glyph in end)
    turns.append(Turn("value", "What is the largest number on the axis?", largest, _letters(0, end), "scale"))
    for index in draw.sample(range(len(values)), min(3, len(values))):
        answer = str(values[index])
        place = (Seen(0, len(answer), things[index].x, things[index].y),)
        turns.append(Turn("value", f"What is the value of {labels[index]}?", answer, place))
    if draw.random() < 0.3:
        start = f"A {'bar' if things[0].shape == 'bar' else 'line'} chart of "
        word = "".join(glyph.char for glyph in title)
        turns.append(Turn("caption", "Describe the image.", f"{start}{word}.", _letters(len(start), title)))
    draw.shuffle(turns)
    return tuple(turns)


def _letters(start: int, glyphs: list[Glyph]) -> tuple[Seen, ...]:
    return tuple(Seen(start + i, start + i + 1, glyph.x, glyph.y) for i, glyph in enumerate(glyphs))
