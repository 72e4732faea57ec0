"""Two runs of a benchmark on the same items: the paired difference, whether it is more than chance, and what flipped.

    python jobs/evaluate.py --compare out/before out/after

What this does *not* do: run or score anything; it reads the tables of scores.
"""

import html
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llava_core.errors import ConfigError
from pipelines.cli import Say, render_lines
from pipelines.evaluation.benchmarks import BENCHMARKS, Benchmark
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import Item, Judged
from pipelines.evaluation.statistics import Difference, compare
from pipelines.evaluation.totals import tally
from pipelines.page import counts, heading, page, table
from pipelines.storage import exists, is_local, join_uri, local_path, read_json, write_bytes, write_json
from pipelines.tables import dataset, open_table

MOST_FLIPPED = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One benchmark in two runs."""

    benchmark: Benchmark
    """Which."""
    score: str
    """Name of its main score."""
    difference: Difference
    """Second run less first."""
    pairs: tuple[tuple[Judged, Judged], ...]
    """Items that both have, in the benchmark's order."""
    only: tuple[int, int]
    """Items that only the first, only the second has: left out."""

    @property
    def flipped(self) -> list[tuple[Judged, Judged]]:
        """Items whose scores differ, those that lost most first."""
        changed = [pair for pair in self.pairs if pair[0].score != pair[1].score]
        return sorted(changed, key=lambda pair: pair[1].score - pair[0].score)


def compare_runs(benchmark: Benchmark, first: Sequence[Judged], second: Sequence[Judged]) -> Comparison:
    """Compare two runs on the items that both have.

    Args:
        benchmark: of both.
        first, second: scored items.

    Raises:
        ConfigError: they have no item in common, or no whole group where these are scored, or an item's references
            differ: other data.
    """
    after = {one.item.item_id: one for one in second}
    pairs = tuple(_of_one_size(one, after[one.item.item_id]) for one in first if one.item.item_id in after)
    if not pairs:
        raise ConfigError(f"--compare: the two runs of {benchmark.name} have no scored item in common")
    changed = [one.item.item_id for one, other in pairs if one.item.references != other.item.references]
    if changed:
        raise ConfigError(f"--compare: {len(changed)} items of {benchmark.name} have other references: other data?")
    tallies = [tally([pair[place] for pair in pairs], benchmark.metric) for place in (0, 1)]
    score, value = next(iter(benchmark.metric.total(tallies[0].sums, tallies[0].categories).items()))
    if not np.isfinite(value):
        raise ConfigError(f"--compare: no group of items of {benchmark.name} is whole in both runs")
    return Comparison(
        benchmark=benchmark,
        score=score,
        difference=compare(tallies[0], tallies[1], benchmark.metric.total, score),
        pairs=pairs,
        only=(len(first) - len(pairs), len(second) - len(pairs)),
    )


def _of_one_size(one: Judged, other: Judged) -> tuple[Judged, Judged]:
    """A pair whose group has as many items in both runs: what one of them lacks, both do."""
    if one.item.group_size == other.item.group_size:
        return one, other
    size = max(one.item.group_size, other.item.group_size)
    first, second = (replace(each, item=replace(each.item, group_size=size)) for each in (one, other))
    return first, second


def read_judged(uri: str) -> list[Judged]:
    """Read a table of scores; items without a score are left out.

    Raises:
        ConfigError: no table is there.
    """
    opened = open_table(uri)
    if opened is None:
        raise ConfigError(f"--compare: no table of scores at {uri}")
    rows = dataset(opened).to_table().sort_by("place").to_pylist()
    sizes = Counter(row["unit"] for row in rows if row["values"] is not None or row["status"] == "rejected")
    return [_judged(row, sizes[row["unit"]]) for row in rows if row["values"] is not None]


def _judged(row: dict[str, Any], group_size: int) -> Judged:
    item = Item(
        item_id=row["uid"],
        image=row["uri"],
        question=row["question"],
        prompt=row["prompt"],
        references=tuple(json.loads(row["references"])),
        category=row["category"],
        group=row["unit"],
        group_size=group_size,
        facts=json.loads(row["facts"]),
    )
    return Judged(item=item, reply=row["reply"], answer=row["answer"], values=tuple(json.loads(row["values"])))


def say_comparison(config: EvaluateConfig, say: Say) -> None:
    """Compare the benchmarks that two output folders have in common; write `comparison.json` and `comparison.html`.

    Args:
        config: names the folders.
        say: where lines for people go.

    Raises:
        ConfigError: they have no benchmark in common, or another split of it.
    """
    before, after = config.compare
    found = []
    for benchmark in BENCHMARKS:
        uris = [join_uri(folder, benchmark.name) for folder in (before, after)]
        if all(exists(join_uri(uri, "results.json")) for uri in uris):
            splits = [read_json(join_uri(uri, "results.json"))["settings"]["split"] for uri in uris]
            if splits[0] != splits[1]:
                raise ConfigError(f"--compare: {benchmark.name} is of {splits[0]} and of {splits[1]}")
            judged = [read_judged(join_uri(uri, "scores")) for uri in uris]
            found.append(compare_runs(benchmark, judged[0], judged[1]))
    if not found:
        raise ConfigError(f"--compare: {before} and {after} have no scored benchmark in common")
    for one in found:
        say(render_lines({one.benchmark.title: comparison_line(one), **_left_out(one)}))
    values = {one.benchmark.name: comparison_json(one) for one in found}
    write_json(join_uri(config.output, "comparison.json"), values)
    uri = join_uri(config.output, "comparison.html")
    write_bytes(uri, render_comparison(found, before, after).encode())
    say(render_lines({"comparison": f"file://{local_path(uri)}" if is_local(uri) else uri}))


def comparison_line(one: Comparison) -> str:
    """The difference in a line."""
    gap = one.difference
    flips = one.flipped
    better = sum(pair[1].score > pair[0].score for pair in flips)
    return (
        f"{one.score} {gap.first:.1f} → {gap.second:.1f}, {gap.second - gap.first:+.1f} "
        f"[{gap.low:+.1f}, {gap.high:+.1f}], p = {gap.p_value:.4f}; "
        f"of {len(one.pairs):,} items {better:,} better, {len(flips) - better:,} worse"
    )


def _left_out(one: Comparison) -> dict[str, str]:
    if not any(one.only):
        return {}
    return {"  left out": f"{one.only[0]:,} items that only the first has, {one.only[1]:,} that only the second has"}


def comparison_json(one: Comparison) -> dict[str, Any]:
    """A comparison as plain values."""
    gap = one.difference
    return {
        "score": one.score,
        "first": gap.first,
        "second": gap.second,
        "difference": {"value": gap.second - gap.first, "low": gap.low, "high": gap.high},
        "p_value": gap.p_value,
        "items": len(one.pairs),
        "only_first": one.only[0],
        "only_second": one.only[1],
        "flipped": [
            {"item": before.item.item_id, "first": before.score, "second": after.score} for before, after in one.flipped
        ],
    }


def render_comparison(found: Sequence[Comparison], before: str, after: str) -> str:
    """The page of a comparison: differences, and the items that flipped, those that lost most first."""
    parts = [f'<h1>Comparison</h1><p class="lead">{html.escape(before)} and {html.escape(after)}</p>']
    for one in found:
        gap = one.difference
        why = f"{comparison_line(one)}. The p-value swaps the runs' answers at random, image by image."
        rows = [
            [html.escape(text) for text in _flip_cells(first, second)] for first, second in one.flipped[:MOST_FLIPPED]
        ]
        head = ["Item", "Question", "Wanted", "First", "Second", "Change"]
        parts += [
            heading(one.benchmark.title, why),
            counts({"first": f"{gap.first:.1f}", "second": f"{gap.second:.1f}", "p": f"{gap.p_value:.4f}"}),
            table(head, rows, numbers=[5]) if rows else "<p>No item flipped.</p>",
        ]
    return page("Comparison", parts)


def _flip_cells(first: Judged, second: Judged) -> list[str]:
    wanted = " | ".join(list(dict.fromkeys(first.item.references))[:4])
    answers = [one.answer if one.answer is not None else one.reply[:100] for one in (first, second)]
    return [first.item.item_id, first.item.question, wanted, *answers, f"{second.score - first.score:+.2f}"]
