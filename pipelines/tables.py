"""The driver's half of a table: which fragments are in it, and putting in those that are not, each exactly once.

A table is a Delta table partitioned by `status`. A fragment is in it when the log holds the transaction identifier
`{run_id}/{fragment_id}` at the run's generation (1, until the run or the table is overwritten). Every commit is a
compare-and-swap on the log: it names the snapshot that it was decided on and is refused when any other commit came
between; then everything is decided again on the new snapshot. So retries, zombies and several drivers at once cannot
put a fragment in twice, and nobody needs a lock.

What this does *not* do: write rows (`parts`), count them (`accounts`).
"""

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from llava_core.errors import ConfigError
from pipelines.errors import ConflictError, TableError
from pipelines.parts import PARTITION, Receipt
from pipelines.storage import StorageOptions, absolute_uri
from pipelines.storage import storage_options as collect_options
from pipelines.table_files import add_action, run_files, take_out

log = logging.getLogger(__name__)
T = TypeVar("T")

WHOLE_TABLE = "tessera"
"""Transaction identifier whose version counts how often the whole table was replaced."""
WITHDRAWN = 0
"""Version of a fragment that was committed and has since been taken out."""
_ATTEMPTS = 30
_STORE_FAILURES = 3
_FEW = 32
_CHECKPOINT_EVERY = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitReport:
    """What one call of `commit` did."""

    committed: tuple[str, ...]
    """Fragments that this call put in."""
    already: tuple[str, ...]
    """Fragments that were in the table before, by another attempt or another driver."""
    withdrawn: tuple[str, ...]
    """Stale fragments that this call took out."""
    version: int
    """Version of the table that holds all of them."""


def open_table(table_uri: str, storage_options: StorageOptions | None = None) -> DeltaTable | None:
    """Load a table's newest snapshot; None where there is no table."""
    options = dict(collect_options(table_uri) if storage_options is None else storage_options)
    try:
        return DeltaTable(absolute_uri(table_uri), storage_options=options or None)
    except TableNotFoundError:
        return None


def dataset(table: DeltaTable) -> ds.Dataset:
    """The rows of a table's snapshot, to be scanned.

    Arrow's own file system reads local files: through Delta's, which is Python, a thread that still lets go of a file
    when the interpreter ends aborts it (Python 3.11; https://github.com/apache/arrow/issues/34314).
    """
    uri = urlsplit(table.table_uri)
    local = SubTreeFileSystem(url2pathname(uri.path), LocalFileSystem()) if uri.scheme == "file" else None
    rows: ds.Dataset = table.to_pyarrow_dataset(filesystem=local)
    return rows


def create_table(table_uri: str, schema: pa.Schema, *, storage_options: StorageOptions | None = None) -> DeltaTable:
    """Load a table, made first if it is missing; of several creators one wins and all get the same table.

    Args:
        table_uri: a folder, local or in an object store.
        schema: of its rows, `status` included.
        storage_options: see `storage.storage_options`; None reads the environment.

    Raises:
        ConfigError: Delta cannot hold the schema as it is.
        TableError: a table with another schema is there.
    """
    check_schema(schema)
    table = open_table(table_uri, storage_options)
    if table is None:
        options = dict(collect_options(table_uri) if storage_options is None else storage_options)
        try:
            create_table_with_add_actions(
                absolute_uri(table_uri),
                Schema.from_arrow(schema),
                [],
                partition_by=[PARTITION],
                # Each look at a mark reads the log since the last checkpoint; delta's own default is 100 commits.
                configuration={"delta.checkpointInterval": str(_CHECKPOINT_EVERY)},
                storage_options=options or None,
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except DeltaError as error:
            log.info("table %s: another creator was first (%s)", table_uri, error)
        table = open_table(table_uri, storage_options)
        if table is None:
            raise TableError(f"{table_uri}: the table could not be made; see the log before this")
    found = pa.schema(table.schema().to_arrow())
    if not found.equals(schema):
        raise TableError(
            f"{table_uri} holds another schema\n{found}\nexpected\n{schema}\nuse another --output for this version"
        )
    return table


def check_schema(schema: pa.Schema) -> None:
    """Hold a schema to what Delta gives back unchanged.

    Raises:
        ConfigError: naming the columns that are missing or would come back as another type.
    """
    missing = [name for name in (PARTITION, "run_id", "fragment_id", "error") if name not in schema.names]
    if missing:
        raise ConfigError(f"a table needs the columns {', '.join(missing)}; the schema has {', '.join(schema.names)}")
    back = pa.schema(Schema.from_arrow(schema).to_arrow())
    changed = [
        f"{a.name}: {a.type} would become {b.type}" for a, b in zip(schema, back, strict=True) if not a.equals(b)
    ]
    if changed:
        raise ConfigError(f"Delta cannot hold these columns as they are: {'; '.join(changed)}")


def commit(
    table_uri: str,
    receipts: Sequence[Receipt],
    *,
    run_id: str,
    schema: pa.Schema,
    stale: Iterable[str] = (),
    storage_options: StorageOptions | None = None,
) -> CommitReport:
    """Put fragments into a table, each exactly once, and take stale ones out, in one commit.

    Args:
        table_uri: the table; made if it is missing.
        receipts: of this run; those whose fragment is in the table already are left out.
        run_id: the run.
        schema: of the table.
        stale: fragments of this run that an earlier plan had and today's has not, because their file changed or
            went; their rows leave in the same commit.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        What was put in, what was there before, what was taken out.

    Raises:
        TableError: another run's receipt, or a fragment both new and stale.
        ConflictError: other writers were faster 30 times in a row.
    """
    parts = {receipt.fragment_id: receipt for receipt in receipts}
    stale = sorted(set(stale))
    foreign = sorted({receipt.run_id for receipt in receipts} - {run_id})
    if foreign or parts.keys() & set(stale):
        raise TableError(f"run {run_id}: receipts of {foreign}, both new and stale {parts.keys() & set(stale)}")

    def attempt() -> CommitReport:
        table = create_table(table_uri, schema, storage_options=storage_options)
        done = generation(table, run_id)
        there = _committed(table, run_id, {*parts, *stale})
        new = [one for one in sorted(parts) if one not in there]
        gone = [one for one in stale if one in there]
        report = CommitReport(
            committed=tuple(new),
            already=tuple(one for one in sorted(parts) if one not in new),
            withdrawn=tuple(gone),
            version=table.version() + bool(new or gone),
        )
        if new or gone:
            removals, _ = take_out(table, table_uri, run_id, gone, storage_options=storage_options)
            actions = [*add_actions([parts[one] for one in new]), *removals]
            versions = [(one, done) for one in new] + [(one, WITHDRAWN) for one in gone]
            marks = {f"{run_id}/{one}": version for one, version in versions}
            marks[counter(run_id, done)] = _count(table, run_id, done) + len(new) - len(gone)
            swap(table, actions, marks)
        return report

    return retry_conflicts(attempt, table_uri)


def amend(
    table_uri: str,
    receipts: Sequence[Receipt],
    *,
    run_id: str,
    schema: pa.Schema,
    expected: Mapping[str, int],
    storage_options: StorageOptions | None = None,
) -> CommitReport:
    """Replace the rejected rows of committed fragments by what became of them, in one commit.

    Args:
        table_uri: the table.
        receipts: of this run; each holds what became of all rows that its fragment has rejected in the table, which
            may be more rows where one row brings several questions.
        run_id: the run.
        schema: of the table.
        expected: rejected rows of each fragment that the receipts were made from.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        Fragments that changed as `committed`; those whose rejected rows are already what the receipt says as `already`.

    Raises:
        TableError: a fragment is not in the table, or no longer has as many rejected rows as expected.
        ConflictError: other writers were faster 30 times in a row.
    """
    parts = {receipt.fragment_id: receipt for receipt in receipts}

    def attempt() -> CommitReport:
        table = create_table(table_uri, schema, storage_options=storage_options)
        done = generation(table, run_id)
        own, _ = run_files(table, run_id)
        held = {name: {file["path"] for file in own.get(name, ())} for name in parts}
        new = [name for name in parts if not {file.path for file in parts[name].files} <= held[name]]
        gone, counts = take_out(table, table_uri, run_id, new, only="rejected", storage_options=storage_options)
        for name in new:
            if parts[name].rows < expected[name]:
                raise TableError(f"fragment {name}: {parts[name].rows} rows came of {expected[name]} rejected ones")
            if counts[name] != expected[name]:
                raise TableError(f"{table_uri}: fragment {name} no longer has the {expected[name]} rejected rows")
        report = CommitReport(
            committed=tuple(new),
            already=tuple(sorted(set(parts) - set(new))),
            withdrawn=(),
            version=table.version() + bool(new),
        )
        if new:
            marks = {f"{run_id}/{name}": done for name in new}
            swap(table, [*add_actions([parts[name] for name in new]), *gone], marks)
        return report

    return retry_conflicts(attempt, table_uri)


def committed_fragments(
    table_uri: str, run_id: str, fragment_ids: Iterable[str], *, storage_options: StorageOptions | None = None
) -> set[str]:
    """Return those of some fragments that are in the table for a run; empty where there is no table."""
    table = open_table(table_uri, storage_options)
    return set() if table is None else _committed(table, run_id, set(fragment_ids))


def generation(table: DeltaTable, run_id: str) -> int:
    """Return the transaction version that marks a fragment of a run as committed, in a snapshot.

    It is 1, and one more for each time that the run or the whole table was overwritten, so that marks from before
    count no longer.
    """
    return 1 + (table.transaction_version(WHOLE_TABLE) or 0) + (table.transaction_version(run_id) or 0)


def counter(run_id: str, done: int) -> str:
    """Return the transaction identifier whose version counts a run's committed fragments, at a generation."""
    return f"{run_id}/#{done}"


def live_fragments(table: DeltaTable, run_id: str) -> set[str]:
    """Return the fragments of a run that a snapshot's files name: all that have rows, unless files were compacted."""
    files = pa.table(table.get_add_actions(flatten=True))
    if not files.num_rows:
        return set()
    run, fragment = files["min.run_id"], files["min.fragment_id"]
    same = pc.and_(pc.equal(run, files["max.run_id"]), pc.equal(fragment, files["max.fragment_id"]))
    return set(fragment.filter(pc.and_(same, pc.equal(run, run_id))).to_pylist())


def swap(
    table: DeltaTable, actions: list[AddAction | RemoveAction], marks: dict[str, int], *, mode: str = "append"
) -> None:
    """Commit from a snapshot, refused if any other commit came after it.

    Args:
        table: the snapshot.
        actions: files to put in and to take out; in mode "overwrite" everything else leaves.
        marks: transaction identifiers and their new versions.
        mode: "append" or "overwrite".

    Raises:
        CommitFailedError: another commit came between.
    """
    properties = CommitProperties(
        # No retry inside: delta would take the same actions to a later snapshot, on which they were not decided.
        max_commit_retries=0,
        app_transactions=[Transaction(name, version) for name, version in sorted(marks.items())],
    )
    table.create_write_transaction(
        actions, mode, table.schema(), partition_by=[PARTITION], commit_properties=properties
    )


def retry_conflicts(attempt: Callable[[], T], table_uri: str) -> T:
    """Call until no other writer came between, waiting a little longer each time.

    Args:
        attempt: loads the table, decides, commits; safe to call again whatever became of the call before.
        table_uri: for messages.

    Raises:
        ConflictError: 30 calls lost.
        OSError: the store failed 3 times, each after its client's own retries.
    """
    lost, broken = 0, 0
    while True:
        try:
            return attempt()
        except CommitFailedError as error:
            lost += 1
            if lost == _ATTEMPTS:
                raise ConflictError(f"{table_uri}: {lost} commits lost to other writers; run it again") from error
            log.info("table %s: another writer came between (%d): %s", table_uri, lost, error)
        except OSError as error:
            # The commit may have happened although no answer came: the next snapshot tells.
            broken += 1
            if broken == _STORE_FAILURES:
                raise
            log.warning("table %s: the store failed (%d): %s", table_uri, broken, error)
        time.sleep(random.uniform(0.2, 1.0) * min(2.0, 0.01 * 2 ** (lost + broken)))


def add_actions(receipts: Iterable[Receipt]) -> list[AddAction | RemoveAction]:
    """Turn receipts into the log's entries for their files."""
    return [add_action(part) for receipt in receipts for part in receipt.files]


def _committed(table: DeltaTable, run_id: str, names: set[str]) -> set[str]:
    """Those fragments that are marked as committed in a snapshot.

    Each look at a mark reads the log's tail, milliseconds; of many names the files' statistics tell most at once, and
    all of them where the run's counter says that the files name every committed fragment.
    """
    done = generation(table, run_id)
    live: set[str] = set()
    if len(names) > _FEW:
        live = live_fragments(table, run_id)
        if len(live) == _count(table, run_id, done):
            return names & live
    marked = {name for name in names - live if table.transaction_version(f"{run_id}/{name}") == done}
    return marked | (names & live)


def _count(table: DeltaTable, run_id: str, done: int) -> int:
    return table.transaction_version(counter(run_id, done)) or 0
