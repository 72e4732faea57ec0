"""Replies of all shapes to a multiple choice, and the one option that each gives, or none."""

import time

import pytest

from pipelines.choices import after_answer, read_letter, without_head

ANIMALS = ("a cat", "a dog")
"""Options that begin with an article."""
BARE = ("cat", "dog", "horse")
VITAMINS = ("vitamin A", "vitamin C", "calcium")
"""Options that end with the letter of another."""


def read(choices: tuple[str, ...], wanted: dict[str, str | None]) -> None:
    """Hold what is read out of replies to what they give."""
    assert {reply: read_letter(reply, choices) for reply in wanted} == wanted


def test_a_letter_by_itself() -> None:
    read(ANIMALS, dict.fromkeys(("B", "b", "B.", "(B)", "[b]", "**B**", " B\n", "“B”", "B,"), "B"))
    read(ANIMALS, {"a": "A", "A.": "A", "E": None, "C": None, "": None, " ": None, ".": None, "-5": None, ">": None})


def test_a_letter_with_its_option_or_the_option_alone() -> None:
    replies = ("B. dog", "B. a dog", "(B) a dog", "B) A DOG.", "B: a dog", "B - a dog", "B a dog", "**B.** a dog")
    read(ANIMALS, dict.fromkeys(replies, "B"))
    read(ANIMALS, dict.fromkeys(("a dog", "A dog", "A dog.", "- a dog", "“A dog.”", "**a  dog**"), "B"))
    read(ANIMALS, {"dog": None, "A big dog": None, "A.cat": None, "a dog or a cat": None})


@pytest.mark.parametrize(
    "spelt", ["{}", "B. {}", "B) {}", "(B) {}", "[B] {}.", "B: {}", "**B.** {}", "B. {}\nIt is sour."]
)
def test_an_option_whose_last_word_is_another_options_letter(spelt: str) -> None:
    reply = spelt.format("vitamin C")
    assert read_letter(reply, VITAMINS) == "B"
    assert read_letter(f"The answer is {reply}", VITAMINS) == "B"
    turned = ("calcium", "vitamin C", "vitamin A")
    assert read_letter(reply, turned) == "B"


def test_letters_within_options_are_not_given() -> None:
    read(
        VITAMINS,
        {
            "B. vitamin C is richer than vitamin A.": "B",
            "A. vitamin A": "A",
            "C": "C",
            "It is vitamin C.": "B",
            "The picture shows vitamin C.": None,
            "A. vitamin A\nB. vitamin C\nC. calcium": None,
        },
    )
    read(("Point B", "Point A"), {"B. Point A": "B", "A. Point B": "A", "Point A": "B", "A: Point B, not Point A": "A"})


def test_an_article_is_not_the_letter() -> None:
    read(
        ANIMALS,
        {"The answer is a dog": "B", "the answer is a dog.": "B", "The answer is a cat.": "A", "A big one": None},
    )
    read(BARE, {"A cat": "A", "A dog": None, "The answer is a dog": None, "Answer: A dog": None, "B. A dog": "B"})


def test_what_follows_the_answer_is_goes_first() -> None:
    read(
        ANIMALS,
        {
            "The answer is B": "B",
            "Answer: B) dog": "B",
            "Answer: (B) a dog": "B",
            "**Answer:** B": "B",
            "The correct option is B": "B",
            "the correct answer is option B.": "B",
            "The answer to the question is B.": "B",
            "(A) is wrong, the answer is B": "B",
            "The answer is B because A is wrong": "B",
            "The answer is A because B is wrong": "A",
            "The answer is B, not A.": "B",
            "The answer is A. No, the answer is B.": None,
            "The answer is A or B": None,
            "The answer is B and A": None,
            "The answer is not A": None,
            "The answer is not A, it is B": "B",
            "The wrong answer is A": None,
            "I don't think the answer is A.": None,
        },
    )


def test_a_word_option_in_an_explanation_does_not_outrank_the_beginning() -> None:
    read(
        ANIMALS,
        {
            "B. Option A: there is no cat, so it is wrong.": "B",
            "B. It is bigger than option A.": "B",
            "B. It isn't A.": "B",
            "B. It is not a cat.": "B",
            "A. No, option B": None,
            "B. Option A: a cat": None,
        },
    )


def test_option_at_the_beginning_or_where_nothing_else_is_given() -> None:
    read(
        ANIMALS,
        {
            "Option A: a cat": "A",
            "Option A": "A",
            "option (B)": "B",
            "Option A: there is a cat": "A",
            "Choice: B": "B",
            "I think it's B because A is wrong": "B",
            "I think it is B.": "B",
            "It is a dog.": "B",
            "It shows a dog, so option B": "B",
            "I'd go with (B).": "B",
            "I'd say B.": "B",
            "Option A is wrong, option B is right": "B",
            "Option A is wrong": None,
            "Option A shows a cat and option B shows a dog": None,
            "It is not a dog": None,
            "I do not think it is B": None,
        },
    )


def test_a_last_line_is_given_where_no_other_letter_is() -> None:
    read(
        ANIMALS,
        {
            "Sure!\nB. a dog": "B",
            "It has a tail and barks.\n\nB\n": "B",
            "Let me see.\nA dog": "B",
            "Let me see.\nA big dog": None,
            "These are the options:\nA. a cat\nB. a dog": None,
            "It is (A).\nB": None,
        },
    )


def test_several_letters_are_none_and_refused_ones_are_not_given() -> None:
    replies = ("A, B", "A and B", "B/A", "B or A", "a, b", "either (A) or (B)", "A. a cat or B. a dog")
    read(ANIMALS, dict.fromkeys(replies, None))
    read(ANIMALS, dict.fromkeys(("A. a cat\nB. a dog", "a) a cat\nb) a dog", "A: a cat. B: a dog."), None))
    read(ANIMALS, {"(A) is wrong, (B) is right": "B", "(A) is wrong": None, "A. a cat: wrong.\nB. a dog: right.": None})


def test_signs_are_part_of_an_option() -> None:
    read(
        ("5", "-5"), {"-5": "B", "5": "A", "5.": "A", "B. -5": "B", "The answer is -5": "B", "A -5": None, "- 5": None}
    )
    read(("-5", "6"), {"5": None, "-5.": "A", "(-5)": "A", "The answer is 5.": None, "A. -5": "A", "": None})
    read((">", "<", "="), {">": "A", "<": "B", "=": "C", ">.": "A", "A. >": "A", "": None, "?": None})
    read(("?", "..."), {"?": "A", "...": "B", "": None, " ": None})
    read(("50%", "60%"), {"50": "A", "60%.": "B"})


def test_a_long_reply_of_marks_is_read_in_a_moment() -> None:
    pieces = ("(A) ", "answer is ", "answer is B. ", "it is B, ", "option ", "A" + " " * 50, "…" * 20, "not ")
    began = time.perf_counter()
    for piece in pieces:
        read_letter(piece * (8000 // len(piece)), VITAMINS)
    read_letter(" ".join(f"it is B, {number} (C)" for number in range(450)), VITAMINS)
    assert time.perf_counter() - began < 20
    # one that repeats itself to its last token says the same each time
    assert read_letter("The answer is B. " * 300, VITAMINS) == "B"


def test_parts_of_a_reply() -> None:
    assert after_answer("the answer is yes") == ["yes"]
    assert after_answer("I cannot say if the answer is yes") == []
    assert without_head("Option: B") == "B"
    assert without_head("The option") == "The option"
