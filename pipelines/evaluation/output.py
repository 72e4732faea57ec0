"""What an evaluation leaves for people and programs: `results.json`, and the table at the end of the job.

What this does *not* do: draw the page (`results_page`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines import record
from pipelines.cli import Say, render_lines
from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import Judged
from pipelines.evaluation.scoring import Gap, Result, finite
from pipelines.storage import is_local, join_uri, local_path, write_bytes, write_json

UNTRAINED = "model is not trained"
"""The setting of a result whose model says so of itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One benchmark, run and scored."""

    benchmark: Benchmark
    """Which."""
    split: str
    """Which part of it."""
    folder: str
    """Where its tables are."""
    image_root: str
    """What images are named below."""
    result: Result
    """What it came to."""
    judged: tuple[Judged, ...]
    """Items with a reply, in the benchmark's order."""
    gaps: tuple[Gap, ...]
    """Items without."""
    settings: Mapping[str, str]
    """What decides the score, for people."""


def result_json(outcome: Outcome) -> dict[str, Any]:
    """A result as plain values; scores of a partial run have a key of their own, so that nobody takes them for full.

    Args:
        outcome: of one benchmark.
    """
    result = outcome.result
    scores = {
        name: {"value": finite(one.value), "low": finite(one.low), "high": finite(one.high)}
        for name, one in result.scores.items()
    }
    categories = {name: {"items": count, "value": finite(score)} for name, (count, score) in result.categories.items()}
    constant = None if result.constant is None else {"answer": result.constant[0], "value": finite(result.constant[1])}
    return {
        "benchmark": outcome.benchmark.name,
        "title": outcome.benchmark.title,
        "complete": result.complete,
        "scores" if result.complete else "partial_scores": scores,
        "main": next(iter(scores), None),
        "categories": categories,
        "constant_answer": constant,
        "items": result.items,
        "items_scored": result.scored,
        "items_without": dict(result.gaps),
        "replies_without_answer": result.unread,
        "trouble": dict(result.named),
        "published": dict(outcome.benchmark.published),
        "note": outcome.benchmark.note,
        "settings": dict(outcome.settings),
        "tables": {"answers": join_uri(outcome.folder, "answers"), "scores": join_uri(outcome.folder, "scores")},
    }


def write_outcomes(
    config: EvaluateConfig, outcomes: Sequence[Outcome], synonyms: Mapping[str, str] | None = None
) -> None:
    """Write `results.json` for each benchmark and for all, and the page.

    Args:
        config: of the job.
        outcomes: of its benchmarks.
        synonyms: what `config.synonyms` holds.
    """
    from pipelines.evaluation.results_page import render_results

    values = [result_json(outcome) for outcome in outcomes]
    for outcome, value in zip(outcomes, values, strict=True):
        write_json(join_uri(outcome.folder, "results.json"), value)
    whole = {"results": values, "versions": record.run_versions(), "finished": record.now_utc()}
    write_json(join_uri(config.output, "results.json"), whole)
    page = render_results(outcomes, hallucination="hallucination" in config.report, synonyms=synonyms)
    write_bytes(join_uri(config.output, "results.html"), page.encode())


def score_line(result: Result) -> str:
    """The main score with its interval, for one line.

    Example:
        >>> from pipelines.evaluation.statistics import Interval
        >>> scores = {"F1": Interval(value=86.14, low=85.0, high=87.3)}
        >>> score_line(Result(scores=scores, categories={}, constant=None, items=9, scored=9))
        'F1 86.1 [85.0, 87.3]'
        >>> score_line(Result(scores=scores, categories={}, constant=None, items=9, scored=3))
        'PARTIAL, 3 of 9 items: F1 86.1 [85.0, 87.3]'
    """
    if not result.scores:
        return f"no score: {result.scored:,} of {result.items:,} items answered, none can be scored here"
    name, one = next(iter(result.scores.items()))
    partial = "" if result.complete else f"PARTIAL, {result.scored:,} of {result.items:,} items: "
    return f"{partial}{name} {one.value:.1f} [{one.low:.1f}, {one.high:.1f}]"


def say_outcomes(config: EvaluateConfig, outcomes: Sequence[Outcome], say: Say) -> None:
    """Print the scores, what decided them, and where everything is."""
    for outcome in outcomes:
        lines = {outcome.benchmark.title: score_line(outcome.result)}
        rest = list(outcome.result.scores.items())[1:]
        lines |= {f"  {name}": f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]" for name, one in rest}
        if outcome.result.constant is not None:
            answer, score = outcome.result.constant
            lines[f"  always {answer!r}"] = f"{score:.1f}"
        if outcome.benchmark.published:
            lines["  published"] = ", ".join(f"{name} {one:g}" for name, one in outcome.benchmark.published.items())
        lines |= {f"  {name}": value for name, value in outcome.settings.items()}
        lines |= {f"  {reason}": f"{count:,} items" for reason, count in outcome.result.gaps.items()}
        if outcome.result.unread:
            lines["  no answer in the reply"] = f"{outcome.result.unread:,} items"
        lines |= {f"  {what}": ids for what, ids in outcome.result.named.items()}
        say(render_lines(lines))
    page = join_uri(config.output, "results.html")
    say(render_lines({"results": f"file://{local_path(page)}" if is_local(page) else page}))
