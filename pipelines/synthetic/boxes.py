"""Three grey boxes with towers of blocks or scattered items, and statements that are true or false of them.

The pictures and the manner of the statements follow NLVR (A. Suhr et al., ACL 2017), whose sentences people wrote; these
are made from patterns. What this does *not* do: read NLVR (`pipelines/evaluation/readers_choice`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from pipelines.synthetic.drawing import Drawing, Seen, Thing, Turn
from pipelines.synthetic.lettering import Colour

COLOURS: dict[str, Colour] = {"yellow": (255, 255, 0), "black": (0, 0, 0), "blue": (0, 153, 255)}
SHAPES = ("circle", "square", "triangle")
SIDE, STEP, BLOCK = 100, 150, 20
"""Of a box, from box to box, and of a block, pixels."""
ITEM_SIZES = (10, 20, 30)
MOST_ITEMS, MOST_BLOCKS = 8, 4
GREY, WALL = (211, 211, 211), (128, 128, 128)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
QUESTION = "Is this statement about the image true or false?"
SUFFIX = "Answer the question using a single word or phrase."
SUFFIX_SHARE = 0.4
"""Of statements that are asked as the released models were, with a suffix for short answers."""
NUM_STATEMENTS = 4


@dataclass(frozen=True, slots=True)
class Item:
    """One shape in a box."""

    shape: str
    """"circle", …; towers are of squares."""
    colour: str
    """Its name."""
    x: int
    """Of its left edge within the box, pixels."""
    y: int
    """Of its upper edge, pixels."""
    size: int
    """Of its side, pixels."""

    @property
    def on_wall(self) -> bool:
        """Whether it touches the box's edge."""
        return min(self.x, self.y) == 0 or max(self.x, self.y) + self.size >= SIDE


Boxes = Sequence[Sequence[Item]]
"""Items of each box: of a tower from its base up, else from left to right."""
Statement = tuple[str, bool]


def draw_boxes(draw: Random) -> Drawing:
    """Three boxes, what is in each, and statements of which as many are false as true.

    Args:
        draw: everything follows from it.
    """
    towers = draw.random() < 0.5
    boxes = [_tower(draw) if towers else _scatter(draw) for _ in range(3)]
    image = Image.new("RGB", (2 * STEP + SIDE, SIDE), WALL)
    pen = ImageDraw.Draw(image)
    things = []
    for number, box in enumerate(boxes):
        left = number * STEP
        pen.rectangle((left, 0, left + SIDE - 1, SIDE - 1), fill=GREY)
        for item in box:
            _draw_item(pen, item, left)
            middle = item.size / 2
            things.append(Thing(item.shape, item.colour, "", left + item.x + middle, item.y + middle))
    turns = [_listing(boxes, things, towers=towers)]
    turns += [_asked(draw, *_statement(draw, boxes, towers=towers)) for _ in range(NUM_STATEMENTS)]
    draw.shuffle(turns)
    return Drawing("boxes", np.asarray(image), (), tuple(things), tuple(turns))


def _tower(draw: Random) -> list[Item]:
    count = draw.randint(1, MOST_BLOCKS)
    return [
        Item("square", draw.choice(tuple(COLOURS)), 40, SIDE - (BLOCK + 1) * n + 1, BLOCK) for n in range(1, count + 1)
    ]


def _scatter(draw: Random) -> list[Item]:
    items: list[Item] = []
    for _ in range(draw.randint(1, MOST_ITEMS)):
        size = draw.choice(ITEM_SIZES)
        for _ in range(8):
            x, y = (draw.choice((0, SIDE - size, *[draw.randint(0, SIDE - size)] * 4)) for _ in range(2))
            if all(
                max(abs(x - o.x + (size - o.size) / 2), abs(y - o.y + (size - o.size) / 2)) > (size + o.size) / 2
                for o in items
            ):
                items.append(Item(draw.choice(SHAPES), draw.choice(tuple(COLOURS)), x, y, size))
                break
    return sorted(items, key=lambda item: item.x + item.size / 2)


def _draw_item(pen: ImageDraw.ImageDraw, item: Item, left: int) -> None:
    x, y, end = left + item.x, item.y, item.size - 1
    fill = COLOURS[item.colour]
    if item.shape == "circle":
        pen.ellipse((x, y, x + end, y + end), fill=fill)
    elif item.shape == "square":
        pen.rectangle((x, y, x + end, y + end), fill=fill)
    else:
        pen.polygon(((x + end / 2, y), (x, y + end), (x + end, y + end)), fill=fill)


def _listing(boxes: Boxes, things: Sequence[Thing], *, towers: bool) -> Turn:
    """What is in each box, and where: colours of towers from the base up, colours and shapes of items."""
    text, seen, left = "", [], iter(things)
    for number, box in enumerate(boxes):
        text += ", " if number else ""
        for place, item in enumerate(box):
            text += " " if place else ""
            words = item.colour if towers else f"{item.colour} {item.shape}"
            thing = next(left)
            seen.append(Seen(len(text), len(text) + len(words), thing.x, thing.y))
            text += words
    return Turn("caption", "What is in each box?", text, tuple(seen))


def _asked(draw: Random, sentence: str, holds: bool) -> Turn:
    question = f"{sentence}\n{QUESTION}"
    if draw.random() < SUFFIX_SHARE:
        question += f"\n{SUFFIX}"
    return Turn("statement", question, "true" if holds else "false")


def _statement(draw: Random, boxes: Boxes, *, towers: bool) -> Statement:
    """A statement of which a coin says whether it shall hold, where that can be had."""
    wanted = draw.random() < 0.5
    makers = _OF_TOWERS if towers else _OF_ITEMS
    for _ in range(12):
        sentence, holds = draw.choice(makers)(draw, boxes)
        if holds == wanted:
            break
    return sentence, holds


def _quantity(draw: Random, count: int) -> tuple[str, str, bool]:
    """A quantity near a count, "is" or "are", and whether the count meets it.

    >>> _quantity(Random(1), 2)
    ('exactly 1', 'is', False)
    """
    number = max(1, count + draw.choice((-1, 0, 0, 1)))
    kind = draw.choice(("exactly", "exactly", "", "at least"))
    word = NUMBERS[min(number, 8)] if draw.random() < 0.5 else str(number)
    holds = count >= number if kind == "at least" else count == number
    return f"{kind} {word}".strip(), "is" if number == 1 else "are", holds


def _plural(noun: str, verb: str) -> str:
    return noun.replace("box", "boxe") + "s" if verb == "are" else noun


def _end_of_tower(draw: Random, boxes: Boxes) -> Statement:
    """There is exactly one tower with a blue block at the top."""
    colour, end = draw.choice(tuple(COLOURS)), draw.choice(("top", "base"))
    count = sum(box[-1 if end == "top" else 0].colour == colour for box in boxes)
    if draw.random() < 0.35:
        return f"There is a {colour} block as the {end} of a tower.", count > 0
    many, verb, holds = _quantity(draw, count)
    return f"There {verb} {many} {_plural('tower', verb)} with a {colour} block at the {end}", holds


def _blocks_of_tower(draw: Random, boxes: Boxes) -> Statement:
    """There are two towers with at least 2 black blocks."""
    colour, number = draw.choice(("", *COLOURS)), draw.randint(1, 3)
    least = draw.random() < 0.5
    counts = [sum(colour in ("", item.colour) for item in box) for box in boxes]
    count = sum(one >= number if least else one == number for one in counts)
    blocks = f"{'at least' if least else 'exactly'} {NUMBERS[number]} {colour} block{'s' if number > 1 else ''}"
    blocks = " ".join(blocks.split())
    if draw.random() < 0.5:
        return f"There is a tower with {blocks}.", count > 0
    many, verb, holds = _quantity(draw, count)
    return f"There {verb} {many} {_plural('tower', verb)} with {blocks}", holds


def _over(draw: Random, boxes: Boxes) -> Statement:
    """There is a yellow block over a black block."""
    upper, lower = draw.choice(tuple(COLOURS)), draw.choice(tuple(COLOURS))
    holds = any((b.colour, a.colour) == (upper, lower) for box in boxes for a, b in zip(box, box[1:], strict=False))
    return f"There is a {upper} block {draw.choice(('over', 'above', 'on'))} a {lower} block.", holds


def _whole_tower(draw: Random, boxes: Boxes) -> Statement:
    """There is a black tower."""
    if draw.random() < 0.4:
        holds = any({item.colour for item in box} == set(COLOURS) for box in boxes)
        return "There is a tower which has blocks of all three colors", holds
    colour = draw.choice(tuple(COLOURS))
    holds = any(all(item.colour == colour for item in box) for box in boxes)
    return draw.choice((f"There is a {colour} tower.", f"There is a tower with only {colour} blocks.")), holds


def _count(draw: Random, boxes: Boxes) -> Statement:
    """There are 2 blue triangles."""
    colour, shape = draw.choice(tuple(COLOURS)), draw.choice((*SHAPES, ""))
    towers = all(item.shape == "square" and item.x == 40 for box in boxes for item in box)
    noun = "block" if towers else shape or "item"
    kept = shape if not towers else ""
    count = sum(item.colour == colour and kept in ("", item.shape) for box in boxes for item in box)
    many, verb, holds = _quantity(draw, count)
    return f"There {verb} {many} {colour} {_plural(noun, verb)}", holds


def _exists(draw: Random, boxes: Boxes) -> Statement:
    """There is a yellow square touching the wall."""
    colour, shape = draw.choice(tuple(COLOURS)), draw.choice(SHAPES)
    found = [item for box in boxes for item in box if (item.colour, item.shape) == (colour, shape)]
    if draw.random() < 0.5:
        return f"There is a {colour} {shape}.", bool(found)
    place = draw.choice(("touching the wall", "touching the edge", "not touching the edge"))
    holds = any(item.on_wall != place.startswith("not") for item in found)
    return f"There is a {colour} {shape} {place}", holds


def _box_count(draw: Random, boxes: Boxes) -> Statement:
    """There is a box with exactly three black items."""
    colour, number = draw.choice(("", *COLOURS)), draw.randint(1, 5)
    least = draw.random() < 0.4
    counts = [sum(colour in ("", item.colour) for item in box) for box in boxes]
    count = sum(one >= number if least else one == number for one in counts)
    items = f"{'at least' if least else draw.choice(('', 'exactly'))} {NUMBERS[number]} {colour} item{'s' if number > 1 else ''}"
    items = " ".join(items.split())
    if draw.random() < 0.6:
        return f"There is a box with {items}.", count > 0
    many, verb, holds = _quantity(draw, count)
    return f"There {verb} {many} {_plural('box', verb)} with {items}", holds


def _box_colours(draw: Random, boxes: Boxes) -> Statement:
    """There is a box with only black and yellow items."""
    pair = draw.sample(tuple(COLOURS), 2)
    if draw.random() < 0.4:
        holds = any({item.colour for item in box} == set(COLOURS) for box in boxes)
        return "There is a box with items of all 3 different colors.", holds
    if draw.random() < 0.4:
        holds = any(all(item.colour == pair[0] for item in box) for box in boxes)
        return f"There is a box with only {pair[0]} items.", holds
    holds = any({item.colour for item in box} == set(pair) for box in boxes)
    return f"There is a box with only {pair[0]} and {pair[1]} items.", holds


_Maker = Callable[[Random, Boxes], Statement]
_OF_TOWERS: tuple[_Maker, ...] = (_end_of_tower, _end_of_tower, _blocks_of_tower, _over, _whole_tower, _count)
_OF_ITEMS: tuple[_Maker, ...] = (_exists, _exists, _count, _box_count, _box_count, _box_colours)
