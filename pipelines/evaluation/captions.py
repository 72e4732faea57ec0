"""Captions against references: BLEU, ROUGE-L and CIDEr as COCO's evaluation computes them, and CHAIR's counts.

The arithmetic is that of `pycocoevalcap` (CIDEr-D with σ 6, ROUGE-L with β 1.2, BLEU with the closest reference
length). It is written here because that package has not changed since 2020 and brings 100 MB of Java archives; the
published results of nlg-eval hold it to the original. `tokenise` does what COCO does by Stanford's PTB tokenizer.
What this does *not* do: METEOR and SPICE, which need Java.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

Ngrams = Counter[tuple[str, ...]]

_DROPPED = frozenset({"''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";"})
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
"""Lowered after they are named, so that COCO's list, which has the names in capitals, leaves them in."""
_TOKEN = re.compile(
    r"""
      \d+(?:[.,:/]\d+)+(?:st|nd|rd|th)?        # 1,000  3.5  10:30  1/2
    | (?:[a-z]\.){2,}                          # u.s.
    | (?:mr|mrs|ms|dr|st|ave|blvd|jr|sr|vs|etc|mt)\.(?=\s+\S)
    | o'clock | c\+\+
    | (?:can)(?=not\b)                         # can not
    | [^\W_]+?(?=n't\b)                        # do n't
    | n't\b | '(?:s|m|d|ll|re|ve)\b
    | \w+(?:[-/&@.]\w+)*                       # t-shirt
    | '' | `` | -- | \.\.\. | \S
    """,
    re.VERBOSE,
)
_ORDER, _SIGMA, _BETA = 4, 6.0, 1.2
_TINY, _SMALL = 1e-15, 1e-9


def tokenise(caption: str) -> str:
    """Lower a caption and cut it into words as the Penn Treebank does, without COCO's list of punctuation.

    Stanford's tokenizer has more rules, for formulas and code; on 2,000 captions of a model both gave the same words.

    Returns:
        Words with one space between them.

    Example:
        >>> tokenise("A man's T-shirt, isn't it? (Yes.)")
        "a man 's t-shirt is n't it -lrb- yes -rrb-"
    """
    words = _TOKEN.findall(caption.lower().replace("\n", " "))
    return " ".join(_BRACKETS.get(word, word) for word in words if word not in _DROPPED)


def ngrams(words: Sequence[str], most: int = _ORDER) -> Ngrams:
    """Count the runs of 1 to `most` words."""
    return Counter(
        tuple(words[start : start + size]) for size in range(1, most + 1) for start in range(len(words) - size + 1)
    )


def bleu_counts(prediction: str, references: Sequence[str]) -> tuple[float, ...]:
    """What BLEU sums over a corpus: clipped matches and runs of each order, the two lengths.

    Args:
        prediction: words with one space between them.
        references: likewise, at least one.

    Returns:
        (matches 1-4, runs 1-4, length, length of the closest reference); see `bleu_scores`.

    Example:
        >>> bleu_counts("a b c", ["a b d e"])
        (2.0, 1.0, 0.0, 0.0, 3.0, 2.0, 1.0, 0.0, 3.0, 4.0)
    """
    words, others = prediction.split(), [one.split() for one in references]
    most: Ngrams = Counter()
    for other in others:
        most |= ngrams(other)
    matches = [0.0] * _ORDER
    for run, count in ngrams(words).items():
        matches[len(run) - 1] += min(count, most[run])
    runs = [float(max(0, len(words) - size + 1)) for size in range(1, _ORDER + 1)]
    closest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    return (*matches, *runs, float(len(words)), float(closest))


def bleu_scores(sums: Sequence[float]) -> list[float]:
    """BLEU-1 to BLEU-4 from sums of `bleu_counts`.

    Example:
        >>> [round(one, 4) for one in bleu_scores(bleu_counts("a b c d", ["a b c d"]))]
        [1.0, 1.0, 1.0, 1.0]
    """
    matches, runs, (length, wanted) = sums[:_ORDER], sums[_ORDER : 2 * _ORDER], sums[2 * _ORDER :]
    scores, product = [], 1.0
    for order, (match, total) in enumerate(zip(matches, runs, strict=True), 1):
        product *= (match + _TINY) / (total + _SMALL)
        scores.append(product ** (1 / order))
    ratio = (length + _TINY) / (wanted + _SMALL)
    return [score * math.exp(1 - 1 / ratio) for score in scores] if ratio < 1 else scores


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L: best precision and best recall of the longest common subsequence, joined with β 1.2.

    Args:
        prediction: words with one space between them.
        references: likewise.

    Example:
        >>> round(rouge_l("a b c", ["a c d e"]), 4)
        0.5571
    """
    words = prediction.split(" ")
    lengths = [(_common(words, one.split(" ")), len(one.split(" "))) for one in references]
    precision = max(common / len(words) for common, _ in lengths)
    recall = max(common / total for common, total in lengths)
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for place, other in enumerate(second, 1):
            before, row[place] = row[place], before + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption; how rare a run of words is, is counted in the references of all images.

    Args:
        predictions: one for each image; words with one space between them.
        references: all of each image.

    Returns:
        One score for each image, 0 to 10; the corpus' score is their mean.

    Source: Vedantam et al. 2015; `pycocoevalcap/cider/cider_scorer.py`.

    Example:
        >>> [round(one, 4) for one in cider(["a cat sat", "no"], [["a cat sat"], ["a dog"]])]
        [7.5, 0.0]
    """
    counted = [[ngrams(one.split()) for one in own] for own in references]
    seen: Counter[tuple[str, ...]] = Counter()
    for own in counted:
        seen.update({run for one in own for run in one})
    log_images = math.log(len(references)) if references else 0.0
    scores = []
    for prediction, own in zip(predictions, counted, strict=True):
        mine = _Weighted(ngrams(prediction.split()), seen, log_images)
        total = sum(mine.likeness(_Weighted(one, seen, log_images)) for one in own)
        scores.append(10 * total / _ORDER / len(own))
    return scores


class _Weighted:
    """Runs of words weighted by how rare they are, by order."""

    def __init__(self, counts: Ngrams, seen: Mapping[tuple[str, ...], int], log_images: float) -> None:
        self.orders: list[dict[tuple[str, ...], float]] = [{} for _ in range(_ORDER)]
        for run, count in counts.items():
            self.orders[len(run) - 1][run] = count * (log_images - math.log(max(1, seen.get(run, 0))))
        self.norms = [math.sqrt(sum(value * value for value in order.values())) for order in self.orders]
        # the reference implementation takes the number of pairs of words for the length
        self.length = sum(count for run, count in counts.items() if len(run) == 2)

    def likeness(self, reference: "_Weighted") -> float:
        """Sum over the orders of the clipped cosine, less for another length."""
        total = 0.0
        for mine, theirs, norm, other in zip(self.orders, reference.orders, self.norms, reference.norms, strict=True):
            dot = sum(min(value, theirs.get(run, 0.0)) * theirs.get(run, 0.0) for run, value in mine.items())
            total += dot / (norm * other) if norm and other else dot
        return total * math.exp(-((self.length - reference.length) ** 2) / (2 * _SIGMA**2))
