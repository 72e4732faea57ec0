"""How sure a score is: bootstrap intervals, and the paired test of two runs on the same items.

A benchmark's scores are functions of sums: for each unit (an image and all its questions) and category, `parts` are
added up, and `total` turns sums into scores. So intervals and tests hold for F1, MME or BLEU as they do for a mean.

Legend: U units, C categories, P parts, D draws. What this does *not* do: know a benchmark (`totals`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Total = Callable[[Floats, Sequence[str]], Mapping[str, Floats]]
"""(sums: float[..., C, P], categories) → name → float[...]; the first is the benchmark's main score."""

DRAWS, FLIPS = 1000, 9999
_CHUNK_NUMBERS = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Parts of a benchmark's scores."""

    units: tuple[str, ...]
    """Names, sorted."""
    categories: tuple[str, ...]
    """Names, sorted."""
    parts: Floats
    """float[U, C, P]."""

    @property
    def sums(self) -> Floats:
        """float[C, P]: over all units."""
        summed: Floats = self.parts.sum(axis=0)
        return summed


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A score and its 95 % interval."""

    value: float
    """The score."""
    low: float
    """2.5 % of the draws lie below."""
    high: float
    """2.5 % of the draws lie above."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Of two runs on the same items."""

    first: float
    """Score of the first run."""
    second: float
    """Score of the second run."""
    low: float
    """Lower end of the 95 % interval of second - first."""
    high: float
    """Upper end."""
    p_value: float
    """How often swapping the runs' answers at random, unit by unit, gives a difference at least as large."""


def bootstrap(tally: Tally, total: Total, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """Compute scores and their intervals: percentiles over draws of as many units, with replacement.

    Args:
        tally: of one benchmark.
        total: sums to scores.
        draws: D.
        seed: of the draws.

    Example:
        >>> tally = Tally(units=("a", "b"), categories=("",), parts=np.array([[[1.0, 1.0]], [[1.0, 0.0]]]))
        >>> mean = lambda sums, _: {"accuracy": sums[..., 0, 1] / sums[..., 0, 0]}
        >>> bootstrap(tally, mean)["accuracy"]
        Interval(value=0.5, low=0.0, high=1.0)
    """
    values = {name: float(value) for name, value in total(tally.sums, tally.categories).items()}
    drawn = [total(sums, tally.categories) for sums in _redrawn(tally, draws, seed)]
    found = {}
    for name, value in values.items():
        column = np.concatenate([one[name] for one in drawn])
        column = column[np.isfinite(column)]
        low, high = np.percentile(column, [2.5, 97.5]) if len(column) else (np.nan, np.nan)
        found[name] = Interval(value=value, low=float(low), high=float(high))
    return found


def compare(first: Tally, second: Tally, total: Total, name: str, *, seed: int = 0) -> Difference:
    """Compare two runs on the same units.

    Args:
        first, second: of the two runs; the same units and categories.
        total: sums to scores.
        name: which score.
        seed: of draws and swaps.

    Raises:
        ValueError: the units or categories differ.

    Example:
        Of eight items the second run gets six more right:
        >>> parts = lambda right: np.array([[[1.0, float(one)]] for one in right])
        >>> names = tuple("abcdefgh")
        >>> one = Tally(units=names, categories=("",), parts=parts([0, 0, 0, 0, 0, 0, 1, 1]))
        >>> two = Tally(units=names, categories=("",), parts=parts([1, 1, 1, 1, 1, 1, 1, 1]))
        >>> found = compare(one, two, lambda sums, _: {"acc": sums[..., 0, 1] / sums[..., 0, 0]}, "acc")
        >>> found.second - found.first, 0.02 < found.p_value < 0.05
        (0.75, True)
    """
    if (first.units, first.categories) != (second.units, second.categories):
        raise ValueError("the runs have other units or categories; compare what both have")
    scores = [float(total(one.sums, one.categories)[name]) for one in (first, second)]
    drawn = [
        total(after, second.categories)[name] - total(before, first.categories)[name]
        for before, after in zip(_redrawn(first, DRAWS, seed), _redrawn(second, DRAWS, seed), strict=True)
    ]
    low, high = np.nanpercentile(np.concatenate(drawn), [2.5, 97.5])
    p_value = _swap_test(first, second, total, name, seed)
    return Difference(first=scores[0], second=scores[1], low=float(low), high=float(high), p_value=p_value)


def _redrawn(tally: Tally, draws: int, seed: int) -> Iterator[Floats]:
    """float[D', C, P] sums of redrawn units, in chunks of draws; the same seed draws the same units."""
    units, *shape = tally.parts.shape
    flat = tally.parts.reshape(units, -1)
    random = np.random.default_rng(seed)
    step = max(1, min(draws, _CHUNK_NUMBERS // max(units, 1)))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        weights = np.zeros((count, units))
        for row in weights:
            row += np.bincount(random.integers(0, units, units), minlength=units)
        yield (weights @ flat).reshape(count, *shape)


def _swap_test(first: Tally, second: Tally, total: Total, name: str, seed: int) -> float:
    """Two-sided permutation test on the difference of a score."""
    shape = first.sums.shape
    changes = (second.parts - first.parts).reshape(len(first.units), -1)
    changes = changes[np.any(changes != 0, axis=1)]
    found = abs(float(total(second.sums, second.categories)[name] - total(first.sums, first.categories)[name]))
    random = np.random.default_rng(seed)
    as_large = 0
    step = max(1, min(FLIPS, _CHUNK_NUMBERS // max(len(changes), 1)))
    for start in range(0, FLIPS, step):
        count = min(step, FLIPS - start)
        swapped = random.integers(0, 2, (count, len(changes))).astype(np.float64)
        moved = (swapped @ changes).reshape(count, *shape)
        after, before = second.sums - moved, first.sums + moved
        gaps = np.abs(total(after, second.categories)[name] - total(before, first.categories)[name])
        # equal but for rounding counts as equal
        as_large += int(np.sum(gaps >= found - 1e-9))
    return (1 + as_large) / (1 + FLIPS)
