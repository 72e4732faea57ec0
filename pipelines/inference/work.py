"""Work: a fragment of a corpus and what is asked about its rows; what one worker does and one commit takes.

For captioning a piece of work is a fragment and nothing else. Questions that belong to single images travel with their
fragment, so that all rows of one image lie together, and a question that changes changes only its own piece of work.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipelines.corpus_text import canonical_json
from pipelines.fragments import Fragment
from pipelines.inference.questions import Question
from pipelines.known_rows import NOTHING_KNOWN, Known


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One piece of work. Make one with `whole` or `asking`."""

    work_id: str
    """What it is committed under, the table's `fragment_id`: the fragment's own id unless questions travel with it."""
    fragment: Fragment
    """The rows of the corpus."""
    num_rows: int
    """Rows of the table that come of it; at least so many where `exact` is false."""
    exact: bool = True
    """False where only the rows themselves say how many questions they bring along."""
    questions: tuple[Question, ...] = ()
    """Questions of these rows alone; none where the run asks every row the same."""
    only: tuple[tuple[str, str], ...] = ()
    """(uri, question_id) of the table's rows that are made again, the id empty for all of a row; all rows if empty."""
    known: Known = NOTHING_KNOWN
    """Rows of the fragment that the table holds already, under a fragment that has since gained or lost a file."""

    @property
    def num_known(self) -> int:
        """Rows of the table, about, that are taken over."""
        return len(self.known.indices) * self.num_rows // max(1, self.fragment.num_rows)

    def wanted(self, uri: str) -> frozenset[str] | None:
        """Return the questions of a row that are made again, "" for all of the row; None where every row is made.

        A row is known by its place: a column that names uids may name two rows alike, and none that cannot be read.
        """
        return frozenset(question for place, question in self.only if place == uri) if self.only else None

    def head(self, num_rows: int) -> Self:
        """Return the part that concerns the fragment's first rows, to try things on; its id is not a table's."""
        if num_rows >= self.fragment.num_rows:
            return self
        questions = tuple(one for one in self.questions if one.row is None or one.row < num_rows)
        fragment = self.fragment.head(num_rows)
        rows = count_rows(questions, fragment) if self.questions else num_rows * self.num_rows // self.fragment.num_rows
        return dataclasses.replace(self, fragment=fragment, questions=questions, num_rows=rows)

    @property
    def asked(self) -> Sequence[int]:
        """Rows of the fragment that anything is asked about, as far as the work itself knows."""
        own = {one.row for one in self.questions}
        every = not own or None in own
        return range(self.fragment.num_rows) if every else sorted(row for row in own if row is not None)

    def head_asked(self, num_rows: int) -> Self:
        """Return the head that just reaches so many rows that anything is asked about."""
        asked = self.asked[:num_rows]
        return self.head(asked[-1] + 1 if asked else 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `json.dumps` takes; `from_json` undoes it."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        questions = [dataclasses.asdict(one) for one in self.questions]
        return plain | {"fragment": self.fragment.to_json(), "questions": questions, "known": self.known.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the work that `to_json` gave (lists in place of tuples are fine)."""
        questions = tuple(Question.from_json(one) for one in values["questions"])
        only = tuple((str(uid), str(question)) for uid, question in values["only"])
        fragment = Fragment.from_json(values["fragment"])
        known = Known.from_json(values["known"])
        return cls(**{**values, "fragment": fragment, "questions": questions, "only": only, "known": known})


def whole(fragment: Fragment, *, each: int = 1, exact: bool = True) -> Work:
    """Return the work of a fragment whose every row is asked the same.

    Args:
        fragment: the rows.
        each: rows of the table that come of each.
        exact: False where `each` is only the least.
    """
    return Work(work_id=fragment.fragment_id, fragment=fragment, num_rows=fragment.num_rows * each, exact=exact)


def asking(fragment: Fragment, questions: Sequence[Question]) -> Work:
    """Return the work of a fragment and questions of its own, which are part of its id."""
    text = canonical_json([fragment.fragment_id, [dataclasses.asdict(one) for one in questions]])
    return Work(
        work_id=hashlib.sha256(text.encode()).hexdigest()[:20],
        fragment=fragment,
        num_rows=count_rows(questions, fragment),
        questions=tuple(questions),
    )


def count_rows(questions: Iterable[Question], fragment: Fragment) -> int:
    """Count the rows of the table that questions about a fragment's rows give."""
    return sum(fragment.num_rows if one.row is None else 1 for one in questions)


def total_rows(works: Iterable[Work]) -> int:
    """Return how many rows of the table come of some works, at least."""
    return sum(work.num_rows for work in works)
