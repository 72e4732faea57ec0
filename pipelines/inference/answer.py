"""Answering: questions of a file, of a column of the corpus, or the same for every row; replies read by their form.

What this does *not* do: read files (`questions`), find images (`binding`), know how a form is put (`forms`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llava_core.engine.types import Result
from llava_core.errors import ConfigError, PromptReason
from pipelines.corpus_listing import list_source
from pipelines.corpus_sources import StorageOptions
from pipelines.corpus_text import canonical_json
from pipelines.fragments import CorpusRefused, CorpusRow, Fragment
from pipelines.inference.binding import bind
from pipelines.inference.forms import Form, put, read_reply
from pipelines.inference.inquiry import Asked, Inquiry
from pipelines.inference.questions import Question, column_questions, read_lines
from pipelines.inference.template import IMAGE_PLACE, QUESTION, check_names, parse_template
from pipelines.inference.work import Work, whole
from schemas.answer import ANSWER


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerInquiry(Inquiry):
    """Asks questions; exactly one of `questions`, `file` and `column` says which."""

    job = "answer_corpus"
    version = 1
    schema = ANSWER
    unit = "answers"
    title = "Answers"

    prompt: str
    """Template: "{question}" and columns of the row."""
    questions: tuple[Question, ...] = ()
    """Asked of every row."""
    file: str | None = None
    """URI of a JSONL file of questions, normalised."""
    column: str | None = None
    """Column of the corpus that holds each row's questions."""
    default: Form = field(default_factory=Form)
    """Form of questions that say nothing about their own."""

    @property
    def lead(self) -> str:
        """What is asked, in a few words."""
        if self.file is not None:
            return f"The questions of {self.file}"
        if self.column is not None:
            return f"The questions in the column {self.column}"
        return ", ".join(f"“{one.text}”" for one in self.questions)

    @property
    def sources(self) -> tuple[str, ...]:
        """The file of questions, if there is one."""
        return () if self.file is None else (self.file,)

    def plan(self, fragments: Sequence[Fragment], *, options: StorageOptions, limited: bool) -> list[Work]:
        """Turn the corpus, and the file of questions if there is one, into work."""
        if self.column is not None:
            return [whole(fragment, exact=False) for fragment in fragments]
        if self.file is None:
            return [whole(fragment, each=len(self.questions)) for fragment in fragments]
        entries = list(list_source(self.file, options).entries)
        if len(entries) != 1:
            raise ConfigError(f"--questions {self.file} is {len(entries)} files; expected one JSONL file")
        try:
            lines = list(read_lines(entries[0].ref, self.default, options))
        except CorpusRefused as refusal:
            raise ConfigError(f"--questions {self.file}: {refusal}") from refusal
        if all(line.error is not None for line in lines):
            first = f"; line 0: {lines[0].error}: {lines[0].error_detail}" if lines else ""
            raise ConfigError(f"--questions {self.file}: none of its {len(lines)} lines is a question{first}")
        return bind(lines, entries[0].ref, fragments, limited=limited)

    def check(self, works: Sequence[Work], head: Callable[[], Iterator[CorpusRow]]) -> None:
        """Hold the template's names, and the column of questions, to what the first rows have."""
        template = parse_template(self.prompt)
        own = (self.column,) if self.column not in (None, "text", "conversations") else ()
        if not template.names and not own:
            return
        rows = [row for row in head() if row.error is None]
        # a name is known even where its value is null: later rows may have one
        known = {name for row in rows for name in row_columns(row)}
        if not rows:
            return
        if own and own[0] not in known:
            raise ConfigError(
                f"--question-column {own[0]}: the first rows have no such text; they have {', '.join(sorted(known))}, "
                "and conversations if there are any. Name a longer text by --columns.text, and here text"
            )
        brought = [*self.questions, *(one for work in works for one in work.questions)]
        known |= {name for text in {one.columns for one in brought} for name in json.loads(text)}
        if self.column is not None:
            known |= {name for row in rows for one in self._of_row(row) for name in json.loads(one.columns)}
        check_names(template, known, len(rows))

    def _of_row(self, row: CorpusRow) -> list[Question]:
        """Questions that a row brings along; none where they are refused."""
        assert self.column is not None, "only where a column holds the questions"
        try:
            return column_questions(row, self.column, self.default)
        except CorpusRefused:
            return []

    def ask(self, row: CorpusRow, questions: Sequence[Question]) -> list[Asked]:
        """Ask each question of the run and of the row."""
        if self.column is None:
            return [self._asked(one, row) for one in (*self.questions, *questions)]
        if row.error is not None:
            return [_unread(self.default, None)]
        try:
            return [self._asked(one, row) for one in column_questions(row, self.column, self.default)]
        except CorpusRefused as refusal:
            return [_unread(self.default, refusal)]

    def _asked(self, question: Question, row: CorpusRow) -> Asked:
        """Write one prompt, or say why it cannot be written."""
        form = question.form
        columns = {
            "question_id": question.question_id,
            "kind": form.kind,
            "question": question.text,
            "choices": canonical_json(list(form.choices)) if form.choices else None,
        }
        if row.error is not None:
            return Asked(columns=columns, question=question)
        try:
            values = row_columns(row) | _as_texts(json.loads(question.columns))
            values[QUESTION] = put(without_places(question.text, len(row.images)), form)
            prompt = parse_template(self.prompt).fill(values)
        except CorpusRefused as refusal:
            return Asked(columns=columns, question=question, refusal=refusal)
        return Asked(columns=columns | {"prompt": prompt}, question=question, prompt=prompt)

    def read(self, asked: Asked, result: Result) -> Mapping[str, Any]:
        """Read the reply by the question's form."""
        assert asked.question is not None, "each prompt comes from a question"
        form = asked.question.form
        reading = read_reply(result.text or "", form)
        return {
            "answer": reading.answer,
            "answer_valid": reading.answer is not None,
            "answer_detail": reading.detail,
            "yes_margin": result.yes_no_margin if form.kind == "yes_no" else None,
            "num_images": len(result.image_sizes),
        }

    def show(self, row: Mapping[str, Any]) -> str:
        """Question and reply."""
        return f"{row['question']} — {row['text']}"

    @property
    def shown_columns(self) -> tuple[str, ...]:
        """Columns that `show` needs."""
        return ("question", "text")


def _unread(form: Form, refusal: CorpusRefused | None) -> Asked:
    """The one row that stands for all questions of a row that could not be read."""
    return Asked(columns={"question_id": "", "kind": form.kind}, refusal=refusal)


def row_columns(row: CorpusRow) -> dict[str, str | None]:
    """Return what a template may name of a row: its scalars, then `text`, `uri` and `uid`."""
    return _as_texts(json.loads(row.metadata)) | {"text": row.text, "uri": row.uri, "uid": row.uid}


def _as_texts(values: Mapping[str, Any]) -> dict[str, str | None]:
    return {
        name: value if isinstance(value, str) or value is None else json.dumps(value) for name, value in values.items()
    }


def without_places(question: str, num_images: int) -> str:
    """Take the places of images out of a question: the model sees its images first.

    Args:
        question: with a place for each image, or with none.
        num_images: of the row.

    Raises:
        CorpusRefused: TOKEN_MISMATCH for another number of places, or for several images amid the words, where the
            question would lose what it says of which; EMPTY_TEXT if nothing else was in it.

    Example:
        >>> without_places("<image>\\n<image>\\nSame?", 2), without_places("What is <image>?", 1)
        ('Same?', 'What is ?')
        >>> without_places("<image> or <image>?", 2)
        Traceback (most recent call last):
        ...
        pipelines.fragments.CorpusRefused: TOKEN_MISMATCH: places of several images amid the words; they go first
    """
    places = question.count(IMAGE_PLACE)
    if places not in (0, num_images):
        raise CorpusRefused(
            PromptReason.TOKEN_MISMATCH, f"the question has {places} {IMAGE_PLACE} places, the row {num_images} images"
        )
    *before, last = question.split(IMAGE_PLACE)
    if places > 1 and any(part.strip() for part in before):
        raise CorpusRefused(PromptReason.TOKEN_MISMATCH, "places of several images amid the words; they go first")
    text = "".join([*before, last]).strip() if places else question
    if not text:
        raise CorpusRefused(PromptReason.EMPTY_TEXT, "nothing is asked")
    return text
