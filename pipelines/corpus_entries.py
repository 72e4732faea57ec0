"""The files of a listing, held packed, because a corpus of millions of files is listed on one machine.

    Entry, … ─ Entries ─▶ Arrow columns, 100 bytes a file or so ─ iteration ─▶ Entry, …

What this does *not* do: list (`corpus_listing`), or know what a file is for.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from llava_core.errors import TesseraError
from pipelines.row_refs import ObjectRef

BLOCK = 8192
"""Entries that are packed, and become objects, at once."""
_OPEN_BLOCKS = 3
"""Blocks that stay open for `find`: the one of a file, and those around it."""
_COLUMNS = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("error", pa.string()),
        pa.field("error_detail", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file of a listing."""

    ref: ObjectRef
    """The file; size 0 and no version where it is refused."""
    name: str
    """Path relative to the listing's root, with forward slashes; a folder that may not be read has one at its end."""
    error: str | None = None
    """Why it must not be opened."""
    error_detail: str | None = None
    """For people."""


class Entries:
    """Entries in the order of their names, each name once; objects are made as they are asked for.

    Args:
        entries: in that order; of several with one name the last counts.

    Raises:
        TesseraError: they are in another order.

    Example:
        >>> refs = (ObjectRef(uri=f"/d/{name}", size=3, version="7") for name in "aab")
        >>> entries = Entries(Entry(ref=ref, name=ref.uri[3:]) for ref in refs)
        >>> len(entries), list(entries.names()), next(iter(entries)).ref.uri
        (2, ['a', 'b'], '/d/a')
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        single = _each_name_once(entries)
        self._blocks: list[pa.RecordBatch] = []
        self._firsts: list[str] = []
        self._opened: dict[int, dict[str, Entry]] = {}
        while block := list(islice(single, BLOCK)):
            self._firsts.append(block[0].name)
            self._blocks.append(_packed(block))

    def __len__(self) -> int:
        return sum(block.num_rows for block in self._blocks)

    def __iter__(self) -> Iterator[Entry]:
        for block in self._blocks:
            yield from _unpacked(block)

    def names(self) -> Iterator[str]:
        """The names alone, in order."""
        for block in self._blocks:
            yield from block.column("name").to_pylist()

    def find(self, name: str) -> Entry | None:
        """The entry of a name, if there is one; quick where names near each other are asked for in turn."""
        place = bisect_right(self._firsts, name) - 1
        if place < 0:
            return None
        if place not in self._opened:
            if len(self._opened) == _OPEN_BLOCKS:
                del self._opened[next(iter(self._opened))]
            self._opened[place] = {entry.name: entry for entry in _unpacked(self._blocks[place])}
        return self._opened[place].get(name)


def _each_name_once(entries: Iterable[Entry]) -> Iterator[Entry]:
    last: Entry | None = None
    for entry in entries:
        if last is not None and entry.name < last.name:
            raise TesseraError(f"a listing has {entry.name!r} after {last.name!r}")
        if last is not None and entry.name != last.name:
            yield last
        last = entry
    if last is not None:
        yield last


def _unpacked(block: pa.RecordBatch) -> Iterator[Entry]:
    columns = (column.to_pylist() for column in block.columns)
    for name, uri, size, version, error, detail in zip(*columns, strict=True):
        ref = ObjectRef(uri=uri, size=size, version=version)
        yield Entry(ref=ref, name=name, error=error, error_detail=detail)


def _packed(entries: list[Entry]) -> pa.RecordBatch:
    columns = (
        [entry.name for entry in entries],
        [entry.ref.uri for entry in entries],
        [entry.ref.size for entry in entries],
        [entry.ref.version for entry in entries],
        [entry.error for entry in entries],
        [entry.error_detail for entry in entries],
    )
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _COLUMNS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_COLUMNS)


NO_ENTRIES = Entries()
