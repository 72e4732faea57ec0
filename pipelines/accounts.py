"""What is in a table: rows by run, status and reason, and whether they are all that went in.

Counts come from the log's statistics where a file is of one run and one reason, as `parts` writes them; other files
(after a compaction) are read, two columns of them.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from pipelines.errors import AccountingError
from pipelines.parts import PARTITION
from pipelines.storage import StorageOptions, join_uri, open_uri
from pipelines.tables import dataset, open_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Rows of one run in a table."""

    ok: int
    """Rows with a result."""
    rejected: Mapping[str, int]
    """Rejected rows by reason, most first."""

    @property
    def rows(self) -> int:
        """All rows: ok and rejected."""
        return self.ok + sum(self.rejected.values())


def rejected(
    table_uri: str, run_id: str, columns: Sequence[str], *, storage_options: StorageOptions | None = None
) -> pa.Table:
    """Read a run's rejected rows in a table's newest snapshot; no row where there is no table.

    Args:
        table_uri: the table.
        run_id: the run.
        columns: what is read of them.
        storage_options: see `storage.storage_options`; None reads the environment.
    """
    table = open_table(table_uri, storage_options)
    if table is None:
        return pa.table({name: [] for name in columns})
    wanted = (pc.field("run_id") == run_id) & (pc.field(PARTITION) == "rejected")
    return dataset(table).to_table(columns=list(columns), filter=wanted)


def counts(
    table_uri: str,
    run_id: str,
    *,
    fragment_ids: Collection[str] | None = None,
    storage_options: StorageOptions | None = None,
) -> Counts:
    """Count the rows of a run in a table's newest snapshot; zeros where there is no table.

    Args:
        table_uri: the table.
        run_id: the run.
        fragment_ids: count only these fragments' rows (a run may hold more inputs than today's); None counts all.
        storage_options: see `storage.storage_options`; None reads the environment.
    """
    table = open_table(table_uri, storage_options)
    found: Counter[str] = Counter()
    wanted = None if fragment_ids is None else frozenset(fragment_ids)
    for file in files(table) if table else ():
        owner, fragment, reason = _only(file, "run_id"), _only(file, "fragment_id"), _only(file, "error")
        if owner not in (None, run_id) or (wanted is not None and fragment is not None and fragment not in wanted):
            continue
        ok = file[f"partition.{PARTITION}"] == "ok"
        if owner == run_id and (wanted is None or fragment is not None) and (ok or reason is not None):
            found["" if ok else str(reason)] += file["num_records"]
        else:
            found.update(_read_reasons(join_uri(table_uri, file["path"]), run_id, wanted, storage_options))
    return Counts(ok=found.pop("", 0), rejected=dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))))


def check_accounts(found: Counts, rows_in: int) -> None:
    """Hold a finished run to its promise: every input row is exactly one output row.

    Args:
        found: what is in the table.
        rows_in: rows of all planned fragments.

    Raises:
        AccountingError: naming both sums.

    >>> check_accounts(Counts(ok=3, rejected={"EMPTY": 1}), 4)
    >>> check_accounts(Counts(ok=3, rejected={"EMPTY": 2}), 4)
    Traceback (most recent call last):
    pipelines.errors.AccountingError: 4 rows in, 5 rows out (3 ok, EMPTY 2): 1 too many
    """
    if found.rows == rows_in:
        return
    parts = ", ".join([f"{found.ok} ok", *(f"{reason} {count}" for reason, count in found.rejected.items())])
    off = f"{found.rows - rows_in} too many" if found.rows > rows_in else f"{rows_in - found.rows} missing"
    raise AccountingError(f"{rows_in} rows in, {found.rows} rows out ({parts}): {off}")


def files(table: DeltaTable) -> Iterator[dict[str, Any]]:
    """Give each file of a snapshot with its size, partition and statistics, by delta's flattened names."""
    yield from pa.table(table.get_add_actions(flatten=True)).to_pylist()


def _only(file: Mapping[str, Any], column: str) -> str | None:
    """The value that all rows of a file have in a column; None where they differ or nobody noted it."""
    least: str | None = file[f"min.{column}"]
    return least if least == file[f"max.{column}"] else None


def _read_reasons(uri: str, run_id: str, wanted: frozenset[str] | None, options: StorageOptions | None) -> list[str]:
    """Reasons of a run's (and, if given, some fragments') rows in one file; "" for a row that is ok."""
    with open_uri(uri, options) as file:
        rows = pq.read_table(file, columns=["run_id", "fragment_id", "error"]).to_pylist()
    kept = (row for row in rows if row["run_id"] == run_id and (wanted is None or row["fragment_id"] in wanted))
    return [row["error"] or "" for row in kept]
