"""What is done to a whole table on purpose: replace it, take a run out, go back, remove files that nothing refers to.

What this does *not* do: the everyday commit, in `tables`.
"""

import re
from collections.abc import Iterable, Sequence

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.transaction import AddAction, RemoveAction

from llava_core.errors import ConfigError
from pipelines.errors import TableError
from pipelines.parts import Receipt, check_id
from pipelines.storage import StorageOptions, filesystem, join_uri
from pipelines.table_files import remove_action
from pipelines.tables import (
    WHOLE_TABLE,
    CommitReport,
    add_actions,
    counter,
    create_table,
    generation,
    live_fragments,
    open_table,
    retry_conflicts,
    swap,
)

_OURS = re.compile(r"status=[a-z]+/part-[^/]+\.parquet(\.[0-9a-f]+\.tmp)?")
LEAST_RETENTION_HOURS = 24
"""Longer than any task may take between writing a part and its commit."""


def overwrite(table_uri: str, *, run_id: str | None = None, storage_options: StorageOptions | None = None) -> None:
    """Empty a table, or take one run out of it, in one commit, so that its fragments are made again.

    Args:
        table_uri: the table; nothing happens where there is none.
        run_id: the run; None empties the table of all runs.
        storage_options: see `storage.storage_options`; None reads the environment.

    Raises:
        ConflictError: other writers were faster 30 times in a row.
    """

    def attempt() -> None:
        table = open_table(table_uri, storage_options)
        if table is None:
            return
        if run_id is None:
            swap(table, [], {WHOLE_TABLE: _times(table, WHOLE_TABLE) + 1}, mode="overwrite")
            return
        mark = Transaction(check_id("run_id", run_id), _times(table, run_id) + 1)
        properties = CommitProperties(max_commit_retries=0, app_transactions=[mark])
        table.delete(f"run_id = '{run_id}'", commit_properties=properties)

    retry_conflicts(attempt, table_uri)


def replace_table(
    table_uri: str,
    receipts: Sequence[Receipt],
    *,
    run_id: str,
    schema: pa.Schema,
    kept: Iterable[str] = (),
    storage_options: StorageOptions | None = None,
) -> CommitReport:
    """Replace all rows of a table by a run's, in one commit; for stages that look at everything at once.

    Args:
        table_uri: the table; made if it is missing.
        receipts: all of the run but for `kept`; without either the table is empty afterwards.
        run_id: the run. Where its fragments are what the table holds already, nothing is committed.
        schema: of the table.
        kept: fragments of the run that the table holds and that stay as they are.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        The receipts' fragments as `committed`, or as `already` where nothing was; fragments of any run that left as
        `withdrawn`.

    Raises:
        TableError: two receipts of one fragment, one of another run, or a fragment to be kept that is not there.
        ConflictError: other writers were faster 30 times in a row.
    """
    names, stay = sorted({receipt.fragment_id for receipt in receipts}), set(kept)
    if len(names) != len(receipts) or {receipt.run_id for receipt in receipts} - {run_id} or stay & set(names):
        raise TableError(f"replacing {table_uri} needs receipts of run {run_id}, one for each fragment; got {names}")

    def attempt() -> CommitReport:
        table = create_table(table_uri, schema, storage_options=storage_options)
        done = generation(table, run_id)
        if lost := stay - live_fragments(table, run_id):
            raise TableError(f"{table_uri} no longer holds {len(lost)} fragments of run {run_id}; run it again")
        gone, withdrawn = _others(table, run_id, stay, {file.path for receipt in receipts for file in receipt.files})
        if not gone and all(table.transaction_version(f"{run_id}/{name}") == done for name in names):
            return CommitReport(committed=(), already=tuple(names), withdrawn=(), version=table.version())
        marks = {f"{run_id}/{name}": done + 1 for name in (*names, *stay)}
        marks |= {WHOLE_TABLE: _times(table, WHOLE_TABLE) + 1, counter(run_id, done + 1): len(names) + len(stay)}
        swap(table, [*add_actions(receipts), *gone], marks)
        return CommitReport(committed=tuple(names), already=(), withdrawn=tuple(withdrawn), version=table.version() + 1)

    return retry_conflicts(attempt, table_uri)


def restore(table_uri: str, version: int, *, storage_options: StorageOptions | None = None) -> int:
    """Bring back the rows of an earlier version, as a new one, in which the fragments that it names are committed.

    Marks of what was committed since count no longer.

    Args:
        table_uri: the table.
        version: an earlier one, whose files are still there.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        The new version.

    Raises:
        ConfigError: there is no such table or version.
        ConflictError: other writers were faster 30 times in a row.
    """

    def attempt() -> int:
        table = open_table(table_uri, storage_options)
        if table is None or not 0 <= version < table.version():
            newest = "no table" if table is None else f"version {table.version()}"
            raise ConfigError(f"there is no version {version} before the newest of {table_uri}: {newest}")
        marks = {WHOLE_TABLE: _times(table, WHOLE_TABLE) + 1}
        then = open_table(table_uri, storage_options)
        assert then is not None, "it was there a line ago"
        then.load_as_version(version)
        for run_id in _runs(then):
            done, fragments = generation(table, run_id) + 1, live_fragments(then, run_id)
            marks |= {f"{run_id}/{name}": done for name in fragments} | {counter(run_id, done): len(fragments)}
        properties = CommitProperties(
            max_commit_retries=0, app_transactions=[Transaction(name, value) for name, value in sorted(marks.items())]
        )
        table.restore(version, commit_properties=properties)
        return table.version()

    return retry_conflicts(attempt, table_uri)


def vacuum(
    table_uri: str,
    *,
    retention_hours: int = 168,
    dry_run: bool = True,
    storage_options: StorageOptions | None = None,
) -> list[str]:
    """Remove part files that no version within the retention refers to; never run it beside a running job.

    Time travel to versions older than the retention ends. Other files in the folder (reports, `_run`) stay.

    Args:
        table_uri: the table.
        retention_hours: hours; younger files stay, referred to or not.
        dry_run: only say what would be removed.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        Paths relative to the table.

    Raises:
        ConfigError: the retention is below 24 hours.
    """
    if retention_hours < LEAST_RETENTION_HOURS:
        raise ConfigError(f"retention_hours is {retention_hours}; expected at least {LEAST_RETENTION_HOURS}")
    table = open_table(table_uri, storage_options)
    if table is None:
        return []
    found = table.vacuum(retention_hours, dry_run=True, enforce_retention_duration=False, full=True)
    ours = sorted(path for path in found if _OURS.fullmatch(path))
    for path in () if dry_run else ours:
        store, place = filesystem(join_uri(table_uri, path), storage_options)
        store.rm_file(place)
    return ours


def _others(
    table: DeltaTable, run_id: str, stay: set[str], added: set[str]
) -> tuple[list[AddAction | RemoveAction], list[str]]:
    """Remove-actions for all files but those of some fragments and those that are added; and whose files they are."""
    gone: list[AddAction | RemoveAction] = []
    names: set[str] = set()
    for file in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        run, first, last = file["min.run_id"], file["min.fragment_id"], file["max.fragment_id"]
        stays = run == run_id == file["max.run_id"] and first == last and first in stay
        if not stays and file["path"] not in added:
            gone.append(remove_action(file))
            names.add(str(first))
    return gone, sorted(names)


def _runs(table: DeltaTable) -> list[str]:
    """Runs that a snapshot's files name."""
    files = pa.table(table.get_add_actions(flatten=True))
    return sorted(set(files["min.run_id"].to_pylist()) - {None}) if files.num_rows else []


def _times(table: DeltaTable, name: str) -> int:
    return table.transaction_version(name) or 0
