"""Questions and where they come from: one record, a column of a row, a file of records.

A record is an object: `question` (or LLaVA's `text`), `question_id`, and optionally `kind`, `choices`, `schema`, and
what binds it to one image: `image`, `uri` or `uid`. Its other scalars may stand in a prompt template. What this does
*not* do: find the image that is meant (`binding`), or write a prompt (`answer`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from llava_core.errors import ConfigError, PromptReason
from pipelines.corpus_json import chunks_of, scan_lines
from pipelines.corpus_sources import StorageOptions, open_object
from pipelines.corpus_text import canonical_json, clean_text, parse_json, scalars_json
from pipelines.fragments import CorpusRefused, CorpusRow, printable
from pipelines.inference.forms import Form, Kind, canonical_schema, check_form, refused_form
from pipelines.row_refs import ObjectRef
from schemas.reasons import CorpusReason

MAX_FILE_BYTES = 2 * 2**30
"""The driver holds all questions of a file in memory."""
MAX_QUESTION_BYTES = 1_000_000
_LIST = re.compile(r'\s*\[\s*["{\]]')
"""A text that begins like this is a JSON list; "[vqa] Who?" is a question."""
_BINDINGS = ("image", "uri", "uid")
_OWN = frozenset({"question", "text", "question_id", "kind", "choices", "schema", *_BINDINGS})


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question; plain values, so that it can travel as JSON."""

    question_id: str
    """Unique for its image; empty where it could not be read."""
    text: str = ""
    """What is asked."""
    form: Form = field(default_factory=Form)
    """What kind of reply is asked for."""
    columns: str = "{}"
    """JSON object of the record's other scalars."""
    row: int | None = None
    """Row of a fragment that it is about; None for each row."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Question":
        """Return the question that `dataclasses.asdict` gave (lists in place of tuples are fine)."""
        form = values["form"]
        return cls(**{**values, "form": Form(**{**form, "choices": tuple(form["choices"])})})


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One record of a file: the question, what binds it, or why it cannot be asked."""

    number: int
    """Of the record, from 0; lines that are blank do not count."""
    question: Question
    """As far as it could be read."""
    binding: tuple[str, str] | None = None
    """"image", "uri" or "uid", and its value; None for a question about every image."""
    error: str | None = None
    """Reason code."""
    error_detail: str | None = None
    """For people."""


def make_question(record: object, default_id: str | None, default: Form) -> Question:
    """Read one question.

    Args:
        record: the object, or only the question's text.
        default_id: for a record without an id; None refuses it.
        default: form of a record that says nothing about its own.

    Raises:
        CorpusRefused: SCHEMA, EMPTY_TEXT, TOO_LONG, BAD_ENCODING.

    Example:
        >>> make_question({"question_id": 7, "text": "Is it?", "kind": "yes_no"}, None, Form()).form.kind
        'yes_no'
    """
    record = {"question": record} if isinstance(record, str) else record
    if not isinstance(record, Mapping):
        raise _schema(f"a question is {type(record).__name__}; expected text or an object")
    text = record.get("question", record.get("text"))
    if text is not None and not isinstance(text, str):
        raise _schema(f"question is {type(text).__name__}; expected text")
    text = clean_text(text or "", MAX_QUESTION_BYTES)
    if not text.strip():
        raise CorpusRefused(PromptReason.EMPTY_TEXT, "nothing is asked")
    return Question(
        question_id=_question_id(record, default_id),
        text=text,
        form=_read_form(record, default),
        columns=scalars_json(record, _OWN, MAX_QUESTION_BYTES),
    )


def _question_id(record: Mapping[str, Any], default_id: str | None) -> str:
    value = record.get("question_id", default_id)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _schema(f"question_id is {value!r}; expected text or a whole number")
    return clean_text(str(value), MAX_QUESTION_BYTES)


def _read_form(record: Mapping[str, Any], default: Form) -> Form:
    """The form that a record asks for: by `kind`, by what it brings along, or the default."""
    given = {name: record[name] for name in ("kind", "choices", "schema") if record.get(name) is not None}
    if not given:
        return default
    kind = given.get("kind", "choice" if "choices" in given else "json" if "schema" in given else "open")
    if kind not in get_args(Kind):
        raise _schema(f"kind is {kind!r}; expected one of {', '.join(get_args(Kind))}")
    choices = given.get("choices", list(default.choices) if kind == "choice" else [])
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not all(isinstance(x, str) for x in choices):
        raise _schema("choices is not a list of texts")
    try:
        schema = canonical_schema(canonical_json(given["schema"]).encode()) if "schema" in given else None
        if schema is None and kind == "json":
            schema = default.schema
        cleaned = tuple(clean_text(one, MAX_QUESTION_BYTES) for one in choices)
        return check_form(Form(kind=kind, choices=cleaned, schema=schema))
    except ConfigError as error:
        raise refused_form(error) from error


def _schema(detail: str) -> CorpusRefused:
    return CorpusRefused(CorpusReason.SCHEMA, printable(detail))


def column_questions(row: CorpusRow, column: str, default: Form) -> list[Question]:
    """Read the questions that a row of a corpus brings along.

    Args:
        row: of the corpus, without error.
        column: "conversations" (each human turn is a question, asked without the turns before it), "text", or one of
            the row's other scalars. A text that is a JSON list holds one question an element, any other is one.
        default: form of questions that say nothing about their own.

    Returns:
        At least one; ids are places, from "0", unless the questions have their own.

    Raises:
        CorpusRefused: NULL_FIELD where there is none, DUP_KEY where two have the same id, else see `make_question`.

    Example:
        >>> row = CorpusRow(uid="u", uri="a", index=0, metadata='{"vqa": "[\\\\"Who?\\\\", \\\\"Why?\\\\"]"}')
        >>> [(one.question_id, one.text) for one in column_questions(row, "vqa", Form())]
        [('0', 'Who?'), ('1', 'Why?')]
    """
    if column == "conversations":
        turns = json.loads(row.conversations or "[]")
        records: list[Any] = [turn["value"] for turn in turns if turn["from"] == "human"]
    else:
        value = row.text if column == "text" else json.loads(row.metadata).get(column)
        records = _listed(value)
    if not records:
        raise CorpusRefused(CorpusReason.NULL_FIELD, f"the column {column} holds no question")
    questions = [make_question(record, str(place), default) for place, record in enumerate(records)]
    ids = [one.question_id for one in questions]
    doubled = next((one for one in ids if ids.count(one) > 1), None)
    if doubled is not None:
        raise CorpusRefused(CorpusReason.DUP_KEY, f"two questions have the id {printable(doubled)!r}")
    return questions


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, str):
        raise _schema(f"the questions are {type(value).__name__}; expected text")
    if not _LIST.match(value):
        return [value] if value.strip() else []
    parsed: list[Any] = parse_json(value.encode())
    return parsed


def read_lines(ref: ObjectRef, default: Form, options: StorageOptions = None) -> Iterator[Line]:
    """Read a JSONL file of questions; a line that is none carries why.

    Raises:
        ConfigError: the file is too large.
        CorpusRefused: it is gone, or cannot be read.
    """
    if ref.size > MAX_FILE_BYTES:
        raise ConfigError(f"{ref.uri} has {ref.size} bytes; at most {MAX_FILE_BYTES} are read: split it")
    with open_object(ref, options) as handle:
        spans = [(start, stop) for start, stop, _ in scan_lines(chunks_of(handle))]
        for number, (start, stop) in enumerate(spans):
            handle.seek(start)
            yield read_line(number, handle.read(stop - start), default)


def read_line(number: int, data: bytes, default: Form) -> Line:
    """Read one line of a file of questions; never raises for what is in it."""
    known = Question(question_id="")
    try:
        record = parse_json(data.strip())
        if not isinstance(record, dict):
            raise CorpusRefused(CorpusReason.BAD_JSON, f"a line is {type(record).__name__}, expected an object")
        if isinstance(record.get("question_id"), str | int):
            known = replace(known, question_id=_question_id(record, None))
        question = make_question(record, None, default)
        return Line(number=number, question=question, binding=_binding(record))
    except CorpusRefused as refusal:
        return Line(number=number, question=known, error=refusal.reason, error_detail=printable(refusal.detail))


def _binding(record: Mapping[str, Any]) -> tuple[str, str] | None:
    given = [(name, record[name]) for name in _BINDINGS if record.get(name) is not None]
    if not given:
        return None
    name, value = given[0]
    if len(given) > 1 or not isinstance(value, str) or not value:
        detail = "; for several images give the file as --input, with --question-column question"
        raise _schema(f"image, uri or uid: expected one of them, a text{detail if isinstance(value, list) else ''}")
    return name, value
