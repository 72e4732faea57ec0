"""Statements about boxes, true or false of what is in them, in the manner of NLVR's sentences but from patterns.

What this does *not* do: draw (`boxes`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pipelines.synthetic.clauses import (
    COLOURS,
    NUMBERS,
    SIZES,
    Box,
    Clause,
    Item,
    description,
    of_items,
    of_tower,
    quantity,
    with_article,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence, and what one counts to tell whether it holds."""

    sentence: str
    """In words."""
    holds: bool
    """Whether it is true."""
    counted: Sequence[Item]
    """Items that meet its description, whole, or in each box."""
    boxes: tuple[bool, ...] | None = None
    """Where boxes are counted: which of them are."""


def statement_about(draw: Random, boxes: Sequence[Box], *, towers: bool) -> Statement:
    """A statement of which a coin says whether it shall hold, where that can be had.

    Args:
        draw: everything follows from it.
        boxes: what is in them; none is empty.
        towers: whether they hold towers of blocks.
    """
    wanted = draw.random() < 0.5
    for _ in range(12):
        made = _of_items if draw.random() < (0.15 if towers else 0.55) else _of_boxes
        statement = made(draw, boxes, towers=towers)
        if statement.holds == wanted:
            break
    return statement


def _of_items(draw: Random, boxes: Sequence[Box], *, towers: bool) -> Statement:
    """There are exactly two black circles not touching any edge."""
    meant = description(draw, boxes, towers=towers)
    counted = [item for box in boxes for item in box if meant.meets(item)]
    many = quantity(draw, len(counted))
    words = with_article(f"{many.words} {meant.plural if many.is_plural else meant.singular}")
    sentence = f"There {'are' if many.is_plural else 'is'} {words}"
    return Statement(_ended(draw, sentence), many.met_by(len(counted)), counted)


def _of_boxes(draw: Random, boxes: Sequence[Box], *, towers: bool) -> Statement:
    """There is a tower with two black blocks, or the like of several or all."""
    if towers and draw.random() < 0.3:
        return _ends(draw, boxes)
    clause = of_tower(draw, boxes) if towers else of_items(draw, boxes)
    are, counted = _judged(clause, boxes)
    one = "tower" if towers else draw.choice(("box", "box", "grey box"))
    several = f"{one}s" if towers else f"{one}es"
    way = draw.random()
    if way < 0.08:
        each = draw.choice((f"Each {one} has", f"All 3 {several} have", f"All {several} have"))
        return Statement(_ended(draw, f"{each} {clause.words}"), all(are), counted, are)
    if way < 0.16:
        some = draw.choice((f"One of the {several} has", f"One {one} has"))
        return Statement(_ended(draw, f"{some} {clause.words}"), any(are), counted, are)
    many = quantity(draw, sum(are))
    links = ("with", "with", "with", "with", "having", "which have" if many.is_plural else "which has")
    start = f"There are {many.words} {several}" if many.is_plural else f"There is {many.words} {one}"
    sentence = f"{start} {draw.choice(links)} {clause.words}"
    return Statement(_ended(draw, sentence), many.met_by(sum(are)), counted, are)


def _ends(draw: Random, boxes: Sequence[Box]) -> Statement:
    """There is a blue block as the base of a tower with at least three blocks."""
    end, number = draw.choice((0, -1)), len(draw.choice(boxes))
    there = draw.choice(boxes)[end].colour
    colour = draw.choice((there, there, *COLOURS))
    size = quantity(draw, number, SIZES) if draw.random() < 0.4 else None
    clause = Clause("", lambda box: box[end].colour == colour and (size is None or size.met_by(len(box))), list)
    are, counted = _judged(clause, boxes)
    many = quantity(draw, sum(are))
    blocks = f"are {many.words} {colour} blocks" if many.is_plural else f"is {many.words} {colour} block"
    sentence = f"There {blocks} as the {'top' if end else 'base'} of a tower"
    if size:
        sentence += f" with {size.words} block{'s' if size.is_plural else ''}"
    return Statement(_ended(draw, sentence), many.met_by(sum(are)), counted if size else [], are)


def _judged(clause: Clause, boxes: Sequence[Box]) -> tuple[tuple[bool, ...], list[Item]]:
    """Which boxes have what a clause says, and the items that one counts to tell."""
    return tuple(clause.holds(box) for box in boxes), [item for box in boxes for item in clause.counted(box)]


def _ended(draw: Random, sentence: str) -> str:
    return f"{sentence}." if draw.random() < 0.6 else sentence


def listing(
    boxes: Sequence[Box], *, towers: bool, statement: Statement | None = None
) -> tuple[str, list[tuple[int, int, Item]]]:
    """What is in the boxes; for a statement the counting is done aloud, and the verdict follows.

    An item that is counted has its number after it: of all boxes, or of its own where boxes are judged, and those have
    "yes" or "no" after their last.

    Args:
        boxes: what is in them.
        towers: of towers only colours are said.
        statement: to judge; None only lists.

    Returns:
        The text, and of each item (first character, character after its last, the item).

    Example:
        >>> black, blue = Item("square", "black", 40, 80, 20), Item("square", "blue", 40, 59, 20)
        >>> boxes = [[black, blue], [blue], [blue, blue]]
        >>> listing(boxes, towers=True)[0]
        'black blue, blue, blue blue'
        >>> two_blue = Statement("One tower has two blue blocks.", True, [], (False, False, True))
        >>> listing(boxes, towers=True, statement=two_blue)[0]
        'black blue no, blue no, blue blue yes: true'
    """
    counted = {id(item) for item in statement.counted} if statement else set()
    judged = statement.boxes if statement else None
    text, places, number = "", [], 0
    for at, box in enumerate(boxes):
        text += ", " if at else ""
        number = 0 if judged else number
        for place, item in enumerate(box):
            text += " " if place else ""
            words = item.colour if towers else f"{item.colour} {item.shape}"
            places.append((len(text), len(text) + len(words), item))
            text += words
            if id(item) in counted:
                number += 1
                text += f" {NUMBERS[number] if number < len(NUMBERS) else number}"
        if judged:
            text += " yes" if judged[at] else " no"
    return text + (f": {'true' if statement.holds else 'false'}" if statement else ""), places
