"""What a benchmark asks, and what became of it: plain values that every part of this room shares.

An `Item` is one question about one image, with everything that is known about it beforehand; a `Judged` is an item, the
answer that was read out of the reply, and its score. What this does *not* do: anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question of a benchmark."""

    item_id: str
    """Unique in its benchmark and split; for people, and for files of answers."""
    image: str
    """Path below the folder of images, or a data: URI."""
    question: str
    """As the benchmark has it."""
    prompt: str
    """Everything that the model is asked, suffix included; images stand before it."""
    references: tuple[str, ...] = ()
    """Right answers: all annotators', all that count, or the one. Empty where only a test server knows."""
    choices: tuple[str, ...] = ()
    """Options, the first is A."""
    category: str = ""
    """For the breakdown."""
    group: str = ""
    """Items of one group are only right together (rotations of one question, the pair of one image); own if empty."""
    group_size: int = 0
    """Items of its group, with those that have no reply; 0 where nobody counted."""
    counts: bool = True
    """Whether it is scored; if not, its answer is asked for by the submission alone."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the submission, the judge or a report needs beside."""

    @property
    def unit(self) -> str:
        """What is drawn when intervals are computed: questions about one image are not independent of each other."""
        return self.group or self.image


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One item with its answer."""

    item: Item
    """The question."""
    reply: str
    """As the model gave it."""
    answer: str | None
    """Read out of the reply; None where it gives none."""
    values: tuple[float, ...]
    """The item's score, 0 to 1 for most metrics, then what else the benchmark's total needs of it; () without."""

    @property
    def score(self) -> float:
        """The item's score."""
        return self.values[0]
