"""Fragments: the unit of input that is read by one worker and committed at once; and the rows that come out of one.

A plan is a list of fragments, a pure function of the listing of the inputs: the same files give the same fragments,
with the same ids, on any machine. Legend: *object* one file in a store; *row* one future `CorpusRow`; *container* an
object that holds many rows (Parquet, tar, JSON).

What this does *not* do: touch files (`corpus_sources`) or know formats (`corpus_*`). No secret ever enters a fragment.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from llava_core.errors import ConfigError, TesseraError
from pipelines.row_refs import NO_ROWS, ObjectRef, RowRef, RowRefs, pack_rows

logger = logging.getLogger(__name__)

FragmentKind = Literal["files", "parquet", "tar", "jsonl", "json"]

MAX_ROWS = 1024
"""Most rows in a fragment: what a crash can cost, and what one data file holds."""


_REREAD_BYTES, _REREAD_PARTS = 64 * 2**20, 4


class InputChanged(TesseraError):
    """An object is no longer what it was when the plan was made: the job has to stop, and be planned again."""


class CorpusRefused(TesseraError):
    """A reader cannot use one row or one file; becomes a rejected row. `reason` is a code of `ROW_REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = str(reason)
        self.detail = detail

    def __reduce__(self) -> tuple[type["CorpusRefused"], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragment:
    """Some rows of the input, at most `MAX_ROWS`. Make one with `make_fragment`, which gives it its id."""

    fragment_id: str
    """First 20 hex digits of the sha256 of what it holds; see `make_fragment`."""
    kind: FragmentKind
    """Which reader reads it."""
    source: str
    """The input it came from, as the caller spelled it."""
    root: str
    """Folder below which its rows may refer to files."""
    num_rows: int
    """Rows that its reader yields."""
    container: ObjectRef | None = None
    """The object that holds its rows; None for kind "files"."""
    start: int = 0
    """First row, counted within the container (0 for files)."""
    rows: RowRefs = NO_ROWS
    """One for each row; empty for Parquet, where `start` and `num_rows` say it all, unless the file is refused."""

    @property
    def stop(self) -> int:
        """One past the last row, counted as `start` is."""
        return self.start + self.num_rows

    @property
    def mark(self) -> str:
        """What `mark_fragment` added to the id; empty if nothing."""
        return self.fragment_id.partition("-")[2]

    def row_uri(self, index: int) -> str:
        """The row's uri: the image's own for files, `container#key` otherwise, the container's if that is refused."""
        row = self.rows[index] if self.rows else None
        if self.container is None:
            assert row is not None, "a fragment of files has a RowRef for each row"
            return row.objects[0].uri
        key = row.key if row else str(self.start + index)
        return f"{self.container.uri}#{key}" if key else self.container.uri

    def row_uid(self, index: int) -> str:
        """The row's uid; see `make_uid`."""
        if self.container is None:
            return make_uid(self.row_uri(index), "")
        key = self.rows[index].key if self.rows else str(self.start + index)
        return make_uid(self.container.uri, key)

    def head(self, num_rows: int) -> "Fragment":
        """Return a fragment of only the first rows (its id is another, since it holds other rows)."""
        if num_rows >= self.num_rows:
            return self
        return make_fragment(
            kind=self.kind,
            source=self.source,
            root=self.root,
            container=self.container,
            start=self.start,
            rows=self.rows[:num_rows],
            num_rows=num_rows,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `json.dumps` and Arrow take; `from_json` undoes it."""
        container = dataclasses.asdict(self.container) if self.container else None
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {"container": container, "rows": [self.rows.packed, len(self.rows)]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the fragment that `to_json` gave."""
        container = values["container"]
        rows = RowRefs(*values["rows"])
        return cls(**{**values, "rows": rows, "container": ObjectRef(**container) if container else None})


def make_fragment(
    *,
    kind: FragmentKind,
    source: str,
    root: str,
    container: ObjectRef | None = None,
    start: int = 0,
    rows: Sequence[RowRef] = (),
    num_rows: int | None = None,
) -> Fragment:
    """Make a fragment and its id.

    The id is the first 20 hex digits of the sha256 of the compact JSON of `[kind, objects, [start, stop], errors]`,
    where `objects` lists `[uri, size, version]` of the container or of every file in order, and `errors` lists
    `[row, code]` of rows refused at planning. Neither `source` nor `root` is in it: another spelling of the same
    input is the same work.

    Args:
        num_rows: needed where `rows` is empty (Parquet).

    Example:
        >>> ref = ObjectRef(uri="/d/a.parquet", size=10, version="7")
        >>> make_fragment(kind="parquet", source="/d", root="/d", container=ref, start=3, num_rows=2).fragment_id
        'c0506beb9d67a1907255'
    """
    count = len(rows) if num_rows is None else num_rows
    if count > MAX_ROWS:
        raise ConfigError(f"a fragment of {count} rows; expected at most {MAX_ROWS}")
    refs = [container] if container else [ref for row in rows for ref in row.objects]
    identity = [
        kind,
        [[ref.uri, ref.size, ref.version] for ref in refs],
        [start, start + count],
        [[index, row.error] for index, row in enumerate(rows) if row.error],
    ]
    text = json.dumps(identity, separators=(",", ":"), ensure_ascii=False)
    return Fragment(
        fragment_id=hashlib.sha256(text.encode()).hexdigest()[:20],
        kind=kind,
        source=source,
        root=root,
        num_rows=count,
        container=container,
        start=start,
        rows=pack_rows(rows),
    )


def mark_fragment(fragment: Fragment, made_of: str) -> Fragment:
    """Return the fragment under an id that also names what else, beside its objects, the rows of a table follow from.

    Args:
        fragment: as planned.
        made_of: such as the input, where rows say which folder of it they are in.

    Example:
        >>> ref = ObjectRef(uri="/d/a.parquet", size=10, version="7")
        >>> made = make_fragment(kind="parquet", source="/d", root="/d", container=ref, start=3, num_rows=2)
        >>> mark_fragment(made, "/d").fragment_id
        'c0506beb9d67a1907255-4823e769'
    """
    mark = hashlib.sha256(made_of.encode()).hexdigest()[:8]
    return dataclasses.replace(fragment, fragment_id=f"{fragment.fragment_id}-{mark}")


def refused_fragment(
    *, kind: FragmentKind, source: str, root: str, container: ObjectRef, reason: str, detail: str
) -> Fragment:
    """Return the fragment of one row that stands for a whole file whose rows cannot be known."""
    row = RowRef(error=str(reason), error_detail=detail)
    return make_fragment(kind=kind, source=source, root=root, container=container, rows=(row,))


def make_uid(uri: str, key: str) -> str:
    """Return a row's uid: stable when the content changes, another for every place.

    Example:
        >>> make_uid("/d/a.jpg", "") == hashlib.sha256(b"/d/a.jpg#").hexdigest()[:32]
        True
    """
    return hashlib.sha256(f"{uri}#{key}".encode()).hexdigest()[:32]


def cut_by_content(names: Iterable[str], expected_rows: int) -> Iterator[range]:
    """Cut a sorted listing into runs whose borders depend on names alone.

    A run ends after a name whose sha256 is divisible by `expected_rows`, or at `MAX_ROWS`. So a file that is added or
    removed changes the run that it falls into (and a neighbour at most), not all that follow, and what was committed
    for the others stays valid.

    Args:
        names: paths relative to the listing's root, sorted.
        expected_rows: mean length of a run.

    Yields:
        Runs of positions that together cover `names` in order.

    Example:
        >>> [len(run) for run in cut_by_content([f"{i}.jpg" for i in range(12)], 4)]
        [1, 2, 1, 3, 5]
    """
    start = stop = 0
    for stop, name in enumerate(names, 1):
        digest = hashlib.sha256(name.encode()).digest()
        if int.from_bytes(digest[:8], "big") % expected_rows == 0 or stop - start == MAX_ROWS:
            yield range(start, stop)
            start = stop
    if start < stop:
        yield range(start, stop)


def cut_evenly(num_rows: int, size: int) -> Iterator[range]:
    """Cut rows of a container into runs of `size`, the last one shorter.

    Example:
        >>> list(cut_evenly(5, 2))
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    return (range(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def warn_of_rereading(what: str, size: int, parts: int, remedy: str) -> None:
    """Warn where fragments that lie in one stream each read it from its start: all of them half of it, on average.

    Args:
        what: the stream, for people.
        size: its bytes; a small one costs nothing.
        parts: fragments that it is cut into.
        remedy: what to do.
    """
    if size > _REREAD_BYTES and parts > _REREAD_PARTS:
        message = "%s has %d MB and is read from its start by each of its %d fragments; %s"
        logger.warning(message, what, size // 1_000_000, parts, remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusRow:
    """One row of a corpus, as read; nothing in it has been decoded."""

    uid: str
    """See `make_uid`, or the value of the column named as uid."""
    uri: str
    """Where it is: an image's own uri, or `container#key`."""
    index: int
    """Position within its fragment."""
    images: tuple[bytes, ...] = ()
    """Encoded images, in order; empty if the row is refused."""
    image_uris: tuple[str, ...] = ()
    """Where each image came from; `container#key` for bytes that the container itself holds."""
    text: str | None = None
    """Caption, NFC, without control characters."""
    conversations: str | None = None
    """Canonical JSON list of `{"from": "system"|"human"|"gpt", "value": text}`."""
    metadata: str = "{}"
    """JSON object of the remaining scalars, keys sorted."""
    embedding: tuple[float, ...] | None = None
    """Of the column that is named as such."""
    error: str | None = None
    """Reason code, if the row cannot be used."""
    error_detail: str | None = None
    """For people."""


def printable(text: str, max_chars: int = 400) -> str:
    """Return text that any log and any table can take: UTF-8, controls escaped, cut.

    Example:
        >>> printable("a\\x1b[31m\\udcff")
        'a\\\\x1b[31m\\\\udcff'
    """
    shown = text[:max_chars].encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


def rejected_row(fragment: Fragment, index: int, reason: str, detail: str | None) -> CorpusRow:
    """Return the row that says why a row cannot be used; `detail` is made `printable`."""
    return CorpusRow(
        uid=fragment.row_uid(index),
        uri=fragment.row_uri(index),
        index=index,
        error=str(reason),
        error_detail=detail and printable(detail),
    )


def total_rows(fragments: Iterable[Fragment]) -> int:
    """Return how many rows a plan has."""
    return sum(fragment.num_rows for fragment in fragments)
