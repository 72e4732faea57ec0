"""VQA accuracy: every case worked out by hand from the two reference scripts."""

import pytest

from pipelines.evaluation.vqa_metrics import normalise_evalai, normalise_vqa, textvqa_accuracy, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Yes", "yes"),
        (" two \n dogs\t", "2 dogs"),
        ("none", "0"),
        ("Zero", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("the cat", "cat"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),
        ("isnt", "isn't"),
        ("couldnt've", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("Im", "im"),
        ("1,000", "1000"),
        ("red, white", "red white"),
        # no space beside the slash: it becomes one; beside the hyphen there is one: it vanishes everywhere
        ("black/white", "black white"),
        ("t-shirt - red", "tshirt red"),
        # a comma between digits makes every mark vanish instead of becoming a space
        ("1,000 t-shirts", "1000 tshirts"),
        ("3.5", "3.5"),
        ("no.", "no"),
        ("u.s.a.", "usa"),
        ("10:30", "10:30"),
        ("dog's", "dog's"),
        ("$5", "$5"),
        ("", ""),
        ("?", ""),
        ("a", ""),
        # the 33rd full stop stays: the flag re.UNICODE is passed where a count is taken
        ("." * 33, "."),
    ],
)
def test_a_prediction_is_normalised_as_vqa_eval_does(text: str, wanted: str) -> None:
    assert normalise_vqa(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Dog's bowl?", "dog 's bowl"),
        # commas are gone before marks are looked at, so the hyphen becomes a space where vqaEval drops it
        ("1,000 t-shirts", "1000 t shirts"),
        ("what?now", "whatnow"),
        ("red, white", "red white"),
        ("None", "0"),
        ("dont", "don't"),
        ("A\nB", "b"),
        ("", ""),
    ],
)
def test_evalai_normalisation_differs_where_it_does(text: str, wanted: str) -> None:
    assert normalise_evalai(text) == wanted


@pytest.mark.parametrize(
    ("prediction", "references", "wanted"),
    [
        ("yes", ["yes"] * 10, 1.0),
        ("Yes.", ["yes"] * 10, 1.0),
        ("no", ["yes"] * 10, 0.0),
        ("", ["yes"] * 10, 0.0),
        # one match: left out once it scores 0, the other nine times 1/3 each: 9 * (1/3) / 10
        ("red", ["red"] + ["blue"] * 9, 0.3),
        # two: 2 * (1/3) + 8 * (2/3) = 6, of 10
        ("red", ["red"] * 2 + ["blue"] * 8, 0.6),
        # three: 3 * (2/3) + 7 * 1 = 9
        ("red", ["red"] * 3 + ["blue"] * 7, 0.9),
        ("red", ["red"] * 4 + ["blue"] * 6, 1.0),
        # annotators who agree are left as they are: this one's hyphen never meets the prediction's
        ("t-shirt", ["t-shirt"] * 10, 0.0),
        ("t-shirt", ["t-shirt"] * 9 + ["shirt"], 1.0),
        # annotators' articles and numbers are not folded
        ("the cat", ["the cat"] * 9 + ["cat"], 0.3),
        ("two", ["two"] * 9 + ["2"], 0.3),
        ("unanswerable", ["unanswerable"] * 8 + ["unsuitable"] * 2, 1.0),
        ("Unanswerable", ["unsuitable"] * 10, 0.0),
        ("0", ["0"] * 10, 1.0),
        ("none", ["0"] * 10, 1.0),
        ("1,000", ["1000"] * 3 + ["1,000"] * 7, 1.0),
        ("2", ["2", "two"], 1 / 6),
        ("x", [], 0.0),
    ],
)
def test_vqa_accuracy_is_worked_out_by_hand(prediction: str, references: list[str], wanted: float) -> None:
    assert vqa_accuracy(prediction, references) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "references", "wanted"),
    [
        ("Coca-Cola", ["coca cola"] * 10, 1.0),
        ("t-shirt", ["t-shirt"] * 10, 1.0),
        ("the cat", ["cat"] * 5 + ["The cat"] * 5, 1.0),
        ("two", ["2"] * 2 + ["three"] * 8, 0.6),
        ("", ["answering does not require reading text"] * 10, 0.0),
        ("bob's", ["bob 's"] * 3 + ["bob"] * 7, 0.9),
    ],
)
def test_textvqa_normalises_both_sides(prediction: str, references: list[str], wanted: float) -> None:
    assert textvqa_accuracy(prediction, references) == pytest.approx(wanted, abs=1e-12)
