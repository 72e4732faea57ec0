"""Captioning: one prompt, the same for every row. What this does *not* do: anything else (`rows`, `flow`)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipelines.fragments import CorpusRow
from pipelines.inference.inquiry import Asked, Inquiry
from pipelines.inference.questions import Question
from pipelines.inference.work import Work
from schemas.caption import CAPTION


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionInquiry(Inquiry):
    """Asks one thing of every row."""

    job = "caption_corpus"
    version = 1
    schema = CAPTION
    title = "Captions"

    prompt: str
    """What the model is asked about each image."""

    @property
    def lead(self) -> str:
        """What is asked, in a few words."""
        return f"“{self.prompt}”"

    def check(self, works: Sequence[Work], head: Callable[[], Iterator[CorpusRow]]) -> None:
        """Every corpus fits: the prompt names no column."""

    def ask(self, row: CorpusRow, questions: Sequence[Question]) -> list[Asked]:
        """Ask the prompt."""
        return [Asked(columns={"prompt": self.prompt}, prompt=self.prompt)]
