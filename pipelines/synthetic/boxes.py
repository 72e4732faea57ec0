"""Three grey boxes with towers of blocks or scattered items, and statements that are true or false of them.

The pictures and the manner of the statements follow NLVR (A. Suhr et al., ACL 2017), whose sentences people wrote;
these are made from patterns. What this does *not* do: state things (`statements`), read NLVR
(`pipelines/evaluation/readers_choice`).
"""

from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from llava_core.prompts import JUDGE_SUFFIX, SHORT_SUFFIX
from pipelines.synthetic.clauses import COLOURS, SHAPES, SIDE, Box, Item
from pipelines.synthetic.drawing import Drawing, Seen, Task, Thing, Turn
from pipelines.synthetic.lettering import Colour
from pipelines.synthetic.statements import listing, statement_about

FILLS: dict[str, Colour] = {"yellow": (255, 255, 0), "black": (0, 0, 0), "blue": (0, 153, 255)}
STEP, BLOCK = 150, 20
"""From box to box, and of a block, pixels."""
ITEM_SIZES = (10, 20, 30)
MOST_ITEMS, MOST_BLOCKS = 8, 4
GREY, WALL = (211, 211, 211), (128, 128, 128)
SHORT_QUESTION = f"Is this statement about the image true or false?\n{SHORT_SUFFIX}"
NUM_STATEMENTS = 8
SHORT_SHARE = 0.2
"""Of statements that are answered by one word, without counting aloud."""


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
    # Items of two boxes may be equal, so that only their identity tells where one is.
    places = {id(item): thing for item, thing in zip((item for box in boxes for item in box), things, strict=True)}
    turns = [_looked_up("caption", "What is in each box?", listing(boxes, towers=towers), places)]
    turns += [_asked(draw, boxes, places, towers=towers) for _ in range(NUM_STATEMENTS)]
    draw.shuffle(turns)
    return Drawing("boxes", np.asarray(image), (), tuple(things), tuple(turns))


def _tower(draw: Random) -> list[Item]:
    count = draw.randint(1, MOST_BLOCKS)
    return [Item("square", draw.choice(COLOURS), 40, SIDE - (BLOCK + 1) * n + 1, BLOCK) for n in range(1, count + 1)]


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
                items.append(Item(draw.choice(SHAPES), draw.choice(COLOURS), x, y, size))
                break
    return sorted(items, key=lambda item: item.x + item.size / 2)


def _draw_item(pen: ImageDraw.ImageDraw, item: Item, left: int) -> None:
    x, y, end = left + item.x, item.y, item.size - 1
    fill = FILLS[item.colour]
    if item.shape == "circle":
        pen.ellipse((x, y, x + end, y + end), fill=fill)
    elif item.shape == "square":
        pen.rectangle((x, y, x + end, y + end), fill=fill)
    else:
        pen.polygon(((x + end / 2, y), (x, y + end), (x + end, y + end)), fill=fill)


def _looked_up(
    task: Task, question: str, said: tuple[str, list[tuple[int, int, Item]]], places: Mapping[int, Thing]
) -> Turn:
    """A turn whose answer lists items, each seen where it is drawn."""
    answer, found = said
    seen = (Seen(start, stop, places[id(item)].x, places[id(item)].y) for start, stop, item in found)
    return Turn(task, question, answer, tuple(seen))


def _asked(draw: Random, boxes: Sequence[Box], places: Mapping[int, Thing], *, towers: bool) -> Turn:
    statement = statement_about(draw, boxes, towers=towers)
    if draw.random() < SHORT_SHARE:
        return Turn("statement", f"{statement.sentence}\n{SHORT_QUESTION}", "true" if statement.holds else "false")
    said = listing(boxes, towers=towers, statement=statement)
    return _looked_up("statement", f"{statement.sentence}\n{JUDGE_SUFFIX}", said, places)
