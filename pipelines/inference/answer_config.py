"""Settings of the answering job: those of every job over a corpus, and where its questions come from.

What this does *not* do: read the questions' file or the corpus (`job.freeze` does, before any work starts).
"""

from dataclasses import dataclass
from typing import Annotated, get_args

import tyro

from llava_core.config import check_choice
from llava_core.errors import ConfigError
from llava_core.resolution import Task
from pipelines.corpus_sources import normalise
from pipelines.fragments import CorpusRefused
from pipelines.inference.answer import AnswerInquiry
from pipelines.inference.config import InferenceConfig
from pipelines.inference.forms import Form, Kind, canonical_schema, check_form
from pipelines.inference.questions import make_question
from pipelines.inference.template import parse_template
from pipelines.storage import open_uri


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerConfig(InferenceConfig):
    """Answer questions about the images of a corpus into a Delta table, one row for each question."""

    questions: str | None = None
    """JSONL file of questions: `question_id`, `question`; to bind one to an image its `image` (path below --input),
    `uri` or `uid`; optionally `kind`, `choices`, `schema`. Questions that name no image are asked of every one."""
    question: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A question that every image is asked; may be repeated."""
    question_column: str | None = None
    """Column of the corpus that holds each row's questions: "conversations", "text", or another text column; a JSON
    list holds several."""
    prompt: str = "{question}"
    """How a question is put: "{question}", and any column of the row, "{text}" for its caption."""
    answer_kind: Kind | None = None
    """Reply asked for by questions that do not say it: open, short, choice, yes_no, json. By default choice with
    --choices, json with --schema, else open."""
    choices: tuple[str, ...] = ()
    """Options of a choice, for questions that bring none; the first is A."""
    schema: str | None = None
    """File with the JSON schema that replies are held to, for questions that bring none."""
    max_new_tokens: int = 128
    """Most tokens of one reply."""
    task: Task = "vqa"
    """What the replies are for, when the resolution is "auto": tasks that read text take every tile, "general" lets
    each image decide."""

    def __post_init__(self) -> None:
        InferenceConfig.__post_init__(self)
        given = [self.questions is not None, bool(self.question), self.question_column is not None]
        if sum(given) != 1:
            raise ConfigError(
                f"{sum(given)} sources of questions; expected exactly one of --questions FILE, --question TEXT, "
                "--question-column NAME"
            )
        parse_template(self.prompt)
        if self.answer_kind is not None:
            check_choice("config", "answer_kind", self.answer_kind, get_args(Kind))
        if (self.schema is not None) != (self.settled_kind == "json"):
            raise ConfigError(f"kind is {self.settled_kind!r}, schema is {self.schema!r}; --schema goes with kind json")
        if self.settled_kind != "json":
            check_form(Form(kind=self.settled_kind, choices=self.choices))
        if self.questions is not None and self.columns.uid is not None:
            raise ConfigError(
                "--questions with --columns.uid: the uids of rows are not known before they are read, so nothing can "
                "be bound to them; leave --columns.uid out, or put the questions into a column (--question-column)"
            )

    @property
    def settled_kind(self) -> Kind:
        """Kind of questions that do not say it."""
        if self.answer_kind is not None:
            return self.answer_kind
        return "choice" if self.choices else "json" if self.schema is not None else "open"

    @property
    def inquiry(self) -> AnswerInquiry:
        """The questions.

        Raises:
            ConfigError: the schema or a question of the command line is none.
        """
        default = check_form(Form(kind=self.settled_kind, choices=self.choices, schema=self._read_schema()))
        try:
            asked = tuple(make_question(text, str(place), default) for place, text in enumerate(self.question))
        except CorpusRefused as refusal:
            raise ConfigError(f"--question: {refusal}") from refusal
        return AnswerInquiry(
            prompt=self.prompt,
            questions=asked,
            file=None if self.questions is None else normalise(self.questions),
            column=self.question_column,
            default=default,
        )

    def _read_schema(self) -> str | None:
        if self.schema is None:
            return None
        try:
            with open_uri(self.schema) as file:
                return canonical_schema(file.read())
        except OSError as error:
            raise ConfigError(f"--schema {self.schema}: {error}") from error
