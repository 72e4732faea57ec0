"""Corpus of JSON: lines (JSONL), or one list of records (LLaVA, ShareGPT), each record a row.

The driver finds where records begin and end, without parsing them and without holding the file; workers read only
their own byte ranges and parse strictly. A record that is cut, or broken, is one rejected row and never its
neighbours'. What this does *not* do: decide what a field means (`corpus_records`).
"""

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from pipelines.corpus_entries import Entry
from pipelines.corpus_listing import Listing, check_entry
from pipelines.corpus_records import name_fields, record_row
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.corpus_sources import StorageOptions, open_object
from pipelines.corpus_text import parse_json
from pipelines.fragments import (
    CorpusRefused,
    CorpusRow,
    Fragment,
    FragmentKind,
    cut_evenly,
    make_fragment,
    refused_fragment,
    rejected_row,
)
from pipelines.row_refs import Member, RowRef
from schemas.reasons import CorpusReason

CHUNK = 4 * 2**20
_BOM = b"\xef\xbb\xbf"
# A whole string at once, where the chunk has all of it; else its first quote, and `_INSIDE` from there.
_OUTSIDE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
_QUOTE = ord('"')
_INSIDE = re.compile(rb'["\\]')

Span = tuple[int, int, str | None]
"""First byte, one past the last, and what is wrong with the record as far as the scan can tell."""


def plan_json(entry: Entry, listing: Listing, settings: CorpusSettings, options: StorageOptions) -> Iterator[Fragment]:
    """Cut the records of one file into fragments of `rows_per_fragment`."""
    root = entry.ref.uri.rpartition("/")[0]
    try:
        check_entry(entry)
        with open_object(entry.ref, options) as handle:
            lines = entry.name.lower().endswith((".jsonl", ".ndjson")) or _first_byte(handle) != b"["
            rows = [_row_ref(number, span, settings) for number, span in enumerate(_spans(handle, lines))]
    except CorpusRefused as refusal:
        yield refused_fragment(
            kind="json",
            source=listing.source,
            root=root,
            container=entry.ref,
            reason=refusal.reason,
            detail=refusal.detail,
        )
        return
    kind: FragmentKind = "jsonl" if lines else "json"
    for run in cut_evenly(len(rows), settings.rows_per_fragment):
        part = tuple(rows[run.start : run.stop])
        yield make_fragment(
            kind=kind, source=listing.source, root=root, container=entry.ref, start=run.start, rows=part
        )


def _row_ref(number: int, span: Span, settings: CorpusSettings) -> RowRef:
    start, stop, fault = span
    member = Member(name="", offset=start, size=stop - start)
    if fault:
        return RowRef(key=str(number), members=(member,), error=str(CorpusReason.BAD_JSON), error_detail=fault)
    if member.size > settings.max_record_bytes:
        detail = f"a record of {member.size} bytes; at most {settings.max_record_bytes} are read"
        return RowRef(key=str(number), members=(member,), error=str(CorpusReason.TOO_LARGE), error_detail=detail)
    return RowRef(key=str(number), members=(member,))


def _first_byte(handle: BinaryIO) -> bytes:
    head = handle.read(4096).removeprefix(_BOM).lstrip()
    handle.seek(0)
    return head[:1]


def _spans(handle: BinaryIO, lines: bool) -> Iterator[Span]:
    scan: Callable[[Iterator[tuple[int, bytes]]], Iterator[Span]] = scan_lines if lines else scan_list
    return scan(chunks_of(handle))


def chunks_of(handle: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of a file, read a few MiB at a time."""
    offset = 0
    while chunk := handle.read(CHUNK):
        yield offset, chunk
        offset += len(chunk)


def scan_lines(chunks: Iterator[tuple[int, bytes]]) -> Iterator[Span]:
    """Yield the byte range of each line that is not blank.

    Args:
        chunks: offset and bytes, gapless, from offset 0.

    Example:
        >>> list(scan_lines(iter([(0, b'{"a":1}\\n\\n{"b'), (12, b'":2}')])))
        [(0, 7, None), (9, 16, None)]
    """
    start, end, filled = 0, 0, False
    for offset, chunk in chunks:
        position = 0
        while (found := chunk.find(b"\n", position)) >= 0:
            if filled or chunk[position:found].strip():
                yield start, offset + found, None
            position, filled = found + 1, False
            start = offset + position
        filled = filled or bool(chunk[position:].strip())
        end = offset + len(chunk)
    if filled:
        yield start, end, None


def scan_list(chunks: Iterator[tuple[int, bytes]]) -> Iterator[Span]:
    """Yield the byte range of each element of a JSON list; a last one for what is cut, or follows the list.

    Only strings and brackets are followed, so that a chunk border may fall anywhere and memory stays constant.

    Args:
        chunks: offset and bytes, gapless, from offset 0; the first character is "[".

    Example:
        >>> list(scan_list(iter([(0, b'[{"a]":1}, {"b'), (14, b'":[2]}]')])))
        [(1, 9, None), (10, 20, None)]
        >>> list(scan_list(iter([(0, b'[{"a":1}, {"b":')])))
        [(1, 8, None), (9, 15, 'the file ends within a record')]
    """
    depth, in_string, escaped, opened, closed = 0, False, False, False, False
    start, end, filled = 0, 0, False
    for offset, chunk in chunks:
        end = offset + len(chunk)
        position = 1 if escaped else 0
        seen = 0
        escaped = False
        while not closed and (found := (_INSIDE if in_string else _OUTSIDE).search(chunk, position)):
            place, token, position = found.start(), found[0], found.end()
            if in_string:
                in_string = token == b"\\"
                if token == b"\\":
                    escaped = position == len(chunk)
                    position += 1
            elif token[0] == _QUOTE:
                in_string = len(token) == 1
            elif depth == 1 and token in b",]":
                content = filled or bool(chunk[seen:place].strip())
                if content or token == b",":
                    yield start, offset + place, None if content else "an empty element"
                closed = token == b"]"
                start, seen, filled = offset + place + 1, place + 1, False
            else:
                depth += 1 if token in b"[{" else -1 if token in b"]}" else 0
                if not opened:
                    opened, start, seen = True, offset + place + 1, place + 1
        filled = opened and (filled or bool(chunk[seen:].strip()))
    if filled or not closed:
        yield start, end, "something follows the list" if closed else "the file ends within a record"


def read_json(
    fragment: Fragment, columns: CorpusColumns, settings: CorpusSettings, options: StorageOptions = None
) -> Iterator[CorpusRow]:
    """Yield a fragment's rows in order.

    Raises:
        InputChanged: the file is not what it was when the plan was made.
    """
    assert fragment.container is not None, "a fragment of JSON has a container"
    if all(row.error for row in fragment.rows):
        yield from (rejected_row(fragment, i, row.error or "", row.error_detail) for i, row in enumerate(fragment.rows))
        return
    try:
        with open_object(fragment.container, options) as handle:
            for index in range(fragment.num_rows):
                yield _read_row(handle, fragment, index, columns, settings, options)
    except CorpusRefused as refusal:
        for index in range(fragment.num_rows):
            yield rejected_row(fragment, index, refusal.reason, refusal.detail)


def _read_row(
    handle: BinaryIO,
    fragment: Fragment,
    index: int,
    columns: CorpusColumns,
    settings: CorpusSettings,
    options: StorageOptions,
) -> CorpusRow:
    row = fragment.rows[index]
    if row.error:
        return rejected_row(fragment, index, row.error, row.error_detail)
    handle.seek(row.members[0].offset)
    try:
        record = parse_json(handle.read(row.members[0].size).strip())
        if not isinstance(record, dict):
            raise CorpusRefused(CorpusReason.BAD_JSON, f"a record is {type(record).__name__}, expected an object")
    except CorpusRefused as refusal:
        return rejected_row(fragment, index, refusal.reason, refusal.detail)
    return record_row(fragment, index, record, name_fields(list(record), columns), settings, options)
