"""Statements about boxes hold or do not, by hand; what is drawn is what is said to be there."""

import re
from collections import Counter
from random import Random

import numpy as np
import pytest

from llava_core.checkpoints.fresh import word_tokenizer
from llava_core.prompts import JUDGE_SUFFIX, SHORT_SUFFIX
from pipelines.synthetic.boxes import FILLS
from pipelines.synthetic.clauses import Item
from pipelines.synthetic.drawn import DrawnConfig, draw_one
from pipelines.synthetic.statements import Statement, listing, statement_about

TOWERS = [
    [Item("square", colour, 40, 80 - 21 * level, 20) for level, colour in enumerate(colours)]
    for colours in (("black", "yellow"), ("blue",), ("yellow", "yellow", "black"))
]
"""From the base up."""
ABOUT_TOWERS = {
    "There is a yellow block as the top of a tower": True,
    "There is a yellow block as the base of a tower": True,
    "There are two blue blocks as the base of a tower": False,
    "There is exactly 1 tower with a black block at the top": True,
    "There are exactly 2 towers with a black block at the base": False,
    "There is at least one tower with a blue block at the bottom": True,
    "There is a tower with a blue block above a black block": False,
    "There is a tower with a yellow block over a black block": True,
    "There is a tower with a black block on a yellow block": True,
    "There is exactly one tower with a black block below a yellow block": True,
    "There is a tower with only blue blocks": True,
    "There is a tower with only yellow blocks": False,
    "There is a tower with blocks of only one color": True,
    "There is a tower with blocks of all three colors": False,
    "There are two towers with only black and yellow blocks": True,
    "There is a tower with exactly two yellow blocks": True,
    "There is a tower with at least two black blocks": False,
    "There is a tower with more than two blocks": True,
    "There are 3 yellow blocks": True,
    "There are more than 3 yellow blocks": False,
    "There is no blue block": False,
    "There is exactly one blue block": True,
    "There is only one blue block as the base of a tower": True,
    "There are at least two towers with a yellow block as the second block from the base": True,
    "There is a black block as the top of a tower with at least three blocks": True,
    "There is a black block as the top of a tower with only two blocks": False,
    "There is a yellow block as the base of a tower with exactly three blocks": True,
    "Each tower has a yellow block": False,
    "One tower has a blue block at the top": True,
}
SCATTERED = [
    [Item("circle", "black", 0, 30, 20), Item("square", "black", 50, 50, 10), Item("circle", "blue", 70, 70, 30)],
    [Item("triangle", "yellow", 40, 40, 20)],
    [Item("square", "yellow", 10, 10, 10), Item("circle", "yellow", 30, 40, 20), Item("square", "blue", 60, 90, 10)],
]
"""In each box from left to right; (x, y) is an item's upper left corner, a box's side is 100."""
ABOUT_ITEMS = {
    "There is a black circle": True,
    "There is a black triangle": False,
    "There is no black triangle": True,
    "There is a black circle touching the wall": True,
    "There is a black circle not touching the edge": False,
    "There is a black square touching the edge": False,
    "There is a black square not touching the edge": True,
    "There is a black circle closely touching left wall of a box": True,
    "There is a black circle closely touching right wall of a box": False,
    "There is a blue circle touching the corner": True,
    "There is a black circle touching the corner": False,
    "There is a blue square closely touching the bottom of a box": True,
    "There is a blue square touching the corner": False,
    "There are at least two blue items touching the base": True,
    "There are 2 blue items": True,
    "There are exactly two black circles touching the wall": False,
    "There are exactly three yellow items not touching any edge": True,
    "There are at least 2 circles touching the edge": True,
    "There is a box with a yellow circle and a blue square": True,
    "There is a box with a yellow circle and a blue circle": False,
    "There is exactly one yellow square": True,
    "There are exactly 2 yellow squares": False,
    "There is a box with exactly two black items": True,
    "There is a box with at least four items": False,
    "There are 2 boxes with three items": True,
    "There is a box with no yellow square": True,
    "There is a box with only yellow items": True,
    "There is a box with only black and blue items": True,
    "There is a box with only black and yellow items": False,
    "There is a box with items of all 3 different colors": False,
    "Each box has a yellow item": False,
    "One of the boxes has exactly one item": True,
}


def made_of(boxes: list[list[Item]], *, towers: bool, seed: int = 0) -> dict[str, Statement]:
    """Statements that are made about boxes, by sentence without its full stop."""
    draw = Random(seed)
    made = (statement_about(draw, boxes, towers=towers) for _ in range(60_000))
    return {statement.sentence.removesuffix("."): statement for statement in made}


@pytest.fixture(scope="module")
def of_towers() -> dict[str, Statement]:
    return made_of(TOWERS, towers=True)


@pytest.fixture(scope="module")
def of_items() -> dict[str, Statement]:
    return made_of(SCATTERED, towers=False)


def test_statements_hold_or_not_as_one_sees(of_towers: dict[str, Statement], of_items: dict[str, Statement]) -> None:
    for said, expected in ((of_towers, ABOUT_TOWERS), (of_items, ABOUT_ITEMS)):
        assert {sentence: said[sentence].holds for sentence in expected if sentence in said} == expected


def test_one_counts_aloud(of_towers: dict[str, Statement], of_items: dict[str, Statement]) -> None:
    """Worked out by hand: numbers run over all boxes, or begin again in each where boxes are judged."""
    for boxes, said, expected in (
        (
            TOWERS,
            of_towers,
            {
                "There are 3 yellow blocks": "black yellow one, blue, yellow two yellow three black: true",
                "There is a tower with exactly two yellow blocks": (
                    "black yellow one no, blue no, yellow one yellow two black yes: true"
                ),
                "There is a yellow block as the top of a tower": (
                    "black yellow yes, blue no, yellow yellow black no: true"
                ),
                "There is a tower with a black block on a yellow block": (
                    "black yellow no, blue no, yellow yellow black one yes: true"
                ),
                "There is a black block as the top of a tower with only two blocks": (
                    "black one yellow two no, blue one no, yellow one yellow two black three no: false"
                ),
            },
        ),
        (
            SCATTERED,
            of_items,
            {
                "There are exactly two black circles touching the wall": (
                    "black circle one black square blue circle, yellow triangle, "
                    "yellow square yellow circle blue square: false"
                ),
                "There is a box with a yellow circle and a blue square": (
                    "black circle black square blue circle no, yellow triangle no, "
                    "yellow square yellow circle one blue square two yes: true"
                ),
            },
        ),
    ):
        towers = boxes is TOWERS
        assert {one: listing(boxes, towers=towers, statement=said[one])[0] for one in expected} == expected


def test_what_is_said_agrees_with_itself(of_towers: dict[str, Statement], of_items: dict[str, Statement]) -> None:
    """A reader of the counting alone comes to the verdict, for the quantities that say how many things there are."""
    checked = 0
    for boxes, said in ((TOWERS, of_towers), (SCATTERED, of_items)):
        for sentence, statement in said.items():
            text = listing(boxes, towers=boxes is TOWERS, statement=statement)[0]
            count = text.count("yes") if statement.boxes else len(statement.counted)
            if sentence.startswith("There is a "):
                assert text.endswith("true" if count else "false"), (sentence, text)
            elif sentence.startswith("There is no "):
                assert text.endswith("false" if count else "true"), (sentence, text)
            elif sentence.startswith(("Each", "All")):
                assert text.endswith("true" if count == 3 else "false"), (sentence, text)
            elif number := re.match(r"There are (exactly|at least|more than) (two|three|2|3) ", sentence):
                wanted = {"two": 2, "2": 2, "three": 3, "3": 3}[number[2]]
                met = {"exactly": count == wanted, "at least": count >= wanted, "more than": count > wanted}[number[1]]
                assert text.endswith("true" if met else "false"), (sentence, text)
            else:
                continue
            checked += 1
    assert checked > 5_000


def test_two_things_named_at_once_are_never_one(of_items: dict[str, Statement]) -> None:
    """ "A yellow circle and a yellow item" could be one item or two: nobody can tell what it asks."""
    both = [found for sentence in of_items if (found := re.search(r" a (\w+) (\w+) and a (\w+) (\w+)$", sentence))]
    assert len(both) > 100
    assert all(one[1] != one[3] or (one[2] != one[4] and "item" not in (one[2], one[4])) for one in both)


def test_a_count_beyond_the_numbers_in_words_is_said_in_digits() -> None:
    boxes = [[Item("circle", "black", 15 * place, 40, 10) for place in range(6)] for _ in range(2)] + [
        [Item("square", "blue", 30, 30, 10)]
    ]
    said = made_of(boxes, towers=False)
    assert said["There are exactly 12 black circles"].holds and not said["There are exactly 11 black circles"].holds
    assert (
        listing(boxes, towers=False, statement=said["There are exactly 12 black circles"])[0].count("circle 12, blue")
        == 1
    )


def test_what_is_counted_aloud_is_seen_where_it_is_drawn() -> None:
    checked = 0
    for index in range(80):
        drawing = draw_one(index, DrawnConfig(seed=1), "boxes")
        for turn in drawing.turns:
            for seen in turn.seen if turn.task == "statement" else ():
                colour = turn.answer[seen.start : seen.stop].split()[0]
                assert tuple(drawing.pixels[int(seen.y), int(seen.x)]) == FILLS[colour]
                checked += 1
    assert checked > 500


def test_as_many_statements_are_false_as_true_and_some_are_answered_in_a_word() -> None:
    turns = [turn for index in range(300) for turn in draw_one(index, DrawnConfig(seed=2), "boxes").turns]
    asked = [turn for turn in turns if turn.task == "statement"]
    verdicts = Counter(turn.answer.split()[-1] for turn in asked)
    assert set(verdicts) == {"true", "false"} and 0.4 < verdicts["true"] / len(asked) < 0.6
    short = [turn for turn in asked if turn.question.endswith(SHORT_SUFFIX)]
    assert {turn.answer for turn in short} == {"true", "false"} and 0.15 < len(short) / len(asked) < 0.25
    assert all(": " in turn.answer for turn in asked if turn.question.endswith(JUDGE_SUFFIX))


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
            # "Each", "All" and "One" are spelled: a capital is a token of its own
            for word in re.sub("^(Each|All|One) ", "", turn.question).replace("\n", " ").split():
                bare = word.strip(".,?")
                # digits are tokens each, and have their space apart
                assert len(tokenizer.tokenize(f"x {bare}")) == (2 + len(bare) if bare.isdigit() else 2), word
