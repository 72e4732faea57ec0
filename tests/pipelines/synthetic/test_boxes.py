"""Statements about boxes hold or do not, by hand; what is drawn is what is said to be there."""

import re
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
    "There is exactly one tower with a black block over a yellow block": True,
    "There are two towers with a yellow block above a yellow block": False,
    "There is a black block as the top of a tower with at least three blocks.": True,
    "There is a black block as the top of a tower with only two blocks.": False,
    "There is a yellow block as the base of a tower with 3 blocks.": None,
    "There is a yellow block as the base of a tower with exactly three blocks.": True,
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
    "There are exactly two black circles touching the wall": False,
    "There are 3 yellow items not touching any edge": True,
    "There are at least 2 circles touching the edge": True,
    "There is a box with a yellow circle and a blue square.": True,
    "There is a box with a yellow circle and a blue circle.": False,
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


def truths(draw: Random, boxes: list[list[Item]], *, towers: bool) -> dict[str, bool]:
    """Every statement that is ever made about boxes, and whether it holds."""
    made = (statement_about(draw, boxes, towers=towers) for _ in range(20_000))
    return {sentence: holds for sentence, holds, _ in made}


def test_a_statement_never_names_one_thing_twice() -> None:
    """Two blue circles, one in each box: "a blue circle and a blue circle" would be held for true of either."""
    boxes = [[Item("circle", "blue", 20, 40, 10)], [Item("circle", "blue", 60, 40, 10)]]
    together = [sentence for sentence in truths(Random(1), boxes, towers=False) if " and a " in sentence]
    assert len(together) > 5 and not any(re.search(r"with a (\w+ \w+) and a \1", sentence) for sentence in together)


def test_statements_hold_or_not_as_one_sees() -> None:
    for boxes, expected, towers in ((TOWERS, ABOUT_TOWERS, True), (SCATTERED, ABOUT_ITEMS, False)):
        draw = Random(0)
        said = truths(draw, boxes, towers=towers)
        assert {sentence: said.get(sentence) for sentence in expected} == expected


def test_statements_are_about_the_items_that_meet_their_description() -> None:
    about = {
        "There is a yellow block as the top of a tower.": [TOWERS[0][1]],
        "There is a black block on a yellow block.": [TOWERS[2][1], TOWERS[2][2]],
        "There is a blue block above a black block.": [],
        "There is a tower with exactly two yellow blocks.": [TOWERS[2][0], TOWERS[2][1]],
        "There are exactly 2 towers with a black block at the top": [TOWERS[2][2]],
        "There is a black circle touching the wall": [SCATTERED[0][0]],
        "There are 2 blue items": [SCATTERED[0][2], SCATTERED[2][2]],
        "There is a box with only yellow items.": [SCATTERED[1][0]],
        "There is a box with only black and yellow items.": [],
    }
    found = {}
    for boxes, towers in ((TOWERS, True), (SCATTERED, False)):
        draw = Random(0)
        for _ in range(20_000):
            sentence, _, items = statement_about(draw, boxes, towers=towers)
            found[sentence] = items
    assert {sentence: found[sentence] for sentence in about} == about


def test_a_count_is_about_all_that_it_counts() -> None:
    boxes = [
        [Item("square", colour, 40, 80 - 21 * level, 20) for level, colour in enumerate(colours)]
        for colours in (("blue",), ("blue",), ("black", "blue"))
    ]
    made = [statement_about(draw, boxes, towers=True) for draw in [Random(3)] for _ in range(20_000)]
    found = {sentence: (holds, items) for sentence, holds, items in made}
    tops, bases = [box[-1] for box in boxes], [boxes[0][0], boxes[1][0]]
    assert found["There are exactly 3 towers with a blue block at the top"] == (True, tops)
    assert found["There are exactly two towers with a blue block at the base"] == (True, bases)
    assert found["There are at least 3 towers with a blue block at the base"] == (False, bases)


def test_what_a_statement_is_about_is_seen_where_it_is_drawn() -> None:
    checked = 0
    for index in range(80):
        drawing = draw_one(index, DrawnConfig(seed=1), "boxes")
        for turn in drawing.turns:
            named = re.match(r"There is a (\w+) (circle|square|triangle)", turn.question)
            for seen in turn.seen if named else ():
                assert tuple(drawing.pixels[int(seen.y), int(seen.x)]) == FILLS[named[1]]
                checked += 1
    assert checked > 20


def test_a_count_beyond_the_numbers_in_words_is_said_in_digits() -> None:
    """Ten black circles: no statement about "eight" of them may hold, in words or digits, but "at least" ones."""
    boxes = [[Item("circle", "black", 20 * place, 40, 10) for place in range(5)] for _ in range(2)] + [[]]
    draw = Random(4)
    said = truths(draw, boxes, towers=False)
    assert said["There are exactly 10 black circles"] and said["There are 10 black items"]
    assert said["There are at least 9 black circles"] and not said["There are 9 black circles"]
    counted = {sentence: holds for sentence, holds in said.items() if "touching" not in sentence}
    assert not any(
        holds for sentence, holds in counted.items() if "are eight black" in sentence or "exactly eight" in sentence
    )
    assert not any("at least eight black" in sentence for sentence in counted)


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
                # digits are tokens each, and have their space apart
                assert len(tokenizer.tokenize(f"x {bare}")) == (2 + len(bare) if bare.isdigit() else 2), word
