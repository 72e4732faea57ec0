"""Statements about boxes, true or false of what is in them, in the manner of NLVR's sentences but from patterns.

What this does *not* do: draw (`boxes`).
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

SIDE = 100
"""Of a box, pixels."""
COLOURS = ("yellow", "black", "blue")
SHAPES = ("circle", "square", "triangle")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")


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


def statement_about(draw: Random, boxes: Boxes, *, towers: bool) -> Statement:
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
    ('exactly two', 'are', True)
    """
    number = max(1, count + draw.choice((-1, 0, 0, 1)))
    kind = draw.choice(("exactly", "exactly", "", "at least"))
    in_words = draw.random() < 0.5 and number < len(NUMBERS)
    word = NUMBERS[number] if in_words else str(number)
    holds = count >= number if kind == "at least" else count == number
    return f"{kind} {word}".strip(), "is" if number == 1 else "are", holds


def _plural(noun: str, verb: str) -> str:
    return noun.replace("box", "boxe") + "s" if verb == "are" else noun


def _holding(boxes: Boxes, colour: str, number: int, *, least: bool) -> int:
    """Boxes with so many items, or at least so many, of a colour, or of any."""
    counts = [sum(colour in ("", item.colour) for item in box) for box in boxes]
    return sum(one >= number if least else one == number for one in counts)


def _several(quantity: str, number: int, colour: str, noun: str) -> str:
    """So many things of a colour.

    >>> _several("at least", 2, "blue", "block"), _several("", 1, "", "item")
    ('at least two blue blocks', 'one item')
    """
    words = (quantity, NUMBERS[number], colour, noun + ("s" if number > 1 else ""))
    return " ".join(word for word in words if word)


def _end_of_tower(draw: Random, boxes: Boxes) -> Statement:
    """There is exactly one tower with a blue block at the top."""
    colour, end = draw.choice(COLOURS), draw.choice(("top", "base"))
    count = sum(box[-1 if end == "top" else 0].colour == colour for box in boxes)
    if draw.random() < 0.35:
        return f"There is a {colour} block as the {end} of a tower.", count > 0
    many, verb, holds = _quantity(draw, count)
    return f"There {verb} {many} {_plural('tower', verb)} with a {colour} block at the {end}", holds


def _blocks_of_tower(draw: Random, boxes: Boxes) -> Statement:
    """There are two towers with at least 2 black blocks."""
    colour, number = draw.choice(("", *COLOURS)), draw.randint(1, 3)
    least = draw.random() < 0.5
    count = _holding(boxes, colour, number, least=least)
    blocks = _several("at least" if least else "exactly", number, colour, "block")
    if draw.random() < 0.5:
        return f"There is a tower with {blocks}.", count > 0
    many, verb, holds = _quantity(draw, count)
    return f"There {verb} {many} {_plural('tower', verb)} with {blocks}", holds


def _over(draw: Random, boxes: Boxes) -> Statement:
    """There is a yellow block over a black block."""
    upper, lower = draw.choice(COLOURS), draw.choice(COLOURS)
    holds = any((b.colour, a.colour) == (upper, lower) for box in boxes for a, b in itertools.pairwise(box))
    return f"There is a {upper} block {draw.choice(('over', 'above', 'on'))} a {lower} block.", holds


def _whole_tower(draw: Random, boxes: Boxes) -> Statement:
    """There is a black tower."""
    if draw.random() < 0.4:
        holds = any({item.colour for item in box} == set(COLOURS) for box in boxes)
        return "There is a tower which has blocks of all three colors", holds
    colour = draw.choice(COLOURS)
    holds = any(all(item.colour == colour for item in box) for box in boxes)
    return draw.choice((f"There is a {colour} tower.", f"There is a tower with only {colour} blocks.")), holds


def _count(draw: Random, boxes: Boxes, *, towers: bool) -> Statement:
    """There are 2 blue triangles."""
    colour, shape = draw.choice(COLOURS), draw.choice((*SHAPES, ""))
    if towers:
        shape = ""
    noun = "block" if towers else shape or "item"
    count = sum(item.colour == colour and shape in ("", item.shape) for box in boxes for item in box)
    many, verb, holds = _quantity(draw, count)
    return f"There {verb} {many} {colour} {_plural(noun, verb)}", holds


def _exists(draw: Random, boxes: Boxes) -> Statement:
    """There is a yellow square touching the wall."""
    colour, shape = draw.choice(COLOURS), draw.choice(SHAPES)
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
    count = _holding(boxes, colour, number, least=least)
    items = _several("at least" if least else draw.choice(("", "exactly")), number, colour, "item")
    if draw.random() < 0.6:
        return f"There is a box with {items}.", count > 0
    many, verb, holds = _quantity(draw, count)
    return f"There {verb} {many} {_plural('box', verb)} with {items}", holds


def _box_colours(draw: Random, boxes: Boxes) -> Statement:
    """There is a box with only black and yellow items."""
    pair = draw.sample(COLOURS, 2)
    if draw.random() < 0.4:
        holds = any({item.colour for item in box} == set(COLOURS) for box in boxes)
        return "There is a box with items of all 3 different colors.", holds
    if draw.random() < 0.4:
        holds = any(all(item.colour == pair[0] for item in box) for box in boxes)
        return f"There is a box with only {pair[0]} items.", holds
    holds = any({item.colour for item in box} == set(pair) for box in boxes)
    return f"There is a box with only {pair[0]} and {pair[1]} items.", holds


_Maker = Callable[[Random, Boxes], Statement]
_count_blocks, _count_items = (functools.partial(_count, towers=towers) for towers in (True, False))
_OF_TOWERS: tuple[_Maker, ...] = (_end_of_tower, _end_of_tower, _blocks_of_tower, _over, _whole_tower, _count_blocks)
_OF_ITEMS: tuple[_Maker, ...] = (_exists, _exists, _count_items, _box_count, _box_count, _box_colours)
