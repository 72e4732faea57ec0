"""The order of an evaluation, on one screen; who answers is handed in, since rooms meet in a table.

    official files ─ read ─▶ items ─▶ images.jsonl, questions.jsonl ─ ask ─▶ answers (table)
    answers ─ join ─▶ judged ─▶ scores (table), submission, results.json, results.html

What this does *not* do: run a model (`jobs/evaluate.py` lends the answering job).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from llava_core.errors import ConfigError
from pipelines import record, upkeep
from pipelines.cli import Say
from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import Item, Judged
from pipelines.evaluation.judge import Judge, review_items
from pipelines.evaluation.objects import read_synonyms
from pipelines.evaluation.output import UNTRAINED, Outcome, say_outcomes, write_outcomes
from pipelines.evaluation.scoring import (
    Gap,
    Joined,
    Reply,
    check_ids,
    join,
    judge_items,
    make_result,
    result_rows,
)
from pipelines.evaluation.sources import Source
from pipelines.parts import write_fragment
from pipelines.storage import exists, join_uri, read_bytes, write_bytes
from pipelines.tables import dataset, open_table
from schemas.result import RESULT, ResultReason

VERSION = 1
"""Part of the scores' identity: raise it whenever a change gives the same answers another score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """What is to be answered, and where the answers go."""

    images: str
    """JSONL corpus, a row for each image."""
    questions: str
    """JSONL file of questions, each bound to a row of it."""
    image_root: str
    """Folder that the rows' paths start from."""
    answers: str
    """The table."""
    max_new_tokens: int
    """Most tokens of a reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the answering job did."""

    run_id: str
    """Of the rows in the table."""
    trained: bool
    """False where the model's weights are random, so that its scores are those of noise."""


Ask = Callable[[Asking], Asked | None]
"""Answers all questions into the table; None after --plan."""
Draw = Callable[[Path, str, int], None]
"""Writes drawings of a split into a folder: so many."""


def run_evaluation(config: EvaluateConfig, ask: Ask, draw: Draw, say: Say) -> None:
    """Run benchmarks, score them, and write tables, `results.json` and `results.html`.

    Args:
        config: of the job.
        ask: the answering job.
        draw: the project's own drawings.
        say: where lines for people go.

    Raises:
        ConfigError: a file is missing or of another split.
        JudgeError: the judge does not answer.
    """
    synonyms = None if config.synonyms is None else read_synonyms(config.synonyms)
    read = [(benchmark, source, _read(benchmark, source)) for benchmark, source in _sources(config, draw)]
    outcomes = []
    for benchmark, source, items in read:
        say(f"{benchmark.title} ({source.split}): {len(items):,} items")
        outcome = _evaluate(config, benchmark, source, items, ask)
        if outcome is not None:
            outcomes.append(outcome)
    if outcomes:
        write_outcomes(config, outcomes, synonyms)
        say_outcomes(config, outcomes, say)


def _sources(config: EvaluateConfig, draw: Draw) -> list[tuple[Benchmark, Source]]:
    """Find each benchmark's folder, and draw what has none."""
    found = []
    for benchmark in config.benchmarks:
        split = config.split or benchmark.splits[0]
        folder = config.folders.get(benchmark.name)
        if folder is None:
            place = Path(config.output) / "drawings" / f"{split}-{config.num_drawings}"
            draw(place, split, config.num_drawings)
            folder = str(place)
        found.append((benchmark, Source(benchmark=benchmark.name, folder=folder, split=split, ocr=config.ocr_tokens)))
    return found


def _read(benchmark: Benchmark, source: Source) -> list[Item]:
    items = benchmark.read(source)
    try:
        check_ids(items)
    except ConfigError as error:
        raise ConfigError(f"{benchmark.name} ({source.split}) in {source.folder}: {error}") from error
    return items


def _evaluate(
    config: EvaluateConfig, benchmark: Benchmark, source: Source, items: Sequence[Item], ask: Ask
) -> Outcome | None:
    folder = join_uri(config.output, benchmark.name)
    chosen = _limited(items, config.limit)
    root = config.images or source.folder
    replies, facts = _replies(config, benchmark, folder, chosen, root, ask)
    if replies is None:
        return None
    joined = join(chosen, replies)
    parser = config.parser or next(iter(benchmark.parsers))
    judged, gaps = _judge(config, benchmark, parser, joined, Path(folder))
    joined = Joined(pairs=joined.pairs, gaps=gaps, unknown=joined.unknown, repeated=joined.repeated)
    result = make_result(benchmark, judged, joined, len(items))
    settings = facts | {
        "split": source.split,
        "suffix": benchmark.suffix,
        "parser": parser,
        **({"OCR tokens in the prompt": "yes" if source.ocr else "no"} if benchmark.ocr else {}),
        **({"judge": config.judge_model if config.judge_url else "none"} if benchmark.judge else {}),
    }
    outcome = Outcome(
        benchmark=benchmark,
        split=source.split,
        folder=folder,
        image_root=root,
        result=result,
        judged=tuple(judged),
        gaps=tuple(gaps),
        settings=settings,
    )
    _write_scores(outcome, [item.item_id for item in chosen])
    if benchmark.submission is not None and result.scored == len(items):
        for name, data in benchmark.submission(judged).items():
            write_bytes(join_uri(folder, name), data)
    return outcome


def _limited(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """At most so many items, evenly spread over units, so that groups stay whole."""
    if limit is None or limit >= len(items):
        return items
    units: dict[str, list[Item]] = {}
    for item in items:
        units.setdefault(item.unit, []).append(item)
    names = list(units)
    share = max(1, len(names) * limit // len(items))
    return [item for place in range(share) for item in units[names[place * len(names) // share]]]


def _replies(
    config: EvaluateConfig, benchmark: Benchmark, folder: str, items: Sequence[Item], root: str, ask: Ask
) -> tuple[list[Reply] | None, dict[str, str]]:
    """Answers of a file, or of a model; None after --plan; and the settings that decide them."""
    if config.answers is not None:
        return _read_answers(config.answers), {"answers": config.answers}
    most = config.max_new_tokens or benchmark.max_new_tokens
    asking = _write_questions(folder, items, root, most)
    done = ask(asking)
    if done is None:
        return None, {}
    table = open_table(asking.answers)
    assert table is not None, "the answering job has made it"
    wanted = ds.field("run_id") == done.run_id
    columns = ["question_id", "text", "error", "error_detail", "model", "model_revision"]
    asked = {item.item_id for item in items}
    rows = dataset(table).to_table(columns=columns, filter=wanted).to_pylist()
    tiles = "all" if config.max_tiles is None else f"at most {config.max_tiles}"
    facts = {
        "model": rows[0]["model"] if rows else config.model,
        "model revision": rows[0]["model_revision"] if rows else "",
        "tiles": f"resolution {config.resolution}, {tiles}",
        "decoding": f"greedy, at most {most} tokens",
        "answers run": done.run_id,
    }
    if not done.trained:
        facts |= {UNTRAINED: "its weights are random and its replies are noise"}
    replies = [
        Reply(item_id=row["question_id"], text=row["text"], error=row["error"], error_detail=row["error_detail"])
        for row in rows
        # the run may hold rows of earlier calls with other limits
        if row["question_id"] in asked
    ]
    return replies, facts


def _write_questions(folder: str, items: Sequence[Item], root: str, most: int) -> Asking:
    """Write the corpus of images and the questions; files that would not change are left alone."""
    images = join_uri(str(Path(folder).absolute()), "images.jsonl")
    questions = join_uri(str(Path(folder).absolute()), "questions.jsonl")
    places = {image: place for place, image in enumerate(dict.fromkeys(item.image for item in items))}
    _write_changed(images, "".join(json.dumps({"image": image}) + "\n" for image in places))
    lines = (
        {"question_id": item.item_id, "question": item.prompt, "uri": f"{images}#{places[item.image]}"}
        for item in items
    )
    _write_changed(questions, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    answers = join_uri(str(Path(folder).absolute()), "answers")
    return Asking(images=images, questions=questions, image_root=root, answers=answers, max_new_tokens=most)


def _write_changed(uri: str, text: str) -> None:
    if not exists(uri) or read_bytes(uri) != text.encode():
        write_bytes(uri, text.encode())


def _read_answers(uri: str) -> list[Reply]:
    """A JSONL file of answers, as LLaVA's evaluation writes them; "text" may be "answer" or "prediction"."""
    try:
        lines = read_bytes(uri).splitlines()
    except OSError as error:
        raise ConfigError(f"--answers {uri}: {error}") from error
    replies = []
    for number, line in enumerate(line for line in lines if line.strip()):
        try:
            row: Mapping[str, Any] = json.loads(line)
            text = next(row[name] for name in ("text", "answer", "prediction") if name in row)
            replies.append(Reply(item_id=str(row["question_id"]), text=str(text)))
        except (ValueError, KeyError, StopIteration, TypeError) as error:
            raise ConfigError(f"--answers {uri}: line {number} is no object with question_id and text") from error
    return replies


def _judge(
    config: EvaluateConfig, benchmark: Benchmark, parser: str, joined: Joined, folder: Path
) -> tuple[list[Judged], tuple[Gap, ...]]:
    """Score replies, by the benchmark's metric or a judge; without a judge's URL they stay without a score."""
    judged = judge_items(benchmark, benchmark.parsers[parser], joined.pairs)
    if benchmark.judge is None or config.judge_url is None:
        return judged, joined.gaps
    judge = Judge(url=config.judge_url, model=config.judge_model)
    values = review_items(benchmark.judge, joined.pairs, judge, folder / "reviews.jsonl")
    scored = [
        Judged(item=one.item, reply=one.reply, answer=one.answer, values=value)
        for one, value in zip(judged, values, strict=True)
        if value is not None
    ]
    unjudged = [one.item for one, value in zip(judged, values, strict=True) if value is None]
    detail = "the review has no score in its first line"
    gaps = [Gap(item=item, error=ResultReason.NOT_JUDGED, error_detail=detail) for item in unjudged]
    return scored, (*joined.gaps, *gaps)


def _write_scores(outcome: Outcome, order: Sequence[str]) -> None:
    """Replace the table of scores by this result's, in one commit."""
    uri = join_uri(outcome.folder, "scores")
    rows = result_rows(outcome.benchmark, outcome.split, outcome.judged, outcome.gaps, order=order, run_id="0")
    given = [list(order), rows["reply"].to_pylist(), rows["values"].to_pylist()]
    run_id = record.run_id({"version": VERSION, "settings": dict(outcome.settings), "items": given})
    rows = rows.set_column(rows.schema.get_field_index("run_id"), RESULT.field("run_id"), [[run_id] * rows.num_rows])
    receipt = write_fragment(rows, RESULT, table_uri=uri, fragment_id="items", run_id=run_id)
    upkeep.replace_table(uri, [receipt], run_id=run_id, schema=RESULT)
