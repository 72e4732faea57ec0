"""Statements about boxes, true or false of what is in them, in the manner of NLVR's sentences but from patterns.

What this does *not* do: draw (`boxes`).
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
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
Statement = tuple[str, bool, list[Item]]
"""A sentence, whether it holds, and the items that it is about: those that meet its description, if any do."""


def statement_about(draw: Random, boxes: Boxes, *, towers: bool) -> Statement:
    """A statement of which a coin says whether it shall hold, where that can be had."""
    wanted = draw.random() < 0.5
    makers = _OF_TOWERS if towers else _OF_ITEMS
    for _ in range(12):
        statement = draw.choice(makers)(draw, boxes)
        if statement[1] == wanted:
            break
    return statement


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


def _holding(boxes: Boxes, colour: str, number: int, *, least: bool) -> list[list[Item]]:
    """The items of a colour, or of any, in each box that has so many of them, or at least so many."""
    found = [[item for item in box if colour in ("", item.colour)] for box in boxes]
    return [items for items in found if (len(items) >= number if least else len(items) == number)]


def _flat(boxes: Iterable[Iterable[Item]]) -> list[Item]:
    return [item for box in boxes for item in box]


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
    ends = [box[-1 if end == "top" else 0] for box in boxes]
    found = [item for item in ends if item.colour == colour]
    if draw.random() < 0.35:
        return f"There is a {colour} block as the {end} of a tower.", bool(found), found
    many, verb, holds = _quantity(draw, len(found))
    return f"There {verb} {many} {_plural('tower', verb)} with a {colour} block at the {end}", holds, found


def _blocks_of_tower(draw: Random, boxes: Boxes) -> Statement:
    """There are two towers with at least 2 black blocks."""
    colour, number = draw.choice(("", *COLOURS)), draw.randint(1, 3)
    least = draw.random() < 0.5
    found = _holding(boxes, colour, number, least=least)
    blocks = _several("at least" if least else "exactly", number, colour, "block")
    if draw.random() < 0.5:
        return f"There is a tower with {blocks}.", bool(found), _flat(found)
    many, verb, holds = _quantity(draw, len(found))
    return f"There {verb} {many} {_plural('tower', verb)} with {blocks}", holds, _flat(found)


def _over(draw: Random, boxes: Boxes) -> Statement:
    """There is a yellow block over a black block."""
    upper, lower = draw.choice(COLOURS), draw.choice(COLOURS)
    found = [[(a, b) for a, b in itertools.pairwise(box) if (b.colour, a.colour) == (upper, lower)] for box in boxes]
    about = [item for pairs in found for pair in pairs for item in pair]
    pair = f"a {upper} block {draw.choice(('over', 'above', 'on'))} a {lower} block"
    if draw.random() < 0.5:
        return f"There is {pair}.", bool(about), about
    many, verb, holds = _quantity(draw, sum(bool(pairs) for pairs in found))
    return f"There {verb} {many} {_plural('tower', verb)} with {pair}", holds, about


def _end_of_sized_tower(draw: Random, boxes: Boxes) -> Statement:
    """There is a blue block as the base of a tower with at least three blocks."""
    colour, end, number = draw.choice(COLOURS), draw.choice(("top", "base")), draw.randint(1, 4)
    kind = draw.choice(("exactly", "at least", "only", ""))
    sized = [box for box in boxes if (len(box) >= number if kind == "at least" else len(box) == number)]
    found = [item for item in (box[-1 if end == "top" else 0] for box in sized) if item.colour == colour]
    blocks = _several(kind, number, "", "block")
    return f"There is a {colour} block as the {end} of a tower with {blocks}.", bool(found), found


def _whole_tower(draw: Random, boxes: Boxes) -> Statement:
    """There is a black tower."""
    if draw.random() < 0.4:
        found = _coloured(boxes, set(COLOURS))
        return "There is a tower which has blocks of all three colors", bool(found), _flat(found)
    colour = draw.choice(COLOURS)
    found = _coloured(boxes, {colour})
    sentence = draw.choice((f"There is a {colour} tower.", f"There is a tower with only {colour} blocks."))
    return sentence, bool(found), _flat(found)


def _count(draw: Random, boxes: Boxes, *, towers: bool) -> Statement:
    """There are 2 blue triangles."""
    colour, shape = draw.choice(COLOURS), draw.choice((*SHAPES, ""))
    if towers:
        shape = ""
    noun = "block" if towers else shape or "item"
    found = [item for item in _flat(boxes) if item.colour == colour and shape in ("", item.shape)]
    many, verb, holds = _quantity(draw, len(found))
    return f"There {verb} {many} {colour} {_plural(noun, verb)}", holds, found


def _exists(draw: Random, boxes: Boxes) -> Statement:
    """There is a yellow square touching the wall."""
    colour, shape = draw.choice(COLOURS), draw.choice(SHAPES)
    found = [item for box in boxes for item in box if (item.colour, item.shape) == (colour, shape)]
    if draw.random() < 0.5:
        return f"There is a {colour} {shape}.", bool(found), found
    place = draw.choice(("touching the wall", "touching the edge", "not touching the edge"))
    found = [item for item in found if item.on_wall != place.startswith("not")]
    return f"There is a {colour} {shape} {place}", bool(found), found


def _touching(draw: Random, boxes: Boxes) -> Statement:
    """There are exactly two black circles not touching any edge."""
    colour, shape = draw.choice(("", *COLOURS)), draw.choice((*SHAPES, "item"))
    place = draw.choice(("touching the wall", "touching the edge", "not touching any edge"))
    found = [item for item in _flat(boxes) if colour in ("", item.colour) and shape in ("item", item.shape)]
    found = [item for item in found if item.on_wall != place.startswith("not")]
    many, verb, holds = _quantity(draw, len(found))
    nouns = f"{colour} {_plural(shape, verb)}".strip()
    return f"There {verb} {many} {nouns} {place}", holds, found


def _together(draw: Random, boxes: Boxes) -> Statement:
    """There is a box with a yellow circle and a blue circle."""
    there = [(item.colour, item.shape) for item in _flat(boxes)]
    one = draw.choice(there)
    other = draw.choice([kind for kind in [*there, *itertools.product(COLOURS, SHAPES)] if kind != one])
    found = [box for box in boxes if {one, other} <= {(item.colour, item.shape) for item in box}]
    about = [item for item in _flat(found) if (item.colour, item.shape) in (one, other)]
    return f"There is a box with a {' '.join(one)} and a {' '.join(other)}.", bool(about), about


def _box_count(draw: Random, boxes: Boxes) -> Statement:
    """There is a box with exactly three black items."""
    colour, number = draw.choice(("", *COLOURS)), draw.randint(1, 5)
    least = draw.random() < 0.4
    found = _holding(boxes, colour, number, least=least)
    items = _several("at least" if least else draw.choice(("", "exactly")), number, colour, "item")
    if draw.random() < 0.6:
        return f"There is a box with {items}.", bool(found), _flat(found)
    many, verb, holds = _quantity(draw, len(found))
    return f"There {verb} {many} {_plural('box', verb)} with {items}", holds, _flat(found)


def _box_colours(draw: Random, boxes: Boxes) -> Statement:
    """There is a box with only black and yellow items."""
    pair = draw.sample(COLOURS, 2)
    if draw.random() < 0.4:
        sentence, colours = "There is a box with items of all 3 different colors.", set(COLOURS)
    elif draw.random() < 0.4:
        sentence, colours = f"There is a box with only {pair[0]} items.", {pair[0]}
    else:
        sentence, colours = f"There is a box with only {pair[0]} and {pair[1]} items.", set(pair)
    found = _coloured(boxes, colours)
    return sentence, bool(found), _flat(found)


def _coloured(boxes: Boxes, colours: set[str]) -> list[Sequence[Item]]:
    """Boxes whose items have these colours, all of them and no other."""
    return [box for box in boxes if {item.colour for item in box} == colours]


_Maker = Callable[[Random, Boxes], Statement]
_count_blocks, _count_items = (functools.partial(_count, towers=towers) for towers in (True, False))
_OF_TOWERS: tuple[_Maker, ...] = (
    _end_of_tower,
    _end_of_tower,
    _end_of_sized_tower,
    _blocks_of_tower,
    _over,
    _whole_tower,
    _count_blocks,
)
_OF_ITEMS: tuple[_Maker, ...] = (_exists, _touching, _count_items, _box_count, _together, _box_colours)
