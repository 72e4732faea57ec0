"""Scores of single answers: functions of a prediction and its references, each as its benchmark's authors have it.

Every function takes `prediction` first and says so in its arguments' names: reference implementations disagree about
the order, and a swap goes unnoticed. VQA accuracy is in `vqa_metrics`, captions in `captions`; what a whole benchmark
makes of the scores is in `totals`. What this does *not* do: read an answer out of a reply (`replies`).
"""

from collections.abc import Sequence


def gqa_match(prediction: str, reference: str) -> float:
    """Exact match as LLaVA submits to GQA: without full stops at the end, lowered.

    Source: LLaVA, `scripts/convert_gqa_for_eval.py`, then GQA's `eval.py` (string equality).

    Example:
        >>> gqa_match("Yes.", "yes"), gqa_match("a dog", "dog")
        (1.0, 0.0)
    """
    return float(prediction.rstrip(".").lower() == reference)


def exact_match(prediction: str, reference: str) -> float:
    """Case-folded match without white space around, as OCR-VQA is scored.

    Example:
        >>> exact_match(" Stephen King ", "stephen king"), exact_match("King", "Stephen King")
        (1.0, 0.0)
    """
    return float(prediction.strip().casefold() == reference.strip().casefold())


def anls(prediction: str, references: Sequence[str], threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity: 1 - distance / longer length, 0 below the threshold; best reference.

    Texts are compared lowered, with runs of white space as one space; lengths are those before that, as in the
    reference implementations.

    Args:
        prediction: the answer.
        references: all that are right.
        threshold: τ; a similarity of exactly τ counts.

    Returns:
        0 to 1.

    Source: Biten et al. 2019, eq. 1; lmms-eval `api/metrics.py::anls`.

    Example:
        >>> anls("hello", ["hallo", "hell"]), anls("abcd", ["wxyz"]), anls("ab", ["ax"])
        (0.8, 0.0, 0.5)
    """
    best = 0.0
    for reference in references:
        longest = max(len(prediction), len(reference))
        far = _distance(" ".join(prediction.lower().split()), " ".join(reference.lower().split()))
        best = max(best, 1.0 - far / longest if longest else 1.0)
    return best if best >= threshold else 0.0


def _distance(first: str, second: str) -> int:
    """Levenshtein distance."""
    if len(first) < len(second):
        first, second = second, first
    row = list(range(len(second) + 1))
    for place, letter in enumerate(first, 1):
        before, row[0] = row[0], place
        for column, other in enumerate(second, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (letter != other))
    return row[-1]


def relaxed_match(prediction: str, reference: str, tolerance: float = 0.05) -> float:
    """ChartQA's relaxed accuracy: numbers within 5 % of the reference, any other text equal but for case.

    A "%" at the end divides by 100, on either side, so "12%" is not "12"; a number with a unit or a comma is text. A
    reference of 0 has no 5 % and is compared as text: "0.0" does not match "0".

    Args:
        prediction: the answer.
        reference: the one right answer.
        tolerance: share of the reference's size, included.

    Source: Masry et al. 2022, 5.1; Qwen-VL `eval_mm/evaluate_vqa.py`, as lmms-eval has it.

    Example:
        >>> relaxed_match("105", "100"), relaxed_match("100", "105.3"), relaxed_match("0.0", "0")
        (1.0, 0.0, 0.0)
    """
    given, wanted = _number(prediction), _number(reference)
    if given is not None and wanted:
        return float(abs(given - wanted) / abs(wanted) <= tolerance)
    return float(prediction.lower() == reference.lower())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def direct_answer_score(prediction: str, references: Sequence[str]) -> float:
    """A-OKVQA's direct-answer score: min(1, annotators that gave exactly this answer / 3).

    Source: allenai/aokvqa, `evaluation/eval_predictions.py`.

    Example:
        >>> round(direct_answer_score("ride", ["ride", "ride", "sell"]), 3)
        0.667
    """
    return min(1.0, sum(prediction == one for one in references) / 3)
