"""Marks for replies: what is right, what is nearly right, and what only looks it."""

import numpy as np
import pytest

from pipelines.synthetic.drawing import Drawing, Task, Thing, Turn
from pipelines.synthetic.lettering import is_held_out
from pipelines.synthetic.scoring import Asked, exam, grade, named, share, yes_f1

THINGS = (Thing("star", "red", "small", 9, 9), Thing("cross", "blue", "large", 30, 12))


def asked(task: Task, answer: str, *, scale: float = 1.0, kind: str = "scene") -> Asked:
    drawing = Drawing(kind, np.zeros((4, 4, 3), np.uint8), (), THINGS, (), scale)  # type: ignore[arg-type]
    return Asked(drawing, Turn(task, "?", answer))


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("A small red star and a large blue cross.", 1),
        ("A blue cross and a red star.", 1),
        ("A small red star.", 0),
        ("A red cross and a blue star.", 0),
        ("A red star, a blue cross and a green circle.", 0),
        ("A red star, a red star and a blue cross.", 0),
        ("", 0),
    ],
)
def test_a_caption_names_every_shape_with_its_colour_and_no_other(reply: str, right: int) -> None:
    assert grade(asked("caption", "unused"), reply) == (right, 1)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("black one, blue no: true", 1),
        # the counting is wrong, the verdict is not
        ("blue, blue: true ", 1),
        ("true", 1),
        ("black one, blue no: false", 0),
        ("black one, blue no:", 0),
        ("untrue", 0),
        ("", 0),
    ],
)
def test_of_what_is_counted_aloud_the_verdict_counts(reply: str, right: int) -> None:
    assert grade(asked("statement", "black one, blue yes: true", kind="boxes"), reply) == (right, 1)


def test_words_and_fields_are_exact() -> None:
    assert grade(asked("field", "12.50", kind="receipt"), " 12.50 ") == (1, 1)
    for reply in ("12.5", "12.51", "112.50", "", "TOTAL 12.50"):
        assert grade(asked("field", "12.50", kind="receipt"), reply) == (0, 1), reply
    assert grade(asked("caption", "A blue sign that says NO.", kind="sign"), "A blue sign that says NO.") == (1, 1)


def test_values_are_near_in_parts_of_the_axis() -> None:
    assert grade(asked("values", "10, 5", scale=20.0, kind="chart"), "11, 7") == (1, 2)
    assert grade(asked("value", "10", scale=20.0, kind="chart"), "11.1") == (0, 1)
    assert grade(asked("value", "10", scale=20.0, kind="chart"), "no idea") == (0, 1)


def test_shares_count_values_and_f1_counts_yes_alone() -> None:
    one, other = asked("values", "1, 2, 3", scale=10.0, kind="chart"), asked("word", "AB", kind="sign")
    assert share([(one, "1, 2, 9"), (other, "AB")]) == (0.75, 4)
    always = [(asked("presence", answer), "yes") for answer in ("yes", "no", "no", "no")]
    assert yes_f1(always) == pytest.approx(2 / 5)
    assert yes_f1([(one, "no") for one, _ in always]) == 0.0


def test_an_exam_is_of_held_out_drawings_and_asks_only_what_was_asked_for() -> None:
    words = exam("sign", ("word",), 20)
    assert len(words) == 20 and all(is_held_out(word) for one in words for word in one.turn.answer.split())
    fields = exam("receipt", ("field",), 5)
    assert len(fields) == 20 and {one.turn.key for one in fields} == {"total", "tax", "date", "number"}
    assert all(named(one.turn.answer) for one in exam("scene", ("caption",), 5))
