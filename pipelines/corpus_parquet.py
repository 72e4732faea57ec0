"""Corpus of Parquet: each row an image, as bytes or as a URI; a fragment is a range of rows, cut at row groups.

The driver reads footers only; a worker streams the columns it needs, batch by batch, and validates each batch in full
before it looks inside. A file whose rows cannot be known, or that is not to be trusted, is one refused row.
What this does *not* do: read a column that is neither named nor scalar, or rebuild an extension type.
"""

import dataclasses
import itertools
import logging
import struct
from collections.abc import Iterator, Set
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pat

from pipelines.corpus_columns import check_footer, choose_columns
from pipelines.corpus_entries import Entry
from pipelines.corpus_listing import Listing, check_entry
from pipelines.corpus_records import record_row
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.corpus_sources import StorageOptions, open_object
from pipelines.fragments import (
    MAX_ROWS,
    CorpusRefused,
    CorpusRow,
    Fragment,
    cut_evenly,
    make_fragment,
    refused_fragment,
    rejected_row,
    warn_of_rereading,
)
from schemas.reasons import CorpusReason

logger = logging.getLogger(__name__)

MAGIC = b"PAR1"
_MAX_BATCH_ROWS = 64
_BATCH_BYTES = 64 * 2**20
_MAX_FOOTER = 256 * 2**20
_FREE_ROWS = 1_000_000
_MAX_GROUP_BYTES = 2**40
_BUFFER = 2**20
_NO_PYTHON_VALUE = (OverflowError, KeyError, ValueError)
"""What Arrow raises for a date after the year 9999, or a time zone that nobody knows."""


def plan_parquet(
    entry: Entry, listing: Listing, columns: CorpusColumns, settings: CorpusSettings, options: StorageOptions
) -> Iterator[Fragment]:
    """Cut the rows of one file into fragments that keep to its row groups where these are small enough."""
    root = entry.ref.uri.rpartition("/")[0]
    try:
        check_entry(entry)
        with open_object(entry.ref, options) as handle:
            file = _open_parquet(handle, entry.ref.size)
            choose_columns(file.schema_arrow, columns)
            groups = _group_rows(file, entry.ref.size)
            _warn_of_large_groups(file.metadata, entry.ref.uri)
    except CorpusRefused as refusal:
        yield refused_fragment(
            kind="parquet",
            source=listing.source,
            root=root,
            container=entry.ref,
            reason=refusal.reason,
            detail=refusal.detail,
        )
        return
    for run in cut_by_groups(groups, settings.rows_per_fragment):
        yield make_fragment(
            kind="parquet",
            source=listing.source,
            root=root,
            container=entry.ref,
            start=run.start,
            num_rows=len(run),
        )


def cut_by_groups(groups: list[int], target_rows: int) -> Iterator[range]:
    """Cut a file's rows at row groups: whole ones until `target_rows` are reached, a larger one in even parts.

    Args:
        groups: rows of each row group.
        target_rows: rows at which a fragment is full.

    Example:
        >>> list(cut_by_groups([100, 100, 100, 3000, 5], 150))
        [range(0, 200), range(200, 300), range(300, 1300), range(1300, 2300), range(2300, 3300), range(3300, 3305)]
    """
    start = end = 0
    for rows in groups:
        if end > start and (end - start >= target_rows or end - start + rows > MAX_ROWS):
            yield range(start, end)
            start = end
        end += rows
        if rows > MAX_ROWS:
            parts = -(-rows // MAX_ROWS)
            for part in cut_evenly(rows, -(-rows // parts)):
                yield range(start + part.start, start + part.stop)
            start = end
    if end > start:
        yield range(start, end)


def _open_parquet(handle: BinaryIO, size: int) -> pq.ParquetFile:
    """Open a file whose footer has been looked at first.

    Raises:
        CorpusRefused: CORRUPT (no footer, encrypted, damaged), MEMORY (a footer beyond all bounds), UNSAFE_TYPE.
    """
    if size < 12:
        raise CorpusRefused(CorpusReason.CORRUPT, f"{size} bytes are no Parquet file")
    handle.seek(size - 8)
    length, magic = struct.unpack("<I4s", handle.read(8))
    if magic != MAGIC:
        raise CorpusRefused(CorpusReason.CORRUPT, f"ends in {magic!r}, expected {MAGIC!r}: cut, encrypted, no Parquet")
    if length > size - 12:
        raise CorpusRefused(CorpusReason.CORRUPT, f"a footer of {length} bytes in a file of {size}")
    if length > _MAX_FOOTER:
        raise CorpusRefused(CorpusReason.MEMORY, f"a footer of {length} bytes")
    handle.seek(size - 8 - length)
    check_footer(handle.read(length))
    handle.seek(0)
    try:
        return pq.ParquetFile(handle, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        raise CorpusRefused(CorpusReason.CORRUPT, str(error)[:300]) from error


def _group_rows(file: pq.ParquetFile, size: int) -> list[int]:
    """Return the rows of each row group.

    Raises:
        CorpusRefused: MEMORY or CORRUPT where a footer claims what the file cannot hold.
    """
    metadata = file.metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if sum(rows) != metadata.num_rows or any(count < 0 for count in rows):
        raise CorpusRefused(CorpusReason.CORRUPT, f"row groups of {sum(rows)} rows, a file of {metadata.num_rows}")
    if sum(rows) > max(_FREE_ROWS, size):
        raise CorpusRefused(CorpusReason.MEMORY, f"{sum(rows)} rows claimed by {size} bytes")
    if any(group.total_byte_size > _MAX_GROUP_BYTES for group in groups):
        raise CorpusRefused(CorpusReason.MEMORY, f"a row group claims more than {_MAX_GROUP_BYTES} bytes")
    return rows


def _warn_of_large_groups(metadata: pq.FileMetaData, uri: str) -> None:
    """Warn once of the largest row group, if each of its fragments has to read far into it."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    if groups:
        largest = max(groups, key=lambda group: group.total_byte_size)
        remedy = f"write the file with row_group_size={MAX_ROWS}"
        parts = -(-largest.num_rows // MAX_ROWS)
        warn_of_rereading(f"a row group of {uri}", largest.total_byte_size, parts, remedy)


def _is_scalar(kind: pa.DataType) -> bool:
    """Whether a column is metadata: neither nested nor bytes."""
    if isinstance(kind, pa.BaseExtensionType):
        return False
    if pat.is_dictionary(kind):
        return _is_scalar(kind.value_type)
    return not (pat.is_nested(kind) or pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_binary_view(kind))


def read_parquet(
    fragment: Fragment, columns: CorpusColumns, settings: CorpusSettings, options: StorageOptions = None
) -> Iterator[CorpusRow]:
    """Yield a fragment's rows in order.

    Raises:
        InputChanged: the file is not what it was when the plan was made.
    """
    assert fragment.container is not None, "a fragment of Parquet has a container"
    if fragment.rows:
        yield rejected_row(fragment, 0, fragment.rows[0].error or "", fragment.rows[0].error_detail)
        return
    done = 0
    try:
        with open_object(fragment.container, options) as handle:
            file = _open_parquet(handle, fragment.container.size)
            fields = choose_columns(file.schema_arrow, columns)
            for record in itertools.islice(_records(file, fields, fragment.start, fragment.stop), fragment.num_rows):
                if isinstance(record, CorpusRefused):
                    yield rejected_row(fragment, done, record.reason, record.detail)
                else:
                    yield record_row(fragment, done, record, fields, settings, options)
                done += 1
        refusal = CorpusRefused(CorpusReason.CORRUPT, "the row groups hold fewer rows than the footer says")
    except CorpusRefused as raised:
        refusal = raised
    for index in range(done, fragment.num_rows):
        yield rejected_row(fragment, index, refusal.reason, refusal.detail)


def _records(
    file: pq.ParquetFile, fields: CorpusColumns, start: int, stop: int
) -> Iterator[dict[str, Any] | CorpusRefused]:
    """Yield rows [start, stop) as dictionaries, streaming only the row groups and columns that hold them."""
    named = {getattr(fields, field.name) for field in dataclasses.fields(fields)}
    names = [field.name for field in file.schema_arrow if field.name in named or _is_scalar(field.type)]
    position = 0
    for index in range(file.num_row_groups):
        group = file.metadata.row_group(index)
        first, position = position, position + group.num_rows
        low, high = max(start, first) - first, min(stop, position) - first
        if low < high:
            batch_rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * group.num_rows // max(group.total_byte_size, 1)))
            batches = file.iter_batches(batch_rows, row_groups=[index], columns=names)
            yield from _group_records(batches, low, high, named)


def _group_records(
    batches: Iterator[pa.RecordBatch], low: int, high: int, named: Set[str | None]
) -> Iterator[dict[str, Any] | CorpusRefused]:
    """Yield rows [low, high) of one row group; from a damaged page on a refusal for each, other groups are spared."""
    position = 0
    refusal = CorpusRefused(CorpusReason.CORRUPT, "a row group holds fewer rows than the footer says")
    try:
        for batch in batches:
            begin, end = low - position, min(high - position, batch.num_rows)
            position += batch.num_rows
            if begin < end:
                yield from _validated(batch.slice(begin, end - begin), named)
                low += end - begin
            if low == high:
                return
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        refusal = CorpusRefused(CorpusReason.CORRUPT, str(error)[:300])
    for _ in range(low, high):
        yield refusal


def _validated(batch: pa.RecordBatch, named: Set[str | None]) -> Iterator[dict[str, Any] | CorpusRefused]:
    """Yield a batch's rows once Arrow has checked every offset and character; a bad row is refused alone."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if batch.num_rows > 1:
            for index in range(batch.num_rows):
                yield from _validated(batch.slice(index, 1), named)
            return
        reason = CorpusReason.BAD_ENCODING if "UTF8" in str(error) else CorpusReason.CORRUPT
        yield CorpusRefused(reason, str(error)[:300])
        return
    try:
        records = batch.to_pylist()
    except _NO_PYTHON_VALUE:
        records = [_representable(batch, index, named) for index in range(batch.num_rows)]
    yield from records


def _representable(batch: pa.RecordBatch, index: int, named: Set[str | None]) -> dict[str, Any] | CorpusRefused:
    """Return a row without the metadata that Python has no value for; a refusal where a named column has none."""
    record = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            record[name] = column[index].as_py()
        except _NO_PYTHON_VALUE as error:
            if name in named:
                return CorpusRefused(CorpusReason.CORRUPT, f"{name}: {error}"[:300])
    return record
