"""What can be said of one box, or of one item: words, and whether they are true.

A clause completes "a tower with …" or "a box with …"; a description, "there is a …". What this does *not* do: count
boxes, or make sentences (`statements`).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

SIDE = 100
"""Of a box, pixels."""
COLOURS = ("yellow", "black", "blue")
SHAPES = ("circle", "square", "triangle")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


SIZES = ("exactly", "exactly", "", "only", "at least", "at least", "more than")
KINDS = ("a", "a", "a", "at least one", *SIZES, "no")
"""Of quantities; those of `SIZES` have a number."""


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

    def touches(self, side: str) -> bool:
        """Whether it touches a side of its box: "left", "right", "top", "bottom", "any" of them, or a "corner"."""
        across = {"left": self.x == 0, "right": self.x + self.size >= SIDE}
        down = {"top": self.y == 0, "bottom": self.y + self.size >= SIDE}
        if side == "corner":
            return any(across.values()) and any(down.values())
        return any((across | down).values()) if side == "any" else (across | down)[side]


Box = Sequence[Item]
"""Of a tower from its base up, else from left to right."""


@dataclass(frozen=True, slots=True)
class Clause:
    """Something that a box may have."""

    words: str
    """"a blue block at the top": what follows "with"."""
    holds: Callable[[Box], bool]
    """Whether it is true of a box."""
    counted: Callable[[Box], list[Item]] = lambda box: []
    """Items of a box that one counts to tell."""


@dataclass(frozen=True, slots=True)
class Description:
    """Which items are meant."""

    singular: str
    """"black circle touching the edge"."""
    plural: str
    """The same of several."""
    meets: Callable[[Item], bool]
    """Whether an item is one of them."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """How many."""

    words: str
    """"exactly two", "no", "a"."""
    is_plural: bool
    """Whether several are spoken of."""
    met_by: Callable[[int], bool]
    """Whether a count is as many."""


def quantity(draw: Random, near: int, kinds: Sequence[str] = KINDS) -> Quantity:
    """A quantity that a count meets about as often as not.

    Args:
        draw: everything follows from it.
        near: the count.
        kinds: to choose from.

    Example:
        >>> several = quantity(Random(3), 2, ["more than"])
        >>> several.words, several.is_plural, several.met_by(3), several.met_by(4)
        ('more than three', True, False, True)
    """
    kind = draw.choice(kinds)
    if kind in ("a", "at least one"):
        return Quantity(kind, False, lambda count: count > 0)
    if kind == "no":
        return Quantity(kind, False, lambda count: count == 0)
    number = max(1, near + draw.choice((-1, 0, 0, 0, 1)))
    word = NUMBERS[number] if number < len(NUMBERS) and draw.random() < 0.6 else str(number)
    bounds: dict[str, Callable[[int], bool]] = {
        "at least": lambda count: count >= number,
        "more than": lambda count: count > number,
    }
    return Quantity(f"{kind} {word}".strip(), number > 1, bounds.get(kind, lambda count: count == number))


def description(draw: Random, boxes: Sequence[Box], *, towers: bool) -> Description:
    """Items of a colour, a shape and a place, or of some of these."""
    there = draw.choice([item for box in boxes for item in box])
    colour = draw.choice((there.colour, there.colour, "", *COLOURS))
    shape = "" if towers else draw.choice((there.shape, there.shape, "", *SHAPES))
    noun = "block" if towers else shape or draw.choice(("item", "object"))
    place, side = "", ""
    if not towers and draw.random() < 0.55:
        place, side = draw.choice(_PLACES)
    without = place.startswith("not")

    def meets(item: Item) -> bool:
        alike = colour in ("", item.colour) and shape in ("", item.shape)
        return alike and (not side or item.touches(side) != without)

    singular, plural = (" ".join(filter(None, (colour, word, place))) for word in (noun, f"{noun}s"))
    return Description(singular, plural, meets)


_PLACES = (
    *(("touching the wall", "any"), ("touching the edge", "any"), ("touching an edge", "any")),
    *(("touching the edge", "any"), ("touching the wall", "any"), ("touching the side", "any")),
    *(("not touching any edge", "any"), ("not touching the edge", "any"), ("not touching the wall", "any")),
    *(("closely touching a corner of a box", "corner"), ("touching the corner", "corner")),
    *(("closely touching the bottom of a box", "bottom"), ("touching the base", "bottom")),
    *(("closely touching right wall of a box", "right"), ("closely touching left wall of a box", "left")),
)


def of_tower(draw: Random, boxes: Sequence[Box]) -> Clause:
    """A clause about a tower of blocks."""
    maker = draw.choice((_end, _end, _end, _coloured, _coloured, _pair, _pair, _height, _sized_end, _second, _palette))
    return maker(draw, draw.choice(boxes), "block")


def of_items(draw: Random, boxes: Sequence[Box]) -> Clause:
    """A clause about scattered items."""
    maker = draw.choice((_coloured, _coloured, _height, _both, _both, _both, _placed, _palette, _sized_palette))
    return maker(draw, draw.choice(boxes), "item")


def _end(draw: Random, there: Box, noun: str) -> Clause:
    end = draw.choice((0, -1))
    colour = draw.choice((there[end].colour, *COLOURS))
    place = "at the top" if end else draw.choice(("at the base", "at the base", "at the bottom"))
    return Clause(f"a {colour} {noun} {place}", lambda box: box[end].colour == colour)


def _second(draw: Random, there: Box, noun: str) -> Clause:
    colour = draw.choice((there[min(1, len(there) - 1)].colour, *COLOURS))
    words = f"a {colour} {noun} as the second {noun} from the base"
    return Clause(words, lambda box: len(box) > 1 and box[1].colour == colour)


def _height(draw: Random, there: Box, noun: str) -> Clause:
    """So many blocks or items in all."""
    many = quantity(draw, len(there), SIZES)
    return Clause(_said(many, noun), lambda box: many.met_by(len(box)), list)


def _sized_end(draw: Random, there: Box, noun: str) -> Clause:
    end, size = _end(draw, there, noun), _height(draw, there, noun)
    joined = draw.choice(("with", "having", "and"))
    return Clause(f"{size.words} {joined} {end.words}", lambda box: size.holds(box) and end.holds(box), list)


def _coloured(draw: Random, there: Box, noun: str) -> Clause:
    """So many of a colour; of items, maybe of a shape."""
    return _counting(draw, there, noun, *_kind(draw, there, noun))


def _kind(draw: Random, there: Box, noun: str) -> tuple[str, str]:
    """A colour and, maybe, a shape."""
    like = draw.choice(there)
    colour = draw.choice((like.colour, like.colour, *COLOURS))
    return colour, "" if noun == "block" else draw.choice((like.shape, "", *SHAPES))


def _counting(
    draw: Random, there: Box, noun: str, colour: str, shape: str, kinds: Sequence[str] = ("a", "a", *SIZES, "no")
) -> Clause:
    def counted(box: Box) -> list[Item]:
        return [item for item in box if item.colour == colour and shape in ("", item.shape)]

    many = quantity(draw, len(counted(there)), kinds)
    return Clause(_said(many, f"{colour} {shape or noun}"), lambda box: many.met_by(len(counted(box))), counted)


def _both(draw: Random, there: Box, noun: str) -> Clause:
    """Two counts at once, of things that no item is both of."""
    one, other = _kind(draw, there, noun), _kind(draw, there, noun)
    while one[0] == other[0] and (one[1] == other[1] or "" in (one[1], other[1])):
        other = _kind(draw, there, noun)
    first, second = (_counting(draw, there, noun, *kind, ("a", "a", "a", "", "at least")) for kind in (one, other))

    def counted(box: Box) -> list[Item]:
        ours = [id(item) for item in (*first.counted(box), *second.counted(box))]
        return [item for item in box if id(item) in ours]

    return Clause(f"{first.words} and {second.words}", lambda box: first.holds(box) and second.holds(box), counted)


def _pair(draw: Random, there: Box, noun: str) -> Clause:
    """One block on another; what is counted is the upper one."""
    at = draw.randrange(len(there))
    upper, lower = draw.choice((there[at].colour, *COLOURS)), draw.choice((there[at - 1].colour, *COLOURS))

    def counted(box: Box) -> list[Item]:
        return [top for under, top in itertools.pairwise(box) if (top.colour, under.colour) == (upper, lower)]

    if draw.random() < 0.2:
        words = f"a {lower} {noun} {draw.choice(('below', 'under'))} a {upper} {noun}"
    else:
        words = f"a {upper} {noun} {draw.choice(('over', 'above', 'on', 'on top of'))} a {lower} {noun}"
    return Clause(words, lambda box: bool(counted(box)), counted)


def _placed(draw: Random, there: Box, noun: str) -> Clause:
    """An item that touches, or several of them."""
    meant = description(draw, [there], towers=False)

    def counted(box: Box) -> list[Item]:
        return [item for item in box if meant.meets(item)]

    many = quantity(draw, len(counted(there)))
    words = with_article(f"{many.words} {meant.plural if many.is_plural else meant.singular}")
    return Clause(words, lambda box: many.met_by(len(counted(box))), counted)


def _palette(draw: Random, there: Box, noun: str) -> Clause:
    """These colours and no other."""
    colours = draw.choice(({item.colour for item in there}, set(draw.sample(COLOURS, draw.randint(1, 3)))))
    listed = draw.sample(sorted(colours), len(colours))
    if len(colours) == len(COLOURS):
        words = draw.choice((f"{noun}s of all 3 different colors", f"{noun}s of all three colors", "all 3 colors"))
    elif len(colours) == 1 and draw.random() < 0.3:
        return Clause(f"{noun}s of only one color", lambda box: len({item.colour for item in box}) == 1)
    else:
        pair = " and ".join(listed)
        words = draw.choice((f"only {pair} {noun}s", f"{noun}s of only {pair} color"))
    return Clause(words, lambda box: {item.colour for item in box} == colours)


def _sized_palette(draw: Random, there: Box, noun: str) -> Clause:
    size, palette = _height(draw, there, noun), _palette(draw, there, noun)
    of = palette.words.removeprefix(f"{noun}s ")
    words = f"{size.words} {of}" if of.startswith("of ") else f"{size.words} and {palette.words}"
    return Clause(words, lambda box: size.holds(box) and palette.holds(box), list)


def _said(many: Quantity, noun: str) -> str:
    return with_article(f"{many.words} {noun}{'s' if many.is_plural else ''}")


def with_article(words: str) -> str:
    """Words with "an" where "a" would be before a vowel.

    Example:
        >>> with_article("a item"), with_article("a blue item")
        ('an item', 'a blue item')
    """
    return f"an {words[2:]}" if words[:3] in ("a i", "a o") else words
