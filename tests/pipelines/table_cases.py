"""Rows, schemas and tables for the table tests: every row differs, so a lost or doubled one shows."""

from collections import Counter

import pyarrow as pa
from deltalake import DeltaTable

from pipelines.parts import Receipt, write_fragment
from schemas.columns import ERROR, FRAGMENT_ID, RUN_ID, STATUS, UID

SCHEMA = pa.schema(
    [
        UID,
        pa.field("words", pa.list_(pa.string())),
        pa.field("size", pa.struct([pa.field("height", pa.int32()), pa.field("width", pa.int32())])),
        pa.field("score", pa.float32()),
        FRAGMENT_ID,
        RUN_ID,
        STATUS,
        ERROR,
    ]
)


def rows(
    fragment_id: str, ok: int, rejected: int = 0, *, run_id: str = "run", reason: str = "EMPTY", attempt: int = 0
) -> pa.Table:
    """Make `ok` rows, then `rejected` rows; another attempt has other results, as from a model that is not exact."""
    count = ok + rejected
    return pa.table(
        {
            "uid": [f"{fragment_id}:{index}" for index in range(count)],
            "words": [[fragment_id, str(index)] if index % 3 else None for index in range(count)],
            "size": [{"height": 10 + index, "width": 20 + index} for index in range(count)],
            "score": [index / 7 + attempt for index in range(count)],
            "fragment_id": [fragment_id] * count,
            "run_id": [run_id] * count,
            "status": ["ok"] * ok + ["rejected"] * rejected,
            "error": [None] * ok + [reason] * rejected,
        },
        schema=SCHEMA,
    )


def write(
    table_uri: str,
    fragment_id: str,
    ok: int = 2,
    rejected: int = 1,
    *,
    run_id: str = "run",
    reason: str = "EMPTY",
    attempt: int = 0,
) -> Receipt:
    """Write the rows of a fragment as a worker does."""
    table = rows(fragment_id, ok, rejected, run_id=run_id, reason=reason, attempt=attempt)
    return write_fragment(table, SCHEMA, table_uri=table_uri, fragment_id=fragment_id, run_id=run_id)


def fragment_counts(table_uri: str, options: dict[str, str] | None = None) -> Counter[str]:
    """Read the table and count rows by uid; any count but 1 is a doubled row."""
    table = DeltaTable(table_uri, storage_options=options).to_pyarrow_table(columns=["uid"])
    return Counter(table["uid"].to_pylist())


def uids(*fragments: tuple[str, int]) -> Counter[str]:
    """The oracle: each row of each fragment once."""
    return Counter(f"{name}:{index}" for name, count in fragments for index in range(count))
