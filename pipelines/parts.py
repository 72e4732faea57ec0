"""A worker's half of a table: one fragment's rows as content-addressed Parquet files, and a receipt.

The same rows give the same bytes and the same name, so a task that runs twice, or two workers on one fragment, leave
one file. Nothing here makes a row visible: that is the commit, in `tables`, by the driver. A file that is never
committed is removed by `upkeep.vacuum`.

    status=ok/part-{fragment}-{sha256[:12]}.parquet
    status=rejected/part-{fragment}-{sha256[:12]}.parquet

`status` is the partition column: by Delta's convention it is in the path and in the log, not in the file.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import PartError
from pipelines.storage import StorageOptions, filesystem, join_uri, write_bytes

PARTITION = "status"
"""The column that tables are partitioned by."""
STATUSES = ("ok", "rejected")
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PartFile:
    """One Parquet file of one fragment."""

    path: str
    """Relative to the table, `status=…/part-….parquet`."""
    size: int
    """Bytes."""
    rows: int
    """Rows in it."""
    status: str
    """The partition: "ok" or "rejected"."""
    stats: str
    """Delta statistics as JSON: row count, and the columns that are the same in every row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What a worker hands to the driver for one fragment: small, and all that a commit needs."""

    fragment_id: str
    """The fragment."""
    run_id: str
    """The run whose rows these are."""
    files: tuple[PartFile, ...]
    """At most one for each status; none for a fragment without rows."""
    ok: int
    """Rows with a result."""
    rejected: Mapping[str, int]
    """Rejected rows by reason."""

    @property
    def rows(self) -> int:
        """All rows: ok and rejected."""
        return self.ok + sum(self.rejected.values())


def write_fragment(
    table: pa.Table,
    schema: pa.Schema,
    *,
    table_uri: str,
    fragment_id: str,
    run_id: str,
    storage_options: StorageOptions | None = None,
) -> Receipt:
    """Write one fragment's rows beside a table, not yet part of it.

    Args:
        table: the rows, already conformed; all of one fragment and one run.
        schema: the table's schema, `status` included.
        table_uri: where the table is or will be.
        fragment_id: the fragment; letters, digits, "_" and "-" only, since file names derive from it.
        run_id: the run; as `fragment_id`.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        The receipt that `tables.commit` takes. Equal rows give equal file names.

    Raises:
        PartError: the rows break the contract (schema, ids, status, error), or a file did not arrive whole.
    """
    _check_rows(table, schema, fragment_id, run_id)
    files = []
    for status in STATUSES:
        rows = table.filter(pc.equal(table["status"], status))
        if rows.num_rows:
            files.append(write_part(rows.drop_columns(["status"]), table_uri, fragment_id, status, storage_options))
    reasons = Counter(table["error"].drop_null().to_pylist())
    return Receipt(
        fragment_id=fragment_id,
        run_id=run_id,
        files=tuple(files),
        ok=table.num_rows - reasons.total(),
        rejected=dict(sorted(reasons.items())),
    )


def encode_part(rows: pa.Table) -> bytes:
    """Encode rows as Parquet: the same rows in the same order give the same bytes, however they are chunked.

    Args:
        rows: without the partition column.
    """
    # One chunk: where a column is larger than a page, pages are cut by chunk.
    plain = rows.replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(
        plain, sink, row_group_size=max(1, plain.num_rows), compression="zstd", compression_level=3, version="2.6"
    )
    return bytes(sink.getvalue())


def check_id(name: str, value: str) -> str:
    """Return an id that may stand in a file name.

    Raises:
        PartError: it may not.
    """
    if not _ID.fullmatch(value):
        raise PartError(f"{name} is {value!r}; expected 1 to 64 letters, digits, '_' or '-'")
    return value


def _check_rows(table: pa.Table, schema: pa.Schema, fragment_id: str, run_id: str) -> None:
    check_id("fragment_id", fragment_id)
    check_id("run_id", run_id)
    if not table.schema.equals(schema):
        raise PartError(f"fragment {fragment_id}: rows have the schema\n{table.schema}\nexpected\n{schema}")
    for column, value in (("fragment_id", fragment_id), ("run_id", run_id)):
        others = [found for found in table[column].unique().to_pylist() if found != value]
        if others:
            raise PartError(f"fragment {fragment_id}: column {column} holds {others[:3]}; expected only {value!r}")
    strange = [status for status in table["status"].unique().to_pylist() if status not in STATUSES]
    if strange:
        raise PartError(f"fragment {fragment_id}: status is {strange[:3]}; expected one of {STATUSES}")
    failed = pc.is_valid(table["error"])
    if not pc.all(pc.equal(failed, pc.equal(table["status"], "rejected")), min_count=0).as_py():
        raise PartError(f"fragment {fragment_id}: a rejected row needs an error code, and an ok row has none")


def write_part(rows: pa.Table, table_uri: str, name: str, status: str, options: StorageOptions | None) -> PartFile:
    """Write rows of one status as one file.

    Args:
        rows: without the partition column.
        table_uri: where the table is or will be.
        name: goes into the file's name; letters, digits, "_" and "-" only.
        status: the partition.
        options: of the store.

    Raises:
        PartError: the file did not arrive whole.
    """
    data = encode_part(rows)
    path = f"status={status}/part-{name}-{hashlib.sha256(data).hexdigest()[:12]}.parquet"
    uri = join_uri(table_uri, path)
    # Written even where it is already: the same bytes do no harm, and a new date keeps `vacuum` away from it.
    write_bytes(uri, data, options)
    fault = part_fault(uri, len(data), rows.num_rows, options)
    if fault is not None:
        raise PartError(f"{uri} did not arrive whole: {fault}")
    return PartFile(path=path, size=len(data), rows=rows.num_rows, status=status, stats=part_stats(rows))


def part_fault(uri: str, size: int, rows: int, options: StorageOptions | None) -> str | None:
    """Say what is wrong with a stored part, None where nothing is."""
    store, path = filesystem(uri, options)
    try:
        found = store.info(path)["size"]
        if found != size:
            return f"{found} bytes of {size}"
        with store.open(path, "rb") as file:
            counted = pq.read_metadata(file).num_rows
    except FileNotFoundError:
        return "nothing there"
    except pa.ArrowInvalid as error:
        return str(error)
    return None if counted == rows else f"{counted} rows of {rows}"


def part_stats(rows: pa.Table) -> str:
    """Delta statistics: which run and fragment the file is of, and the reasons in it, so that readers can skip it."""
    least, most, nulls = {}, {}, {}
    for column in ("run_id", "fragment_id", "error"):
        found = pc.min_max(rows[column]).as_py()
        nulls[column] = rows[column].null_count
        if found["min"] is not None:
            least[column], most[column] = found["min"], found["max"]
    stats = {"numRecords": rows.num_rows, "minValues": least, "maxValues": most, "nullCount": nulls}
    return json.dumps(stats, sort_keys=True)
