"""The order of an evaluation, on one screen; who answers is handed in, since rooms meet in a table.

    official files ─ read ─▶ items ─▶ images-*.jsonl, questions-*.jsonl ─ ask ─▶ answers (table)
    answers ─ join ─▶ judged ─▶ scores (table), submission/, results.json, results.html

What this does *not* do: run a model (`jobs/evaluate.py` lends the answering job).
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from pipelines.evaluation.submissions import check_installed
from pipelines.parts import write_fragment
from pipelines.storage import absolute_uri, exists, filesystem, join_uri, read_bytes, write_bytes, write_once
from pipelines.tables import dataset, open_table
from schemas.result import RESULT, ResultReason

VERSION = 2
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
"""Writes drawings of a split into a folder: so many, `drawn.jsonl` last."""


def run_evaluation(config: EvaluateConfig, ask: Ask, draw: Draw, say: Say) -> None:
    """Run benchmarks, score them, and write tables, `results.json` and `results.html`.

    Args:
        config: of the job.
        ask: the answering job.
        draw: the project's own drawings.
        say: where lines for people go.

    Raises:
        ConfigError: a file is missing or of another split, or a package that a submission needs.
        JudgeError: the judge does not answer.
    """
    config = replace(config, output=absolute_uri(config.output))
    for benchmark in config.benchmarks:
        check_installed(benchmark.submission)
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
            folder = join_uri(config.output, "drawings", f"{split}-{config.num_drawings}")
            _put_drawings(folder, split, config.num_drawings, draw)
        found.append((benchmark, Source(benchmark=benchmark.name, folder=folder, split=split, ocr=config.ocr_tokens)))
    return found


def _put_drawings(folder: str, split: str, count: int, draw: Draw) -> None:
    """Draw into a folder, of a store too, unless that is done; the file that says so goes there last."""
    listing = "drawn.jsonl"
    if exists(join_uri(folder, listing)):
        return
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        draw(place, split, count)
        pictures = [path for path in place.rglob("*") if path.is_file() and path.name != listing]
        for path in (*sorted(pictures), place / listing):
            write_bytes(join_uri(folder, path.relative_to(place).as_posix()), path.read_bytes())


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
    # a file may hold answers to the whole split
    joined = _of_items(join(items, replies), chosen)
    parser = config.parser or next(iter(benchmark.parsers))
    judged, gaps = _judge(config, benchmark, parser, joined, folder)
    joined = replace(joined, gaps=gaps)
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
    whole = result.scored == len(items)
    _write_submission(folder, benchmark.submission(judged) if benchmark.submission and whole else {})
    return outcome


def _write_submission(folder: str, files: Mapping[str, bytes]) -> None:
    """Replace the submission of an earlier call: beside this call's scores it would be taken for theirs."""
    uri = join_uri(folder, "submission")
    store, place = filesystem(uri)
    if store.exists(place):
        store.rm(place, recursive=True)
    for name, data in files.items():
        write_bytes(join_uri(uri, name), data)


def _limited(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """About so many items, evenly spread, in whole units (an image's questions, a group): one at least."""
    if limit is None or limit >= len(items):
        return items
    units: dict[str, list[Item]] = {}
    for item in items:
        units.setdefault(item.unit, []).append(item)
    names = list(units)
    share = max(1, len(names) * limit // len(items))
    return [item for place in range(share) for item in units[names[place * len(names) // share]]]


def _of_items(joined: Joined, items: Sequence[Item]) -> Joined:
    """What of all is about some items; ids that are no item's stay named."""
    names = {item.item_id for item in items}
    return replace(
        joined,
        pairs=tuple(pair for pair in joined.pairs if pair[0].item_id in names),
        gaps=tuple(gap for gap in joined.gaps if gap.item.item_id in names),
        repeated=tuple(name for name in joined.repeated if name in names),
    )


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
    ]
    return replies, facts


def _write_questions(folder: str, items: Sequence[Item], root: str, most: int) -> Asking:
    """Write the corpus of images and the questions.

    Their names hold a hash of what is in them: a call with another limit or split leaves those of earlier calls as they
    are, whose runs would else be taken for runs over files that have changed.
    """
    places = {image: place for place, image in enumerate(dict.fromkeys(item.image for item in items))}
    images = _write_named(folder, "images", "".join(json.dumps({"image": image}) + "\n" for image in places))
    lines = (
        {"question_id": item.item_id, "question": item.prompt, "uri": f"{images}#{places[item.image]}"}
        for item in items
    )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    questions = _write_named(folder, "questions", text)
    answers = join_uri(folder, "answers")
    return Asking(images=images, questions=questions, image_root=root, answers=answers, max_new_tokens=most)


def _write_named(folder: str, name: str, text: str) -> str:
    data = text.encode()
    uri = join_uri(folder, f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.jsonl")
    if not exists(uri):
        write_once(uri, data)
    return uri


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
            item_id = str(row["question_id"])
        except (ValueError, KeyError, StopIteration, TypeError) as error:
            raise ConfigError(f"--answers {uri}: line {number} is no object with question_id and text") from error
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"--answers {uri}: line {number} has {type(text).__name__} for its text")
        replies.append(Reply(item_id=item_id, text=text, error_detail="its text is null" if text is None else None))
    return replies


def _judge(
    config: EvaluateConfig, benchmark: Benchmark, parser: str, joined: Joined, folder: str
) -> tuple[list[Judged], tuple[Gap, ...]]:
    """Score replies, by the benchmark's metric or a judge; without a judge's URL they stay without a score."""
    judged = judge_items(benchmark, benchmark.parsers[parser], joined.pairs)
    if benchmark.judge is None or config.judge_url is None:
        return judged, joined.gaps
    judge = Judge(url=config.judge_url, model=config.judge_model)
    reviews = review_items(benchmark.judge, joined.pairs, judge, join_uri(folder, "reviews"))
    scored = [
        Judged(item=one.item, reply=one.reply, answer=one.answer, values=review)
        for one, review in zip(judged, reviews, strict=True)
        if not isinstance(review, str)
    ]
    unjudged = [
        Gap(item=one.item, error=ResultReason.NOT_JUDGED, error_detail=review)
        for one, review in zip(judged, reviews, strict=True)
        if isinstance(review, str)
    ]
    return scored, (*joined.gaps, *unjudged)


def _write_scores(outcome: Outcome, order: Sequence[str]) -> None:
    """Replace the table of scores by this result's, in one commit."""
    uri = join_uri(outcome.folder, "scores")
    rows = result_rows(outcome.benchmark, outcome.split, outcome.judged, outcome.gaps, order=order, run_id="0")
    given = [list(order), rows["reply"].to_pylist(), rows["values"].to_pylist()]
    run_id = record.run_id({"version": VERSION, "settings": dict(outcome.settings), "items": given})
    rows = rows.set_column(rows.schema.get_field_index("run_id"), RESULT.field("run_id"), [[run_id] * rows.num_rows])
    receipt = write_fragment(rows, RESULT, table_uri=uri, fragment_id="items", run_id=run_id)
    upkeep.replace_table(uri, [receipt], run_id=run_id, schema=RESULT)
