"""Statements about boxes hold or do not, by hand; what is drawn is what is said to be there."""

from collections import Counter
from random import Random

import numpy as np

from llava_core.checkpoints.fresh import word_tokenizer
from pipelines.synthetic.boxes import FILLS, SUFFIX
from pipelines.synthetic.drawn import DrawnConfig, draw_one
from pipelines.synthetic.statements import Item, statement_about

TOWERS = [
    [Item("square", colour, 40, 80 - 21 * level, 20) for level, colour in enumerate(colours)]
    for colours in (("black", "yellow"), ("blue",), ("yellow", "yellow", "black"))
]
"""From the base up."""
ABOUT_TOWERS = {
    "There is a yellow block as the top of a tower.": True,
    "There is a yellow block as the base of a tower.": True,
    "There is exactly 1 tower with a black block at the top": True,
    "There are exactly 2 towers with a black block at the top": False,
    "There is at least one tower with a blue block at the base": True,
    "There is a blue block above a black block.": False,
    "There is a yellow block over a black block.": True,
    "There is a black block on a yellow block.": True,
    "There is a blue tower.": True,
    "There is a tower with only yellow blocks.": False,
    "There is a tower which has blocks of all three colors": False,
    "There is a tower with exactly two yellow blocks.": True,
    "There is a tower with at least two black blocks.": False,
    "There are 3 yellow blocks": True,
    "There are exactly three black blocks": False,
}
SCATTERED = [
    [Item("circle", "black", 0, 30, 20), Item("square", "black", 50, 50, 10), Item("circle", "blue", 70, 70, 30)],
    [Item("triangle", "yellow", 40, 40, 20)],
    [Item("square", "yellow", 10, 10, 10), Item("circle", "yellow", 30, 40, 20), Item("square", "blue", 60, 90, 10)],
]
"""In each box from left to right; (x, y) is an item's upper left corner, a box's side is 100."""
ABOUT_ITEMS = {
    "There is a black circle.": True,
    "There is a black triangle.": False,
    "There is a black circle touching the wall": True,
    "There is a black circle not touching the edge": False,
    "There is a black square touching the edge": False,
    "There is a black square not touching the edge": True,
    "There is a blue circle touching the wall": True,
    "There are 2 blue items": True,
    "There is exactly one yellow square": True,
    "There are exactly 2 yellow squares": False,
    "There is a box with exactly two black items.": True,
    "There is a box with at least four items.": False,
    "There are 2 boxes with three items": True,
    "There is a box with only yellow items.": True,
    "There is a box with only black and blue items.": True,
    "There is a box with only black and yellow items.": False,
    "There is a box with items of all 3 different colors.": False,
}


def test_statements_hold_or_not_as_one_sees() -> None:
    for boxes, expected, towers in ((TOWERS, ABOUT_TOWERS, True), (SCATTERED, ABOUT_ITEMS, False)):
        draw = Random(0)
        said = dict(statement_about(draw, boxes, towers=towers) for _ in range(20_000))
        assert {sentence: said.get(sentence) for sentence in expected} == expected


def test_a_count_beyond_the_numbers_in_words_is_said_in_digits() -> None:
    """Ten black circles: no statement about "eight" of them may hold, in words or digits, but "at least" ones."""
    boxes = [[Item("circle", "black", 20 * place, 40, 10) for place in range(5)] for _ in range(2)] + [[]]
    draw = Random(4)
    said = dict(statement_about(draw, boxes, towers=False) for _ in range(20_000))
    assert said["There are exactly 10 black circles"] and said["There are 10 black items"]
    assert said["There are at least 9 black circles"] and not said["There are 9 black circles"]
    assert not any(
        holds for sentence, holds in said.items() if "are eight black" in sentence or "exactly eight" in sentence
    )
    assert not any("at least eight black" in sentence for sentence in said)


def test_as_many_statements_are_false_as_true_and_some_have_the_suffix() -> None:
    turns = [turn for index in range(300) for turn in draw_one(index, DrawnConfig(seed=2), "boxes").turns]
    asked = [turn for turn in turns if turn.task == "statement"]
    answers = Counter(turn.answer for turn in asked)
    assert set(answers) == {"true", "false"} and 0.4 < answers["true"] / len(asked) < 0.6
    assert 0.3 < sum(turn.question.endswith(SUFFIX) for turn in asked) / len(asked) < 0.5


def test_an_item_has_its_colour_at_its_centre_and_the_listing_names_it_there() -> None:
    for index in range(60):
        drawing = draw_one(index, DrawnConfig(seed=1), "boxes")
        for thing in drawing.things:
            assert tuple(drawing.pixels[int(thing.y), int(thing.x)]) == FILLS[thing.colour]
        [listing] = [turn for turn in drawing.turns if turn.task == "caption"]
        assert len(listing.seen) == len(drawing.things)
        for place, thing in zip(listing.seen, drawing.things, strict=True):
            words = listing.answer[place.start : place.stop]
            assert words in (thing.colour, f"{thing.colour} {thing.shape}") and (place.x, place.y) == thing[3:]
        assert listing.answer.count(",") == 2
        assert np.unique(drawing.pixels[:, 110:140].reshape(-1, 3), axis=0).tolist() == [[128, 128, 128]]


def test_every_word_of_a_statement_is_one_token() -> None:
    tokenizer = word_tokenizer()
    for index in range(100):
        for turn in draw_one(index, DrawnConfig(), "boxes").turns:
            for word in turn.question.replace("\n", " ").split():
                bare = word.strip(".,?")
                # digits have their space apart
                assert len(tokenizer.tokenize(f"x {bare}")) == (3 if bare.isdigit() else 2), word
