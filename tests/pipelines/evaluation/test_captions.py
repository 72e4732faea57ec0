"""Caption metrics against published values, and against cases worked out by hand."""

import math
from pathlib import Path

import pytest

from pipelines.evaluation.captions import (
    bleu_counts,
    bleu_scores,
    cider,
    rouge_l,
    tokenise,
)

NLGEVAL = Path(__file__).parents[4] / "shared/data/metrics/nlgeval/examples"
REAL = NLGEVAL if NLGEVAL.is_dir() else Path(__file__).parents[5] / "shared/data/metrics/nlgeval/examples"


@pytest.mark.skipif(not REAL.is_dir(), reason="the nlg-eval examples are not beside the project")
def test_the_published_values_of_nlg_eval_come_out_to_four_digits() -> None:
    predictions = (REAL / "hyp.txt").read_text().strip().split("\n")
    columns = [(REAL / name).read_text().strip().split("\n") for name in ("ref1.txt", "ref2.txt")]
    references = list(zip(*columns, strict=True))
    pairs = list(zip(predictions, references, strict=True))
    sums = [sum(column) for column in zip(*(bleu_counts(one, refs) for one, refs in pairs), strict=True)]
    assert bleu_scores(sums) == pytest.approx([0.550000, 0.428174, 0.284043, 0.201143], abs=5e-5)
    assert sum(rouge_l(one, refs) for one, refs in pairs) / 2 == pytest.approx(0.522104, abs=5e-5)
    assert sum(cider(predictions, references)) / 2 == pytest.approx(1.242192, abs=5e-5)


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("A man rides a horse.", "a man rides a horse"),
        ("A man's hat", "a man 's hat"),
        ("It isn't here", "it is n't here"),
        ("They can't", "they ca n't"),
        ("cannot", "can not"),
        ("11 o'clock", "11 o'clock"),
        ("a t-shirt -- red", "a t-shirt red"),
        ('the sign says "stop"!', "the sign says stop"),
        ("a cat (black)", "a cat -lrb- black -rrb-"),
        ("1,000 cars; 3.5 m", "1,000 cars 3.5 m"),
        ("8th ave. and st.", "8th ave. and st"),
        ("", ""),
        ("...", ""),
    ],
)
def test_words_are_cut_as_the_treebank_does(caption: str, wanted: str) -> None:
    assert tokenise(caption) == wanted


def test_bleu_clips_repeated_words_and_takes_the_closest_length() -> None:
    counts = bleu_counts("the the the", ["the cat", "a b c d e"])
    assert counts[0] == 1
    assert counts[4:8] == (3, 2, 1, 0)
    assert counts[8:] == (3, 2)
    # shorter than the reference: e^(1 - 4/2) times a precision of 1
    assert bleu_scores(bleu_counts("a b", ["a b c d"]))[0] == pytest.approx(math.exp(-1), abs=1e-6)


def test_rouge_l_takes_the_best_precision_and_the_best_recall_each_from_its_own_reference() -> None:
    # "a b": precision 2/2 and recall 2/4 with the first, precision 1/2 and recall 1/1 with the second
    assert rouge_l("a b", ["a b c d", "a"]) == pytest.approx(1.0)
    assert rouge_l("x", ["a b"]) == 0.0


def test_cider_of_a_lone_image_is_zero_because_every_word_is_everywhere() -> None:
    assert cider(["a cat"], [["a cat"]]) == [0.0]


def test_cider_punishes_repeating_and_rewards_rare_words() -> None:
    references = [["a red cat sits here"], ["a blue dog runs there"], ["a green bird flies away"]]
    right, repeated, wrong = (
        cider([text, "x", "y"], references)[0]
        for text in ("a red cat sits here", "cat cat cat cat cat", "a blue dog runs there")
    )
    assert right == pytest.approx(10.0)
    assert 0 < repeated < 2
    assert wrong == 0.0
