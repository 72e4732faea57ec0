"""From replies to a result: which items have one, what was answered, the scores and how sure they are.

    items + replies ─ join ─▶ judged + gaps ─ result ─▶ results.json
                                        └─ result_rows ─▶ the table

A result says "complete" only if every item of the split has a reply. What this does *not* do: read or write files
(`flow`), draw the page (`results_page`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from llava_core.errors import ConfigError
from pipelines.evaluation.benchmarks import Benchmark, Parser
from pipelines.evaluation.items import Item, Judged
from pipelines.evaluation.statistics import Interval, Tally, bootstrap
from pipelines.evaluation.totals import tally
from pipelines.fragments import printable
from schemas.result import RESULT, ResultReason

MOST_NAMED = 5
"""Ids that are named of each kind of trouble; all of them are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back for one id."""

    item_id: str
    """The item that it says it is about."""
    text: str | None = None
    """The reply; None if there is none."""
    error: str | None = None
    """Why there is none."""
    error_detail: str | None = None
    """For people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """An item without a reply that can be scored."""

    item: Item
    """The item."""
    error: str
    """Reason code."""
    error_detail: str
    """For people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """Items and replies, brought together."""

    pairs: tuple[tuple[Item, str], ...]
    """Items with their replies, in the benchmark's order."""
    gaps: tuple[Gap, ...]
    """Items without."""
    unknown: tuple[str, ...]
    """Ids of replies that are no item's."""
    repeated: tuple[str, ...]
    """Ids that came twice with the same reply, which counts once."""


def check_ids(items: Sequence[Item]) -> None:
    """Hold a benchmark's files to ids that are unique.

    Raises:
        ConfigError: there is no item, or two have one id; naming some.
    """
    if not items:
        raise ConfigError("the benchmark's files hold no item of this split")
    doubled = [name for name, count in Counter(item.item_id for item in items).items() if count > 1]
    if doubled:
        raise ConfigError(f"{len(doubled)} ids of the benchmark's files are taken twice: {_some(doubled)}")


def join(items: Sequence[Item], replies: Iterable[Reply]) -> Joined:
    """Bring replies to their items, which then know the size of their group.

    Args:
        items: of one split, ids unique; groups whole.
        replies: in any order.

    Raises:
        ConfigError: no id is any item's: the answers are of another split or benchmark.
    """
    known = {item.item_id for item in items}
    found: dict[str, Reply] = {}
    unknown: dict[str, None] = {}
    repeated: dict[str, None] = {}
    clashing: set[str] = set()
    for reply in replies:
        if reply.item_id not in known:
            unknown[reply.item_id] = None
        elif reply.item_id not in found:
            found[reply.item_id] = reply
        elif found[reply.item_id].text == reply.text:
            repeated[reply.item_id] = None
        else:
            clashing.add(reply.item_id)
    if unknown and not found:
        raise ConfigError(
            f"none of the {len(unknown)} answers is about an item of this split (first ids: {_some(unknown)}; expected "
            f"ids like {_some(known)}): another split or benchmark?"
        )
    sizes = Counter(item.group for item in items)
    pairs, gaps = [], []
    for item in items:
        one = found.get(item.item_id)
        if one is not None and one.text is not None and item.item_id not in clashing:
            pairs.append((replace(item, group_size=sizes[item.group]) if item.group else item, one.text))
        else:
            gaps.append(_gap(item, one, item.item_id in clashing))
    return Joined(pairs=tuple(pairs), gaps=tuple(gaps), unknown=tuple(unknown), repeated=tuple(repeated))


def _gap(item: Item, reply: Reply | None, clashing: bool) -> Gap:
    if clashing:
        return Gap(item=item, error=ResultReason.TWO_ANSWERS, error_detail="two different answers have this id")
    if reply is None:
        return Gap(item=item, error=ResultReason.NOT_ANSWERED, error_detail="no answer has this id")
    return Gap(item=item, error=reply.error or ResultReason.NOT_ANSWERED, error_detail=reply.error_detail or "")


def _some(ids: Iterable[str]) -> str:
    names = sorted(ids)
    more = f" and {len(names) - MOST_NAMED} more" if names[MOST_NAMED:] else ""
    return ", ".join(printable(repr(name), 60) for name in names[:MOST_NAMED]) + more


def judge_items(benchmark: Benchmark, parser: Parser, pairs: Sequence[tuple[Item, str]]) -> list[Judged]:
    """Read and score replies; items whose references nobody has, or that do not count, get no values.

    Args:
        benchmark: says how.
        parser: reads a reply.
        pairs: items and replies.
    """
    answers = [parser(item, reply) for item, reply in pairs]
    counted = [(item, answer) for (item, _), answer in zip(pairs, answers, strict=True) if item.counts]
    values: Iterator[tuple[float, ...]] = iter(())
    if not benchmark.judge and all(item.references for item, _ in counted):
        values = iter(benchmark.metric.values([item for item, _ in counted], [answer for _, answer in counted]))
    return [
        Judged(item=item, reply=reply, answer=answer, values=next(values, ()) if item.counts else ())
        for (item, reply), answer in zip(pairs, answers, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a benchmark came to."""

    scores: Mapping[str, Interval]
    """By name, the benchmark's own first; those of groups only where one is whole; empty if nothing could be scored."""
    categories: Mapping[str, tuple[int, float]]
    """Category → items and the main score of them alone."""
    constant: tuple[str, float] | None
    """The answer that is right most often, and the main score of giving always that."""
    items: int
    """Of the split, before --limit."""
    scored: int
    """With a reply."""
    gaps: Mapping[str, int] = field(default_factory=dict)
    """Items without, by reason."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Trouble, with some of the ids."""
    unread: int = 0
    """Replies that gave no answer."""

    @property
    def complete(self) -> bool:
        """Whether this is the score of the whole split."""
        return self.scored == self.items and bool(self.scores)


def make_result(benchmark: Benchmark, judged: Sequence[Judged], joined: Joined, total_items: int) -> Result:
    """Compute the scores of what was answered.

    Args:
        benchmark: says how.
        judged: those that count with values, or all without.
        joined: what they come from.
        total_items: of the split.
    """
    gaps = Counter(gap.error for gap in joined.gaps)
    named = {f"items without a reply: {name}": _some(_ids(joined, name)) for name in gaps}
    if joined.unknown:
        named[f"answers to ids that are no item's: {len(joined.unknown)}"] = _some(joined.unknown)
    if joined.repeated:
        named[f"answers that came twice, counted once: {len(joined.repeated)}"] = _some(joined.repeated)
    known = [one for one in judged if one.values]
    scores: Mapping[str, Interval] = {}
    categories: dict[str, tuple[int, float]] = {}
    if known:
        summed = tally(known, benchmark.metric)
        found = bootstrap(summed, benchmark.metric.total)
        scores = {name: one for name, one in found.items() if np.isfinite(one.value)}
        categories = _by_category(benchmark, known, summed)
    return Result(
        scores=scores,
        categories=categories,
        constant=_constant(benchmark, known),
        items=total_items,
        scored=sum(bool(one.values) or not one.item.counts for one in judged) if known else len(judged),
        gaps=dict(gaps.most_common()),
        named=named,
        unread=sum(one.answer is None for one in judged),
    )


def _ids(joined: Joined, error: str) -> list[str]:
    return [gap.item.item_id for gap in joined.gaps if gap.error == error]


def _by_category(benchmark: Benchmark, judged: Sequence[Judged], summed: Tally) -> dict[str, tuple[int, float]]:
    counts = Counter(one.item.category for one in judged)
    found = {}
    for place, name in enumerate(summed.categories):
        score = next(iter(benchmark.metric.total(summed.sums[[place]], [name]).values()))
        found[name] = (counts[name], float(score))
    return found if len(found) > 1 else {}


def _constant(benchmark: Benchmark, judged: Sequence[Judged]) -> tuple[str, float] | None:
    """The best that a model can do that never looks, by its most frequent reference."""
    if benchmark.judge or not judged or benchmark.metric.values is None or len(judged[0].values) > 1:
        return None
    answer = Counter(one.item.references[0] for one in judged).most_common(1)[0][0]
    items = [one.item for one in judged]
    values = benchmark.metric.values(items, [answer] * len(items))
    always = [
        Judged(item=item, reply=answer, answer=answer, values=value) for item, value in zip(items, values, strict=True)
    ]
    summed = tally(always, benchmark.metric)
    value = float(next(iter(benchmark.metric.total(summed.sums, summed.categories).values())))
    return (answer, value) if np.isfinite(value) else None


def result_rows(
    benchmark: Benchmark,
    split: str,
    judged: Sequence[Judged],
    gaps: Sequence[Gap],
    *,
    order: Sequence[str],
    run_id: str,
) -> pa.Table:
    """Return RESULT: a row for each item, in the benchmark's order.

    Args:
        benchmark, split: written into each row.
        judged: items with a reply.
        gaps: items without.
        order: ids of all items.
        run_id: of the scores.
    """
    places = {name: place for place, name in enumerate(order)}
    rows = [
        {
            **_item_columns(one.item),
            "status": "ok",
            "reply": one.reply,
            "answer": one.answer,
            "score": one.score if one.values else None,
            "values": json.dumps(one.values) if one.values else None,
        }
        for one in judged
    ]
    rows += [
        {**_item_columns(gap.item), "status": "rejected", "error": gap.error, "error_detail": gap.error_detail}
        for gap in gaps
    ]
    same = {"fragment_id": "items", "run_id": run_id, "benchmark": benchmark.name, "split": split}
    ordered = sorted(rows, key=lambda row: places[row["uid"]])
    return pa.Table.from_pylist([{**row, **same, "place": places[row["uid"]]} for row in ordered], schema=RESULT)


def _item_columns(item: Item) -> dict[str, Any]:
    return {
        "uid": item.item_id,
        "uri": "data:" if item.image.startswith("data:") else item.image,
        "category": item.category,
        "unit": item.unit if not item.unit.startswith("data:") else item.item_id,
        "question": item.question,
        "prompt": item.prompt,
        "references": json.dumps(item.references, ensure_ascii=False),
        "facts": json.dumps(dict(item.facts), ensure_ascii=False, sort_keys=True),
    }


def finite(value: float) -> float | None:
    """A number as JSON has it."""
    return float(value) if np.isfinite(value) else None
