"""Which sample comes when: one seeded global order, the same for any number of workers, and where a run stands in it.

    units, shuffled ─▶ windows of units, their rows shuffled together ─▶ inputs merged by weight ─▶ Order
    Order + Cursor (epoch, position) ─ StepStream ─▶ batch_size usable samples ─▶ the next Cursor

Every worker walks the whole order (texts and sizes alone) and so knows each step's samples, lengths and costs before
anything is decoded; nothing about the order has to be sent. A step takes exactly `batch_size` usable samples and packs
only these, so the cursor is all that a checkpoint has to hold: no sample waits in a buffer between steps.

What this does *not* do: pack (`packing`), load images (`loader`).
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_core.errors import ConfigError
from pipelines.training.samples import Sample, Sampler, Unusable
from pipelines.training.sources import Source, TrainRow

WINDOW_UNITS = 8
"""Units whose rows are shuffled together; as many are held at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Where a stage stands in its data."""

    epoch: int = 0
    """Times that all samples have been seen."""
    position: int = 0
    """Samples of this epoch that have been taken, unusable ones among them."""
    taken: int = 0
    """Samples that have been taken in all."""
    used: int = 0
    """Of these, those that a step took; their images may still have been unreadable."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Of these, those that could not be, by reason."""


@dataclass(frozen=True, slots=True)
class Place:
    """One sample of an order."""

    source: int
    """Which input."""
    unit: int
    """Which unit of it."""
    row: int
    """Which row of that."""


class Order:
    """The order of one epoch.

    Args:
        units: rows of each unit, of each input.
        weights: of each input: times that each of its samples is seen in an epoch, fractions allowed.
        seed: of the run.
        epoch: which epoch.

    Example:
        >>> order = Order([(2, 2), (4,)], (1.0, 0.5), seed=0, epoch=0)
        >>> len(order), sum(order[i].source for i in range(6))
        (6, 2)
    """

    def __init__(self, units: Sequence[Sequence[int]], weights: Sequence[float], *, seed: int, epoch: int) -> None:
        columns: list[NDArray[np.int64]] = []
        keys: list[NDArray[np.float64]] = []
        for source, (rows, weight) in enumerate(zip(units, weights, strict=True)):
            part = _epoch_of(rows, weight, np.random.default_rng([seed, epoch, source]))
            columns.append(np.column_stack([np.full(len(part), source), part]))
            # Each input is spread evenly over the epoch, so that every stretch has the mixture's shares.
            keys.append((np.arange(len(part)) + 0.5) / max(len(part), 1))
        merged = np.concatenate(columns)
        self._rows = merged[np.argsort(np.concatenate(keys), kind="stable")]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Place:
        source, unit, row = self._rows[position].tolist()
        return Place(source, unit, row)


def epoch_length(units: Sequence[Sequence[int]], weights: Sequence[float]) -> int:
    """Samples of an epoch.

    Args:
        units: rows of each unit, of each input.
        weights: of each input.

    Example:
        >>> epoch_length([(2, 2), (4,)], (1.0, 0.5))
        6
    """
    rows = [sum(one) for one in units]
    return sum(int(w) * n + round((w - int(w)) * n) for n, w in zip(rows, weights, strict=True))


def _epoch_of(rows: Sequence[int], weight: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """int64[n, 2]: (unit, row) of one input's samples, whole passes first and then the part that is left."""
    passes = [_one_pass(rows, rng) for _ in range(int(weight))]
    left = round((weight - int(weight)) * sum(rows))
    passes += [_one_pass(rows, rng)[:left]] if left else []
    return np.concatenate(passes) if passes else np.empty((0, 2), dtype=np.int64)


def _one_pass(rows: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    units = rng.permutation(len(rows))
    parts = []
    for start in range(0, len(units), WINDOW_UNITS):
        window = units[start : start + WINDOW_UNITS].tolist()
        pairs = np.concatenate([np.column_stack([np.full(rows[u], u), np.arange(rows[u])]) for u in window])
        parts.append(rng.permutation(pairs))
    return np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.int64)


class StepStream:
    """The samples of one step after the other, from a cursor on.

    Args:
        sources: the inputs, opened.
        weights: of each; () for 1 each.
        sampler: makes samples of rows.
        batch_size: usable samples of a step.
        epochs: when the data ends; a fraction ends within an epoch.
        seed: of the run.

    Raises:
        ConfigError: another number of weights than of inputs.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        sampler: Sampler,
        *,
        batch_size: int,
        epochs: float,
        seed: int,
    ) -> None:
        if weights and (len(weights) != len(sources) or min(weights) < 0 or not sum(weights)):
            raise ConfigError(f"weights {tuple(weights)} for {len(sources)} inputs; expected one for each, at least 0")
        self.sources, self.sampler = sources, sampler
        self._weights = tuple(weights) or (1.0,) * len(sources)
        self._batch_size, self._seed = batch_size, seed
        self._order: tuple[int, Order] | None = None
        self._held: OrderedDict[tuple[int, int], Sequence[TrainRow]] = OrderedDict()
        self.total = round(epoch_length([source.units for source in sources], self._weights) * epochs)
        """Samples until the data ends."""

    def order(self, epoch: int) -> Order:
        """The order of an epoch; the last one asked for is kept."""
        if self._order is None or self._order[0] != epoch:
            units = [source.units for source in self.sources]
            self._order = epoch, Order(units, self._weights, seed=self._seed, epoch=epoch)
        return self._order[1]

    def step(self, cursor: Cursor) -> tuple[list[Sample], list[Unusable], Cursor]:
        """Take the next step's samples; fewer than `batch_size` only where the data ends.

        Args:
            cursor: where the last step ended.

        Returns:
            Samples, in order; those that could not be used; and where this step ends.
        """
        samples: list[Sample] = []
        unusable: list[Unusable] = []
        epoch, position, taken = cursor.epoch, cursor.position, cursor.taken
        while len(samples) < self._batch_size and taken < self.total:
            if position == len(self.order(epoch)):
                epoch, position = epoch + 1, 0
            made = self.sampler(self._row(self.order(epoch)[position]))
            position, taken = position + 1, taken + 1
            if isinstance(made, Unusable):
                unusable.append(made)
            else:
                samples.append(made)
        rejected = dict(cursor.rejected)
        for one in unusable:
            rejected[one.reason] = rejected.get(one.reason, 0) + 1
        after = Cursor(epoch=epoch, position=position, taken=taken, used=cursor.used + len(samples), rejected=rejected)
        return samples, unusable, after

    def steps(self, cursor: Cursor) -> Iterator[tuple[list[Sample], list[Unusable], Cursor]]:
        """All steps that are left; the last may have no sample at all, where only unusable ones were left."""
        while cursor.taken < self.total:
            step = self.step(cursor)
            yield step
            cursor = step[2]

    def _row(self, place: Place) -> TrainRow:
        key = (place.source, place.unit)
        rows = self._held.get(key)
        if rows is None:
            rows = self.sources[place.source].read(place.unit)
            self._held[key] = rows
            while len(self._held) > 2 * WINDOW_UNITS * len(self.sources):
                self._held.popitem(last=False)
        return rows[place.row]


def cursor_from(values: Mapping[str, Any]) -> Cursor:
    """Read a cursor back from JSON values."""
    return Cursor(**values)
