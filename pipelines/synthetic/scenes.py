"""Scenes of coloured shapes: what there is, how large, of which colour, and where to one another."""

import math
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from pipelines.synthetic.drawing import Drawing, Point, Seen, Thing, Turn
from pipelines.synthetic.lettering import Colour

COLOURS: dict[str, Colour] = {
    "red": (214, 36, 36),
    "orange": (240, 140, 20),
    "yellow": (238, 216, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 210),
    "purple": (140, 50, 170),
    "black": (20, 20, 24),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
ARTICLES = {"orange": "an"}
CAPTION_QUESTIONS = ("Describe the image.", "Describe this image in detail.", "What is in the picture?")
RELATIONS: dict[str, Callable[[Thing, Thing], float]] = {
    "to the left of": lambda a, b: b.x - a.x,
    "to the right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}
MOST_THINGS = 4
NUM_PRESENCE = 5
"""Questions whether a shape is there: as many answers as a small model needs to learn that from."""
LEAST_GAP = 0.08
"""Between the centres of two shapes from left to right, as a share of the width: their order is never in doubt."""


def draw_scene(draw: Random) -> Drawing:
    """One to four shapes on a plain background, with a caption and questions.

    Args:
        draw: everything follows from it.
    """
    height, width = draw.randint(96, 224), draw.randint(96, 224)
    level = draw.randint(205, 250)
    background = _shade((level, level, level), draw, 8)
    # drawn at twice the size, so that edges are smooth
    image = Image.new("RGB", (2 * width, 2 * height), background)
    pen = ImageDraw.Draw(image)
    things = sorted(_place(draw, height, width), key=lambda placed: placed[0].x)
    for thing, radius in things:
        fill = _shade(COLOURS[thing.colour], draw, 14)
        _SHAPERS[thing.shape](pen, Point(2 * thing.x, 2 * thing.y), 2 * radius, fill)
    found = tuple(thing for thing, _ in things)
    pixels = np.asarray(image.reduce(2))
    return Drawing("scene", pixels, (), found, _turns(draw, found))


def _shade(colour: Colour, draw: Random, most: int) -> Colour:
    """A colour, each channel up to so many levels off."""
    red, green, blue = (max(0, min(255, channel + draw.randint(-most, most))) for channel in colour)
    return red, green, blue


def _place(draw: Random, height: int, width: int) -> list[tuple[Thing, float]]:
    placed: list[tuple[Thing, float]] = []
    for _ in range(draw.randint(1, MOST_THINGS)):
        for _ in range(12):
            size = draw.choice(("small", "large"))
            radius = min(height, width) * (draw.uniform(0.075, 0.095) if size == "small" else draw.uniform(0.15, 0.18))
            x, y = draw.uniform(radius + 2, width - radius - 2), draw.uniform(radius + 2, height - radius - 2)
            shape, colour = draw.choice(SHAPES), draw.choice(tuple(COLOURS))
            free = all(
                math.hypot(x - other.x, y - other.y) > 1.25 * (radius + reach)
                and abs(x - other.x) > LEAST_GAP * width
                and (shape, colour) != other[:2]
                for other, reach in placed
            )
            if free:
                placed.append((Thing(shape, colour, size, x, y), radius))
                break
    return placed


def name(thing: Thing, article: str = "") -> str:
    """A thing in words.

    Example:
        >>> name(Thing("star", "orange", "large", 0, 0), "a")
        'a large orange star'
    """
    return f"{article} {thing.size} {thing.colour} {thing.shape}".strip()


def caption_of(things: tuple[Thing, ...]) -> tuple[str, tuple[Seen, ...]]:
    """All shapes from left to right, and where each one's words are seen."""
    text, seen = "", []
    for index, thing in enumerate(things):
        article = "a" if index else "A"
        text += "" if index == 0 else (" and " if index == len(things) - 1 else ", ")
        words = name(thing, article)
        seen.append(Seen(len(text), len(text) + len(words), thing.x, thing.y))
        text += words
    return text + ".", tuple(seen)


def _turns(draw: Random, things: tuple[Thing, ...]) -> tuple[Turn, ...]:
    caption, seen = caption_of(things)
    turns = [Turn("caption", draw.choice(CAPTION_QUESTIONS), caption, seen)]
    turns += [_presence(draw, things) for _ in range(NUM_PRESENCE)]
    count = NUMBERS[len(things)]
    everywhere = tuple(Seen(0, len(count), thing.x, thing.y) for thing in things)
    turns.append(Turn("count", "How many shapes are there?", count, everywhere))
    thing = draw.choice(things)
    if sum(other.shape == thing.shape for other in things) == 1:
        place = (Seen(0, len(thing.colour), thing.x, thing.y),)
        turns.append(Turn("colour", f"What colour is the {thing.shape}?", thing.colour, place))
    if len(things) > 1:
        turns += [_relation(draw, things) for _ in range(2)]
    draw.shuffle(turns)
    return tuple(turns)


def _presence(draw: Random, things: tuple[Thing, ...]) -> Turn:
    """Is it there? As often it is not, and then half of the time its colour or its shape is."""
    seen: tuple[Seen, ...] = ()
    there = {(thing.colour, thing.shape): thing for thing in things}
    if draw.random() < 0.5:
        thing = draw.choice(things)
        asked, seen = (thing.colour, thing.shape), (Seen(0, 3, thing.x, thing.y),)
    else:
        absent = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in there]
        if draw.random() < 0.5:
            near = [pair for pair in absent if any(pair[0] == t.colour or pair[1] == t.shape for t in things)]
            absent = near or absent
        asked = draw.choice(absent)
    article = ARTICLES.get(asked[0], "a")
    return Turn("presence", f"Is there {article} {asked[0]} {asked[1]}?", "yes" if asked in there else "no", seen)


def _relation(draw: Random, things: tuple[Thing, ...]) -> Turn:
    """Where is one shape to another? Never where they are all but level."""
    first, second = draw.sample(things, 2)
    apart = {word: abs(distance(first, second)) for word, distance in RELATIONS.items()}
    # The centres of small shapes may be 18 pixels apart on the slant, which is less than 14 either way.
    words = [word for word, pixels in apart.items() if pixels > 14 or pixels == max(apart.values()) <= 14]
    relation = draw.choice(words)
    holds = RELATIONS[relation](first, second) > 0
    question = f"Is the {first.colour} {first.shape} {relation} the {second.colour} {second.shape}?"
    answer = "yes" if holds else "no"
    places = tuple(Seen(0, len(answer), thing.x, thing.y) for thing in (first, second))
    return Turn("relation", question, answer, places)


def _circle(pen: ImageDraw.ImageDraw, at: Point, radius: float, fill: Colour) -> None:
    pen.ellipse((at.x - radius, at.y - radius, at.x + radius, at.y + radius), fill=fill)


def _square(pen: ImageDraw.ImageDraw, at: Point, radius: float, fill: Colour) -> None:
    half = 0.86 * radius
    pen.rectangle((at.x - half, at.y - half, at.x + half, at.y + half), fill=fill)


def _polygon(pen: ImageDraw.ImageDraw, at: Point, radii: list[float], fill: Colour) -> None:
    step = 2 * math.pi / len(radii)
    pen.polygon(
        [(at.x + r * math.sin(i * step), at.y - r * math.cos(i * step)) for i, r in enumerate(radii)], fill=fill
    )


def _cross(pen: ImageDraw.ImageDraw, at: Point, radius: float, fill: Colour) -> None:
    arm = 0.34 * radius
    pen.rectangle((at.x - radius, at.y - arm, at.x + radius, at.y + arm), fill=fill)
    pen.rectangle((at.x - arm, at.y - radius, at.x + arm, at.y + radius), fill=fill)


_SHAPERS: dict[str, Callable[[ImageDraw.ImageDraw, Point, float, Colour], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": lambda pen, at, radius, fill: _polygon(pen, at, [1.15 * radius] * 3, fill),
    "star": lambda pen, at, radius, fill: _polygon(pen, at, [1.15 * radius, 0.45 * radius] * 5, fill),
    "cross": _cross,
}
