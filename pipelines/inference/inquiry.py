"""What a run asks of a corpus, and what it makes of the replies: all in which captioning and answering differ.

    Inquiry.plan  fragments ─▶ work           on the driver
    Inquiry.ask   a row ─▶ prompts            on a worker
    Inquiry.read  a reply ─▶ columns          on a worker

What this does *not* do: read rows or run an engine (`rows`), commit (`flow`).
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from llava_core.engine.types import Result
from pipelines.corpus_sources import StorageOptions
from pipelines.fragments import CorpusRefused, CorpusRow, Fragment
from pipelines.inference.questions import Question
from pipelines.inference.work import Work, whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One prompt about one row, and the row of the table that it becomes."""

    columns: Mapping[str, Any]
    """The inquiry's own columns, as far as they are known before the reply."""
    prompt: str | None = None
    """What the model is asked; None if it cannot be."""
    refusal: CorpusRefused | None = None
    """Why it cannot be asked, if the row itself is fine."""
    question: Question | None = None
    """Where the prompt comes from one."""


class Inquiry(ABC):
    """What a run asks. Frozen dataclasses of plain values: they travel to workers, and name the run."""

    job: ClassVar[str]
    """The job, as its file under `jobs/`."""
    version: ClassVar[int]
    """Part of a run's identity: raise it whenever a change gives the same input another row."""
    schema: ClassVar[pa.Schema]
    """Of the table."""
    unit: ClassVar[str] = "images"
    """What a row of the table is, for people."""
    title: ClassVar[str]
    """What the replies are, for people: "Captions"."""

    __slots__ = ()

    @property
    @abstractmethod
    def lead(self) -> str:
        """What is asked, in a few words."""

    @abstractmethod
    def ask(self, row: CorpusRow, questions: Sequence[Question]) -> list[Asked]:
        """Say what is asked about one row, which may be one that could not be read.

        Args:
            row: of the corpus.
            questions: those of its work that concern it.

        Returns:
            One for each row of the table, in order; at least one unless the work has questions and none is of this row.
        """

    def read(self, asked: Asked, result: Result) -> Mapping[str, Any]:
        """Make columns of a reply, beside those that all inquiries have; `result` is not refused."""
        return {}

    def show(self, row: Mapping[str, Any]) -> str:
        """Return a row of the table as one text, for people."""
        return str(row["text"])

    @property
    def shown_columns(self) -> tuple[str, ...]:
        """Columns that `show` needs."""
        return ("text",)

    @property
    def sources(self) -> tuple[str, ...]:
        """URIs of inputs beside the corpus, normalised."""
        return ()

    def plan(self, fragments: Sequence[Fragment], *, options: StorageOptions, limited: bool) -> list[Work]:
        """Turn a frozen corpus into work.

        Args:
            fragments: of the corpus.
            options: for fsspec.
            limited: whether --limit cut the plan.

        Raises:
            ConfigError: an input of the inquiry's own is wrong as a whole.
        """
        return [whole(fragment) for fragment in fragments]

    @abstractmethod
    def check(self, works: Sequence[Work], head: Callable[[], Iterator[CorpusRow]]) -> None:
        """Hold the settings to the corpus, before any cluster work.

        Args:
            works: all of them.
            head: reads the first few rows.

        Raises:
            ConfigError: they do not fit.
        """

    def identity(self) -> dict[str, Any]:
        """Return what names the run; all fields unless some change no row."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]
