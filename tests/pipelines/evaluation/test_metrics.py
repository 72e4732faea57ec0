"""Scores of single answers, worked out by hand; the order of arguments among them."""

import pytest

from pipelines.evaluation.metrics import anls, direct_answer_score, exact_match, gqa_match, relaxed_match


@pytest.mark.parametrize(
    ("prediction", "reference", "wanted"),
    [
        ("100", "100", 1),
        ("105", "100", 1),
        ("95", "100", 1),
        ("105.1", "100", 0),
        ("94.9", "100", 0),
        # the order: 5 % is of the reference; 100 against 95.2 is 5.04 % off, 95.2 against 100 is 4.8 %
        ("100", "95.2", 0),
        ("95.2", "100", 1),
        ("-100", "100", 0),
        ("-104", "-100", 1),
        ("12%", "12%", 1),
        ("12%", "0.12", 1),
        ("12", "12%", 0),
        ("12.5%", "12%", 1),
        # 0 has no 5 %
        ("0", "0", 1),
        ("0.0", "0", 0),
        ("0.001", "0", 0),
        ("0", "0.001", 0),
        # a unit or a comma makes it text
        ("100 km", "100", 0),
        ("1,000", "1000", 0),
        ("1,000", "1,000", 1),
        ("Yes", "yes", 1),
        ("yes ", "yes", 0),
        (" 7 ", "7", 1),
        ("", "yes", 0),
        ("nan", "5", 0),
        ("1e2", "100", 1),
        ("2015", "2014", 1),
    ],
)
def test_relaxed_match(prediction: str, reference: str, wanted: int) -> None:
    assert relaxed_match(prediction, reference) == wanted


@pytest.mark.parametrize(
    ("prediction", "references", "wanted"),
    [
        ("abcd", ["abcd"], 1.0),
        ("ABCD", ["abcd"], 1.0),
        ("abcx", ["abcd"], 0.75),
        ("abxx", ["abcd"], 0.5),
        ("axxx", ["abcd"], 0.0),
        ("abxxy", ["abcd"], 0.0),
        ("", ["abcd"], 0.0),
        ("", [""], 1.0),
        ("abcd", [], 0.0),
        ("abcd", ["zzzz", "abce", "ab"], 0.75),
        ("kitten", ["sitting"], 4 / 7),
        # lengths before white space is folded: distance 0, longer length 6
        ("a   b", ["a b"], 1.0),
        ("a  bc", ["a bd"], 0.8),
        ("0", ["0"], 1.0),
        ("0", ["o"], 0.0),
        ("12%", ["12"], 2 / 3),
        ("$1,000", ["$1000"], 5 / 6),
        ("ab", ["ba"], 0.0),
        ("abc", ["acb"], 0.0),
        ("über", ["uber"], 0.75),
        ("the cat", ["cat"], 0.0),
    ],
)
def test_anls(prediction: str, references: list[str], wanted: float) -> None:
    assert anls(prediction, references) == pytest.approx(wanted, abs=1e-12)


def test_anls_threshold_is_reached_by_equality() -> None:
    assert anls("abxx", ["abcd"], threshold=0.5) == 0.5
    assert anls("abxx", ["abcd"], threshold=0.51) == 0.0


@pytest.mark.parametrize(
    ("prediction", "reference", "gqa", "exact"),
    [
        ("yes", "yes", 1, 1),
        ("Yes.", "yes", 1, 0),
        ("Yes..", "yes", 1, 0),
        ("yes", "Yes", 0, 1),
        (" yes", "yes", 0, 1),
        ("a dog", "dog", 0, 0),
        ("no, it is", "no", 0, 0),
        ("", "no", 0, 0),
        (".", "", 1, 0),
        ("STRASSE", "straße", 0, 1),
        # order: full stops fall, and capitals, from the prediction alone under GQA's rule
        ("yes", "yes.", 0, 0),
        (".yes", "yes", 0, 0),
        ("0", "0", 1, 1),
        ("zero", "0", 0, 0),
        ("12%", "12", 0, 0),
        ("1,000", "1000", 0, 0),
        ("don't", "dont", 0, 0),
        ("DON'T", "don't", 1, 1),
        ("traffic light", "traffic  light", 0, 0),
        ("traffic light\n", "traffic light", 0, 1),
        ("Stephen King", "stephen king", 1, 1),
        ("King, Stephen", "stephen king", 0, 0),
        ("no. 5", "no. 5", 1, 1),
        ("unanswerable", "unanswerable", 1, 1),
        ("yes!", "yes", 0, 0),
    ],
)
def test_gqa_and_exact_match(prediction: str, reference: str, gqa: int, exact: int) -> None:
    assert (gqa_match(prediction, reference), exact_match(prediction, reference)) == (gqa, exact)


@pytest.mark.parametrize(
    ("prediction", "references", "wanted"),
    [
        ("ride", ["Ride"] * 10, 0.0),
        ("ride", ["ride"] + ["Ride"] * 9, 1 / 3),
        ("ride", ["ride"] * 2 + ["Ride"] * 8, 2 / 3),
        ("ride", ["ride"] * 3 + ["Ride"] * 7, 1.0),
        ("ride", ["ride"] * 9 + ["walk"], 1.0),
        ("Ride", ["ride"] * 10, 0.0),
        ("ride.", ["ride"] * 10, 0.0),
        (" ride", ["ride"] * 10, 0.0),
        ("a ride", ["ride"] * 10, 0.0),
        ("ride", ["rides", "riding", "a ride"], 0.0),
        ("ride", ["rides", "ride", "a ride"], 1 / 3),
        ("", ["ride"] * 10, 0.0),
        ("", ["", "", "ride"], 2 / 3),
        ("ride", [], 0.0),
        ("0", ["0", "0", "zero"], 2 / 3),
        ("zero", ["0", "0", "zero"], 1 / 3),
        ("12%", ["12%", "12", "12%", "12%"], 1.0),
        ("1,000", ["1000"] * 4 + ["1,000"], 1 / 3),
        ("don't", ["dont", "don't", "don't"], 2 / 3),
        ("hot dog", ["hotdog", "hot dog"], 1 / 3),
        ("unanswerable", ["unanswerable"] * 3, 1.0),
    ],
)
def test_direct_answers_are_compared_as_they_are(prediction: str, references: list[str], wanted: float) -> None:
    assert direct_answer_score(prediction, references) == pytest.approx(wanted)
