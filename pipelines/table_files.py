"""The files of a snapshot: which fragment's rows they hold, and what takes rows out of them in one commit.

`parts` writes files of one fragment each. A compaction mixes them: such a file is read, and written again without the
rows that leave. What this does *not* do: commit (`tables`).
"""

import time
from collections import Counter
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from pipelines.parts import PARTITION, PartFile, write_part
from pipelines.storage import StorageOptions, join_uri, open_uri

File = dict[str, Any]
"""A file of a snapshot by delta's flattened names: path, size_bytes, num_records, partition.status, min.run_id, …"""


def run_files(table: DeltaTable, run_id: str) -> tuple[dict[str, list[File]], list[File]]:
    """Return the files of each fragment of a run, and those that mix fragments, of which some may be the run's."""
    own: dict[str, list[File]] = {}
    mixed = []
    for file in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        first, last = ((file.get(f"{end}.run_id"), file.get(f"{end}.fragment_id")) for end in ("min", "max"))
        if None in (*first, *last) or (first != last and first[0] <= run_id <= last[0]):
            mixed.append(file)
        elif first == last and first[0] == run_id:
            own.setdefault(str(first[1]), []).append(file)
    return own, mixed


def add_action(part: PartFile) -> AddAction:
    """Return the log's entry for a part file."""
    return AddAction(part.path, part.size, {PARTITION: part.status}, _now_ms(), True, part.stats)


def remove_action(file: File) -> RemoveAction:
    """Return the log's entry that takes a file out."""
    partition = {PARTITION: file[f"partition.{PARTITION}"]}
    return RemoveAction(file["path"], True, _now_ms(), file["size_bytes"], partition)


def take_out(
    table: DeltaTable,
    table_uri: str,
    run_id: str,
    names: Collection[str],
    *,
    only: str | None = None,
    storage_options: StorageOptions | None = None,
) -> tuple[list[AddAction | RemoveAction], Counter[str]]:
    """Take fragments of a run out of a snapshot.

    Args:
        table: the snapshot.
        table_uri: where it is.
        run_id: the run.
        names: of the fragments.
        only: the status of the rows that leave; all of them if left out.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        The log's entries, and how many rows of each fragment leave with them.
    """
    own, mixed = run_files(table, run_id) if names else ({}, [])
    actions: list[AddAction | RemoveAction] = []
    counts: Counter[str] = Counter()
    for name in names:
        for file in own.get(name, ()):
            if only in (None, file[f"partition.{PARTITION}"]):
                actions.append(remove_action(file))
                counts[name] += file["num_records"]
    for file in mixed:
        status = file[f"partition.{PARTITION}"]
        if only not in (None, status):
            continue
        with open_uri(join_uri(table_uri, file["path"]), storage_options) as handle:
            rows = pq.read_table(handle)
        leaves = pc.and_(
            pc.equal(rows["run_id"], run_id), pc.is_in(rows["fragment_id"], value_set=pa.array(names, pa.string()))
        )
        gone = rows["fragment_id"].filter(leaves).to_pylist()
        if gone:
            counts.update(gone)
            actions.append(remove_action(file))
            schema = pa.schema([field for field in pa.schema(table.schema().to_arrow()) if field.name != PARTITION])
            kept = rows.filter(pc.invert(leaves)).select(schema.names).cast(schema)
            if kept.num_rows:
                actions.append(add_action(write_part(kept, table_uri, "mixed", status, storage_options)))
    return actions, counts


def _now_ms() -> int:
    return int(time.time() * 1000)
