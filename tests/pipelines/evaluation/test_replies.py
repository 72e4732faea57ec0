"""Replies and what each benchmark's own tool reads out of them."""

import pytest

from pipelines.evaluation.replies import (
    first_line,
    letter_exact,
    letter_scienceqa,
    true_false,
    yes_no_llava,
    yes_no_mme,
    yes_no_strict,
)


@pytest.mark.parametrize(
    ("reply", "llava", "strict", "mme"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("No", "no", "no", "no"),
        ("no.", "no", "no", "no"),
        ("NO", "yes", "no", "no"),
        ("yes, there is not", "no", None, "yes"),
        ("There is no dog", "no", None, None),
        ("Nothing", "yes", None, "no"),
        ("It is. No", "yes", None, None),
        ("No, sir", "no", None, "no"),
        ("", "yes", None, None),
        ("y", "yes", None, "yes"),
        ("n", "yes", None, "no"),
        ("I cannot tell", "yes", None, None),
        ("I know", "yes", None, None),
        ("not sure", "no", None, "no"),
    ],
)
def test_yes_and_no(reply: str, llava: str, strict: str | None, mme: str | None) -> None:
    assert (yes_no_llava(reply), yes_no_strict(reply), yes_no_mme(reply)) == (llava, strict, mme)


@pytest.mark.parametrize(
    ("reply", "exact", "scienceqa"),
    [
        ("B", "B", "B"),
        ("b", None, None),
        ("B.", None, None),
        ("B. a dog", None, "B"),
        ("(B)", None, None),
        ("a dog", None, None),
        ("The answer is C.", None, "C"),
        ("The answer is A.", None, "A"),
        ("E", None, None),
        ("", None, None),
        ("The answer is A. The answer is B.", None, None),
    ],
)
def test_letters(reply: str, exact: str | None, scienceqa: str | None) -> None:
    choices = ["a cat", "a dog", "a horse"]
    assert (letter_exact(reply, choices), letter_scienceqa(reply, choices)) == (exact, scienceqa)


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ("True", "true"),
        ("yes", "true"),
        ("FALSE.", "false"),
        ("No way", "false"),
        ("It is so", None),
        ("nothing of that", None),
        ("black one blue, blue no, blue yes: true", "true"),
        ("No box has two. Is it true or false? True.", "true"),
        ("Is it true or false? One black, one blue: false", "false"),
        ("The statement is not true.", "false"),
        ("It is not false, I think", "true"),
        ("untrue", None),
        ("", None),
    ],
)
def test_true_and_false(reply: str, wanted: str | None) -> None:
    assert true_false(reply) == wanted


def test_a_short_answer_is_the_first_line() -> None:
    assert first_line("\n  red car \nbecause") == "red car"
    assert first_line("") == ""
