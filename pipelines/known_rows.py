"""Rows that a table holds already under another fragment, so that a folder that grew is not read again.

A fragment of files holds neighbours of a sorted listing, so a file that comes, goes or changes gives its neighbours a
fragment with another id. What became of these neighbours is in the table, and is copied from there: only files that
are new or changed are read. Which rows a fragment has is noted beside the table, before any of it is committed:

    {table}/_rows/{run_id}.parquet      fragment_id, uid, row_version

A fragment's id is a hash of its rows' files, so what is noted can be incomplete (those rows are read again) but never
wrong. Containers are one object each: one that changed is another, and none of its rows is known; they are noted as a
whole. The same notes tell which fragments hold rows of today's plan although another input brought them.
What this does *not* do: read images, plan fragments (`corpus`), commit (`tables`).
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.accounts import rejected
from pipelines.errors import TableError
from pipelines.fragments import Fragment, make_fragment, make_uid
from pipelines.parts import PARTITION
from pipelines.row_refs import RowRef
from pipelines.storage import StorageOptions, join_uri, open_uri, read_bytes, write_bytes
from pipelines.table_files import run_files
from pipelines.tables import committed_fragments, open_table

NOTES = "_rows"
"""Folder of the notes, in the table's own; Delta and `vacuum` leave such names alone."""
_NOTE = pa.schema([pa.field(name, pa.string()) for name in ("fragment_id", "uid", "row_version")])


@dataclass(frozen=True, kw_only=True, slots=True)
class Donor:
    """Another fragment that is in the table, and what it holds of this one."""

    files: tuple[str, ...]
    """Its part files, relative to the table."""
    indices: tuple[int, ...]
    """Rows of this fragment, ascending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What a table holds of one fragment's rows."""

    donors: tuple[Donor, ...] = ()
    """Where; no row in two of them."""

    @property
    def indices(self) -> frozenset[int]:
        """The rows."""
        return frozenset(index for donor in self.donors for index in donor.indices)

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain values; `from_json` undoes it."""
        return [dataclasses.asdict(donor) for donor in self.donors]

    @classmethod
    def from_json(cls, values: Iterable[Mapping[str, Any]]) -> Self:
        """Return what `to_json` gave."""
        donors = (Donor(files=tuple(one["files"]), indices=tuple(one["indices"])) for one in values)
        return cls(donors=tuple(donors))


NOTHING_KNOWN = Known()
"""Of a fragment whose every row has to be read."""


def row_version(row: RowRef) -> str:
    """Name the content of a row of files as the listing saw it: first 16 hex digits of a sha256.

    Args:
        row: of a fragment of kind "files".
    """
    identity = [[[ref.uri, ref.size, ref.version] for ref in row.objects], row.error]
    text = json.dumps(identity, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_known(
    table_uri: str,
    run_id: str,
    missing: Sequence[Fragment],
    *,
    take_rejected: bool = True,
    storage_options: StorageOptions | None = None,
) -> dict[str, Known]:
    """Find the rows of missing fragments that the table holds under other fragments of the same run.

    Args:
        table_uri: the table.
        run_id: the run.
        missing: fragments that are planned and not in the table.
        take_rejected: whether rows count as known of which anything was rejected.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        By fragment id; fragments without such rows are left out.
    """
    notes = _read_notes(table_uri, run_id, storage_options)
    files = _live_files(table_uri, run_id, storage_options)
    donors = notes.filter(pc.is_in(notes["fragment_id"], value_set=pa.array(list(files), pa.string())))
    if not donors.num_rows:
        return {}
    columns = (donors[name].to_pylist() for name in ("uid", "row_version", "fragment_id"))
    apart = set() if take_rejected else _rejected(table_uri, run_id, storage_options)
    held = {(uid, version): donor for uid, version, donor in zip(*columns, strict=True) if (donor, uid) not in apart}
    found = {}
    for fragment in missing:
        rows: dict[str, list[int]] = {}
        for index, name in enumerate(_names(fragment)):
            if name in held:
                rows.setdefault(held[name], []).append(index)
        if rows:
            donors = (Donor(files=tuple(sorted(files[name])), indices=tuple(rows[name])) for name in sorted(rows))
            found[fragment.fragment_id] = Known(donors=tuple(donors))
    return found


def find_noted(table_uri: str, run_id: str, *, storage_options: StorageOptions | None = None) -> set[str]:
    """Return the fragments that are noted: those of the last plan, and earlier ones that the table held then.

    Args:
        table_uri: the table.
        run_id: the run.
        storage_options: see `storage.storage_options`; None reads the environment.
    """
    return set(_read_notes(table_uri, run_id, storage_options)["fragment_id"].unique().to_pylist())


def note_rows(
    table_uri: str, run_id: str, fragments: Iterable[Fragment], *, storage_options: StorageOptions | None = None
) -> None:
    """Note which rows fragments have; call it before they are committed.

    Fragments of earlier plans stay noted while the table holds them, because rows may have to be taken over from them.

    Args:
        table_uri: the table.
        run_id: the run.
        fragments: all of today's plan.
        storage_options: see `storage.storage_options`; None reads the environment.
    """
    planned = set()
    parts = []
    for fragment in fragments:
        planned.add(fragment.fragment_id)
        names = _noted(fragment)
        # arrays at once: a million tuples of strings would weigh ten times as much
        columns = [[fragment.fragment_id] * len(names), [uid for uid, _ in names], [version for _, version in names]]
        parts.append(pa.table(columns, schema=_NOTE))
    earlier = _read_notes(table_uri, run_id, storage_options)
    others = set(earlier["fragment_id"].to_pylist()) - planned
    kept = pa.array(
        sorted(committed_fragments(table_uri, run_id, others, storage_options=storage_options)), pa.string()
    )
    notes = pa.concat_tables([*parts, earlier.filter(pc.is_in(earlier["fragment_id"], value_set=kept))])
    if notes.num_rows:
        sink = io.BytesIO()
        pq.write_table(notes, sink, compression="zstd")
        write_bytes(_notes_uri(table_uri, run_id), sink.getvalue(), storage_options)


def find_overlaps(
    table_uri: str,
    run_id: str,
    planned: Sequence[Fragment],
    *,
    apart_from: Set[str] = frozenset(),
    storage_options: StorageOptions | None = None,
) -> dict[str, bool]:
    """Find fragments that the table holds of a run, that are not planned, and that share rows with planned ones.

    One folder within another, named in separate calls, is cut into other fragments, so its rows would stand twice.

    Args:
        table_uri: the table.
        run_id: the run.
        planned: all of today's plan.
        apart_from: fragments that are known to leave.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        By fragment id, whether today's plan has all of its rows.
    """
    notes = _read_notes(table_uri, run_id, storage_options)
    expected = pa.array([*(fragment.fragment_id for fragment in planned), *apart_from], pa.string())
    notes = notes.filter(pc.invert(pc.is_in(notes["fragment_id"], value_set=expected)))
    names = set(notes["fragment_id"].to_pylist())
    live = committed_fragments(table_uri, run_id, names, storage_options=storage_options)
    notes = notes.filter(pc.is_in(notes["fragment_id"], value_set=pa.array(sorted(live), pa.string())))
    if not notes.num_rows:
        return {}
    wanted = set(notes["uid"].to_pylist())
    here = {uid for fragment in planned for uid, _ in _noted(fragment) if uid in wanted}
    found: dict[str, list[bool]] = {}
    for name, uid in zip(notes["fragment_id"].to_pylist(), notes["uid"].to_pylist(), strict=True):
        found.setdefault(name, []).append(uid in here)
    return {name: all(shared) for name, shared in found.items() if any(shared)}


def unknown_rows(fragment: Fragment, known: Known) -> tuple[Fragment, tuple[int, ...]]:
    """Return the fragment of the rows that have to be read, and their indices in the whole one.

    Args:
        fragment: of kind "files", unless nothing is known.
        known: of it.
    """
    if not known.donors:
        return fragment, tuple(range(fragment.num_rows))
    left = tuple(index for index in range(fragment.num_rows) if index not in known.indices)
    rows = tuple(fragment.rows[index] for index in left)
    return make_fragment(kind=fragment.kind, source=fragment.source, root=fragment.root, rows=rows), left


def take_over(
    fragment: Fragment,
    known: Known,
    read: pa.Table,
    *,
    table_uri: str,
    run_id: str,
    storage_options: StorageOptions | None = None,
) -> pa.Table:
    """Put the rows that were read and those that are known together, as if all had been read.

    Args:
        fragment: whole.
        known: of it.
        read: rows of the table's schema, of the others; `fragment_id` is the whole fragment's.
        table_uri: the table.
        run_id: the run.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        All rows of the fragment in order; several of one uid together, in their order.

    Raises:
        TableError: the table no longer holds what was known.
    """
    if not known.donors:
        return read
    parts = [read]
    for donor in known.donors:
        wanted = pa.array([fragment.row_uid(index) for index in donor.indices], pa.string())
        for path in donor.files:
            rows = _read_part(join_uri(table_uri, path), path, storage_options).select(read.schema.names)
            mine = pc.and_(pc.equal(rows["run_id"], run_id), pc.is_in(rows["uid"], value_set=wanted))
            parts.append(rows.filter(mine).cast(read.schema))
    whole = pa.concat_tables(parts)
    places = {fragment.row_uid(index): index for index in range(fragment.num_rows)}
    lost = places.keys() - set(whole["uid"].to_pylist())
    if lost:
        raise TableError(f"{table_uri} no longer holds {len(lost)} rows that it held; run it again")
    at = pa.array([places[uid] for uid in whole["uid"].to_pylist()], pa.int32())
    own = {"fragment_id": pa.repeat(pa.scalar(fragment.fragment_id), len(at)), "row_index": at}
    for name in set(own) & set(whole.schema.names):
        place = whole.schema.get_field_index(name)
        whole = whole.set_column(place, whole.schema.field(place), own[name])
    # Arrow's sort is stable, so several rows of one uid keep their order
    return whole.take(pc.sort_indices(pa.table({"at": at}), sort_keys=[("at", "ascending")])).combine_chunks()


def count_known(known: Mapping[str, Known]) -> int:
    """Count the rows that need not be read."""
    return sum(len(one.indices) for one in known.values())


def _names(fragment: Fragment) -> list[tuple[str, str]]:
    """(uid, row_version and the fragment's mark) of each row; none of a container."""
    if fragment.kind != "files":
        return []
    return [(fragment.row_uid(index), row_version(row) + fragment.mark) for index, row in enumerate(fragment.rows)]


def _noted(fragment: Fragment) -> list[tuple[str, str]]:
    """What is noted of a fragment: (uid, row_version) of each row; of a container one line, which no row's is."""
    return _names(fragment) if fragment.container is None else [(make_uid(fragment.container.uri, ""), "")]


def _notes_uri(table_uri: str, run_id: str) -> str:
    return join_uri(table_uri, NOTES, f"{run_id}.parquet")


def _read_notes(table_uri: str, run_id: str, options: StorageOptions | None) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(read_bytes(_notes_uri(table_uri, run_id), options)))
    except FileNotFoundError:
        return _NOTE.empty_table()


def _live_files(table_uri: str, run_id: str, options: StorageOptions | None) -> dict[str, list[str]]:
    """Part files of each fragment of a run that the table's newest snapshot has, compacted ones left out."""
    table = open_table(table_uri, options)
    own = {} if table is None else run_files(table, run_id)[0]
    return {name: [str(file["path"]) for file in files] for name, files in own.items()}


def _rejected(table_uri: str, run_id: str, options: StorageOptions | None) -> set[tuple[str, str]]:
    """(fragment_id, uid) of a run's rejected rows."""
    rows = rejected(table_uri, run_id, ("fragment_id", "uid"), storage_options=options)
    return set(zip(rows["fragment_id"].to_pylist(), rows["uid"].to_pylist(), strict=True))


def _read_part(uri: str, path: str, options: StorageOptions | None) -> pa.Table:
    """Read one part file, with the partition column that its path stands for."""
    try:
        with open_uri(uri, options) as file:
            rows = pq.read_table(file)
    except FileNotFoundError as error:
        raise TableError(f"{uri} is gone; was the table vacuumed while a job ran? Run it again") from error
    status = path.removeprefix(f"{PARTITION}=").partition("/")[0]
    return rows.append_column(pa.field(PARTITION, pa.string(), nullable=False), pa.repeat(status, rows.num_rows))
