"""What a benchmark makes of its items' answers: from answers to values, from values to parts, from sums to scores.

    values  items and answers → each item's score, and what else its total needs      (all items at once)
    parts   the items of one unit and category → numbers that may be added up
    total   sums of parts → named scores, the benchmark's own first

What this does *not* do: say which benchmark uses which (`benchmarks`), or how sure a score is (`statistics`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipelines.evaluation import captions
from pipelines.evaluation.items import Item, Judged
from pipelines.evaluation.statistics import Floats, Tally, Total

Answers = Sequence[str | None]
Values = Callable[[Sequence[Item], Answers], list[tuple[float, ...]]]


class _ItemScore(Protocol):
    def __call__(self, item: Item, answer: str, /) -> float: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """How a benchmark is scored."""

    values: Values
    """Items and answers to values; see `Judged.values`."""
    parts: Callable[[Sequence[Judged]], Sequence[float]]
    """Numbers of the items of one unit and category."""
    total: Total
    """Sums of parts to scores."""


def tally(judged: Iterable[Judged], metric: Metric) -> Tally:
    """Add the items of each unit and category up.

    Args:
        judged: at least one.
        metric: of the benchmark.
    """
    cells: dict[tuple[str, str], list[Judged]] = {}
    for one in judged:
        cells.setdefault((one.item.unit, one.item.category), []).append(one)
    units, categories = (sorted({key[place] for key in cells}) for place in (0, 1))
    unit_place, category_place = ({name: place for place, name in enumerate(names)} for names in (units, categories))
    rows = {key: metric.parts(cell) for key, cell in cells.items()}
    parts = np.zeros((len(units), len(categories), len(next(iter(rows.values())))))
    for (unit, category), row in rows.items():
        parts[unit_place[unit], category_place[category]] = row
    return Tally(units=tuple(units), categories=tuple(categories), parts=parts)


def each(score: _ItemScore) -> Values:
    """Values of a metric that looks at one item at a time; no answer scores 0."""
    return lambda items, answers: [
        (0.0 if answer is None else score(item, answer),) for item, answer in zip(items, answers, strict=True)
    ]


def _counted(judged: Sequence[Judged]) -> tuple[float, ...]:
    return (float(len(judged)), sum(one.score for one in judged))


def _whole(judged: Sequence[Judged]) -> tuple[float, float]:
    """(1, whether all are right) of a group that is whole; one that lacks items says nothing about them together."""
    if len(judged) < judged[0].item.group_size:
        return 0.0, 0.0
    return 1.0, float(all(one.score == 1.0 for one in judged))


def _ratio(over: Floats, under: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.asarray(over / under)
    return found


def mean_metric(name: str, score: _ItemScore) -> Metric:
    """The mean of items' scores, in percent."""

    def total(sums: Floats, categories: Sequence[str]) -> dict[str, Floats]:
        counts = sums.sum(axis=-2)
        return {name: 100 * _ratio(counts[..., 1], counts[..., 0])}

    return Metric(values=each(score), parts=_counted, total=total)


def together_metric(name: str, score: _ItemScore, alone: str) -> Metric:
    """The share of groups whose every item is right, of those that are whole, and beside it the share of items.

    Args:
        name: of the first.
        score: 1 for a right answer.
        alone: name of the second.
    """

    def parts(judged: Sequence[Judged]) -> tuple[float, ...]:
        return (*_whole(judged), *_counted(judged))

    def total(sums: Floats, categories: Sequence[str]) -> dict[str, Floats]:
        counts = sums.sum(axis=-2)
        return {
            name: 100 * _ratio(counts[..., 1], counts[..., 0]),
            alone: 100 * _ratio(counts[..., 3], counts[..., 2]),
        }

    return Metric(values=each(score), parts=parts, total=total)


def nlvr_metric() -> Metric:
    """Accuracy over images, and consistency: the share of sentences that are right about all their images."""
    both = together_metric("consistency", right, "accuracy")

    def total(sums: Floats, categories: Sequence[str]) -> dict[str, Floats]:
        return dict(reversed(list(both.total(sums, categories).items())))

    return Metric(values=both.values, parts=both.parts, total=total)


def right(item: Item, answer: str, /) -> float:
    """1.0 where the answer is the first reference, to the letter."""
    return float(answer == item.references[0])


def pope_metric() -> Metric:
    """POPE: F1 with "yes" as the positive class, the mean over the splits (categories); likewise the others.

    An answer that is neither yes nor no is wrong, and counts as yes for no ratio.
    """

    def parts(judged: Sequence[Judged]) -> tuple[float, ...]:
        pairs = [(one.answer, one.item.references[0]) for one in judged]
        counts = [pairs.count(pair) for pair in (("yes", "yes"), ("yes", "no"), ("no", "no"))]
        wanted = sum(label == "yes" for _, label in pairs)
        return (*map(float, counts), float(wanted), float(len(pairs)))

    def total(sums: Floats, categories: Sequence[str]) -> dict[str, Floats]:
        hit, false, quiet, wanted, count = (sums[..., place] for place in range(5))
        # 0 where nothing was found, as for every F1; a split of no items has none
        empty = count == 0
        scores = {
            "F1": np.where(empty, np.nan, 2 * hit / np.maximum(hit + false + wanted, 1)),
            "accuracy": _ratio(hit + quiet, count),
            "precision": np.where(empty, np.nan, hit / np.maximum(hit + false, 1)),
            "recall": np.where(empty, np.nan, hit / np.maximum(wanted, 1)),
            "yes ratio": _ratio(hit + false, count),
        }
        return {name: 100 * _mean_known(values) for name, values in scores.items()}

    return Metric(values=each(right), parts=parts, total=total)


def _mean_known(values: Floats) -> Floats:
    """Mean over the last axis, of what is a number; NaN where nothing is."""
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


PERCEPTION = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def mme_metric() -> Metric:
    """MME: for each subtask acc (share of questions) + acc+ (share of images with both right), 0 to 200; summed.

    An image that lacks a question has no part in acc+, which is 0 where all do.
    """

    def parts(judged: Sequence[Judged]) -> tuple[float, ...]:
        return (*_counted(judged), *_whole(judged))

    def total(sums: Floats, categories: Sequence[str]) -> dict[str, Floats]:
        asked, right, images, both = (sums[..., place] for place in range(4))
        scores = 100 * (_ratio(right, asked) + both / np.maximum(images, 1))
        found = {}
        for name, wanted in (("perception", PERCEPTION), ("cognition", COGNITION)):
            places = [place for place, category in enumerate(categories) if category in wanted]
            if places:
                found[name] = np.where(np.isfinite(scores), scores, 0.0)[..., places].sum(axis=-1)
        return found

    return Metric(values=each(right), parts=parts, total=total)


def relative_metric() -> Metric:
    """LLaVA-Bench: the judge's score of the model's answers, in percent of its score of the reference answers.

    Values are (score, judge's score of the reference, of the model), the judge's being 1 to 10.
    """

    def parts(judged: Sequence[Judged]) -> tuple[float, ...]:
        return (float(len(judged)), sum(one.values[1] for one in judged), sum(one.values[2] for one in judged))

    def total(sums: Floats, categories: Sequence[str]) -> dict[str, Floats]:
        counts = sums.sum(axis=-2)
        return {
            "relative score": 100 * _ratio(counts[..., 2], counts[..., 1]),
            "reference score": 10 * _ratio(counts[..., 1], counts[..., 0]),
            "model score": 10 * _ratio(counts[..., 2], counts[..., 0]),
        }

    return Metric(values=_judged_elsewhere, parts=parts, total=total)


def judged_metric() -> Metric:
    """MM-Vet: the mean of the judge's scores, in percent."""
    mean = mean_metric("score", right)
    return Metric(values=_judged_elsewhere, parts=mean.parts, total=mean.total)


def _judged_elsewhere(items: Sequence[Item], answers: Answers) -> list[tuple[float, ...]]:
    raise AssertionError("a judge gives these values")


def caption_metric() -> Metric:
    """CIDEr (x 100), BLEU-1 to 4 and ROUGE-L; words cut as COCO does."""

    def values(items: Sequence[Item], answers: Answers) -> list[tuple[float, ...]]:
        given = [captions.tokenise(answer or "") for answer in answers]
        wanted = [[captions.tokenise(one) for one in item.references] for item in items]
        rare = captions.cider(given, wanted)
        return [
            (score, captions.rouge_l(one, refs), *captions.bleu_counts(one, refs))
            for score, one, refs in zip(rare, given, wanted, strict=True)
        ]

    def parts(judged: Sequence[Judged]) -> tuple[float, ...]:
        return (float(len(judged)), *map(math.fsum, zip(*(one.values for one in judged), strict=True)))

    def total(sums: Floats, categories: Sequence[str]) -> dict[str, Floats]:
        counts = sums.sum(axis=-2)
        bleu = np.apply_along_axis(lambda row: np.array(captions.bleu_scores(row.tolist())), -1, counts[..., 3:])
        found = {"CIDEr": 100 * _ratio(counts[..., 1], counts[..., 0])}
        found |= {f"BLEU-{order + 1}": 100 * bleu[..., order] for order in (3, 2, 1, 0)}
        return found | {"ROUGE-L": 100 * _ratio(counts[..., 2], counts[..., 0])}

    return Metric(values=values, parts=parts, total=total)
