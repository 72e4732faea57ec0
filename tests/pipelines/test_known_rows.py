"""Rows taken over from other fragments: which, in what order, and that nothing is taken that is not the same."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines.corpus import plan_corpus
from pipelines.corpus_settings import CorpusSettings
from pipelines.errors import TableError
from pipelines.fragments import Fragment, make_uid, mark_fragment
from pipelines.known_rows import (
    Known,
    count_known,
    find_known,
    find_overlaps,
    note_rows,
    row_version,
    take_over,
    unknown_rows,
)
from pipelines.parts import write_fragment
from pipelines.row_refs import RowRef
from pipelines.tables import commit
from schemas.columns import ERROR, FRAGMENT_ID, RUN_ID, STATUS, UID

SCHEMA = pa.schema(
    [UID, FRAGMENT_ID, pa.field("row_index", pa.int32()), RUN_ID, STATUS, pa.field("read", pa.string()), ERROR]
)
SMALL = CorpusSettings(rows_per_fragment=8)
"""Fragments of 8 rows on average."""


def plan(folder: Path) -> list[Fragment]:
    return plan_corpus([str(folder)], settings=SMALL)


def read_rows(
    fragment: Fragment, places: tuple[int, ...], whole: Fragment, run: str, copies: int = 1, well: bool = False
) -> pa.Table:
    """What a stage makes of rows: each says what was in its file; every fifth is refused, unless all is well."""
    rows = []
    for place, row in zip(places, fragment.rows, strict=True):
        text = Path(row.objects[0].uri).read_text()
        bad = [not well and (int(text.split()[0]) + copy) % 5 == 0 for copy in range(copies)]
        rows += [
            {
                "uid": whole.row_uid(place),
                "fragment_id": whole.fragment_id,
                "row_index": place,
                "run_id": run,
                "status": "rejected" if bad[copy] else "ok",
                "read": f"{text} {copy}",
                "error": "BAD" if bad[copy] else None,
            }
            for copy in range(copies)
        ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def job(
    folder: Path,
    table_uri: str,
    *,
    run: str = "run",
    copies: int = 1,
    only: int | None = None,
    made_of: str = "",
    again: bool = False,
    well: bool = False,
) -> list[str]:
    """A job over a folder as it is now; the files that it read. `only`: it dies after so many fragments."""
    fragments = [mark_fragment(one, made_of) if made_of else one for one in plan(folder)]
    table = DeltaTable(table_uri) if Path(table_uri, "_delta_log").exists() else None
    there = set() if table is None else {row["fragment_id"] for row in rows_of(table_uri) if row["run_id"] == run}
    missing = [one for one in fragments if one.fragment_id not in there]
    known = find_known(table_uri, run, missing, take_rejected=not again)
    note_rows(table_uri, run, fragments)
    seen: list[str] = []
    receipts = []
    for fragment in missing[:only]:
        mine = Known.from_json(known.get(fragment.fragment_id, Known()).to_json())
        part, places = unknown_rows(fragment, mine)
        seen += [Path(row.objects[0].uri).name for row in part.rows]
        read = read_rows(part, places, fragment, run, copies, well)
        rows = take_over(fragment, mine, read, table_uri=table_uri, run_id=run)
        receipts.append(write_fragment(rows, SCHEMA, table_uri=table_uri, fragment_id=fragment.fragment_id, run_id=run))
    commit(table_uri, receipts, run_id=run, schema=SCHEMA)
    if only is None:
        stale = there - {one.fragment_id for one in fragments}
        commit(table_uri, [], run_id=run, schema=SCHEMA, stale=stale)
    return sorted(seen)


def rows_of(table_uri: str) -> list[dict[str, object]]:
    return list(pa.table(DeltaTable(table_uri).to_pyarrow_dataset().to_table()).to_pylist())


def parts(table_uri: str) -> list[str]:
    return sorted(Path(uri).name for uri in DeltaTable(table_uri).file_uris())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "corpus"
    found.mkdir()
    for number in range(60):
        (found / f"{number:03d}.jpg").write_text(f"{number} first")
    return found


def fresh(folder: Path, tmp_path: Path, copies: int = 1) -> list[str]:
    """Part files of a job that sees the folder for the first time."""
    uri = str(tmp_path / "fresh")
    job(folder, uri, copies=copies)
    return parts(uri)


def test_only_new_files_are_read_and_history_does_not_show(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    assert len(job(folder, uri)) == 60
    before = parts(uri)
    added = [f"{number:03d}x.jpg" for number in range(0, 60, 7)] + ["zzz.jpg"]
    for number, name in enumerate(added):
        (folder / name).write_text(f"{100 + number} new")
    assert job(folder, uri) == sorted(added)
    # most fragments gained a file, and all rows are what a first run over the folder gives, byte by byte
    assert len(set(parts(uri)) & set(before)) < len(before) / 2
    assert parts(uri) == fresh(folder, tmp_path)
    assert job(folder, uri) == []


def test_a_file_that_changed_is_read_again_alone(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    job(folder, uri)
    (folder / "017.jpg").write_text("17 changed, and longer")
    # the same bytes at another time: the listing cannot know that they are the same
    os.utime(folder / "042.jpg", ns=(1, 1))
    assert job(folder, uri) == ["017.jpg", "042.jpg"]
    assert parts(uri) == fresh(folder, tmp_path)


def test_a_file_that_went_costs_no_reading(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    job(folder, uri)
    for name in ("000.jpg", "031.jpg", "059.jpg"):
        (folder / name).unlink()
    assert job(folder, uri) == []
    assert parts(uri) == fresh(folder, tmp_path)
    assert len(rows_of(uri)) == 57


def test_several_rows_of_one_file_stay_together(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    job(folder, uri, copies=3)
    (folder / "020x.jpg").write_text("7 new")
    assert job(folder, uri, copies=3) == ["020x.jpg"]
    assert parts(uri) == fresh(folder, tmp_path, copies=3)
    assert len(rows_of(uri)) == 183


def test_rows_of_which_anything_was_rejected_are_read_again_where_they_are_not_taken(
    folder: Path, tmp_path: Path
) -> None:
    uri = str(tmp_path / "table")
    job(folder, uri, copies=2)
    (folder / "020x.jpg").write_text("7 new")
    (grown,) = (one for one in plan(folder) if any(row.objects[0].uri.endswith("x.jpg") for row in one.rows))
    names = [Path(row.objects[0].uri).name for row in grown.rows]
    # a file's first row is rejected where its number ends in 0 or 5, its second where it ends in 4 or 9
    expected = [name for name in names if name == "020x.jpg" or name[2] in "0549"]
    assert 2 < len(expected) < len(names)
    # it dies before the rows of the old fragment leave
    assert job(folder, uri, copies=2, only=1, again=True, well=True) == expected
    (folder / "020y.jpg").write_text("8 newer")
    assert job(folder, uri, copies=2, again=True) == ["020y.jpg"]
    rejected = {int(str(row["read"]).split()[0]) for row in rows_of(uri) if row["status"] == "rejected"}
    assert rejected == {number for number in range(60) if number % 5 in (0, 4)} - {int(name[:3]) for name in expected}
    assert len(rows_of(uri)) == 124


def test_a_side_file_is_part_of_its_row(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    job(folder, uri)
    (folder / "033.txt").write_text("a caption")
    assert job(folder, uri) == ["033.jpg"]


def test_a_job_that_died_half_way_is_a_donor_as_far_as_it_came(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    first = job(folder, uri, only=2)
    (folder / "000x.jpg").write_text("8 new")
    again = job(folder, uri, only=1)
    assert again == ["000x.jpg"]
    # fragment 1 is now in the table twice over, old and new; its rows are taken from one of them
    (folder / "001x.jpg").write_text("9 new")
    rest = job(folder, uri)
    assert sorted([*first, *again, *rest]) == sorted(path.name for path in folder.iterdir())
    assert parts(uri) == fresh(folder, tmp_path)


def test_another_run_takes_nothing_over(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    job(folder, uri)
    assert len(job(folder, uri, run="other")) == 60


def test_rows_that_also_follow_from_something_else_are_taken_over_where_that_is_the_same(
    folder: Path, tmp_path: Path
) -> None:
    uri = str(tmp_path / "table")
    assert len(job(folder, uri, made_of="/a")) == 60
    (folder / "030x.jpg").write_text("7 new")
    assert job(folder, uri, made_of="/a") == ["030x.jpg"]
    assert len(job(folder, uri, made_of="/b")) == 61
    assert len(rows_of(uri)) == 61


def test_containers_have_no_known_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image": "x.jpg", "text": "one"}\n')
    (fragment,) = plan_corpus([str(tmp_path / "a.jsonl")])
    note_rows(str(tmp_path / "table"), "run", [fragment])
    assert find_known(str(tmp_path / "table"), "run", [fragment]) == {}
    assert unknown_rows(fragment, Known()) == (fragment, (0,))


def test_fragments_of_another_input_are_found_by_the_rows_that_they_share(folder: Path, tmp_path: Path) -> None:
    uri, inner = str(tmp_path / "table"), folder / "inner"
    inner.mkdir()
    for number in range(5):
        (inner / f"{number}.jpg").write_text(f"{number} inner")
    job(inner, uri)
    (part,) = plan(inner)
    whole = plan(folder)
    assert find_overlaps(uri, "run", whole) == {part.fragment_id: True}
    assert find_overlaps(uri, "other", whole) == {}
    assert find_overlaps(uri, "run", whole, apart_from={part.fragment_id}) == {}
    assert find_overlaps(uri, "run", plan_corpus([str(folder / "0*.jpg")], settings=SMALL)) == {}
    assert find_overlaps(uri, "run", plan_corpus([str(inner / "[0-3].jpg")])) == {part.fragment_id: False}
    # after a compaction no file names a fragment, and its rows are still there
    job(folder, uri, only=1)
    DeltaTable(uri).optimize.compact()
    note_rows(uri, "run", whole)
    assert find_overlaps(uri, "run", whole) == {part.fragment_id: True}


def test_a_table_that_lost_its_files_is_said_so(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    job(folder, uri)
    (folder / "020x.jpg").write_text("7 new")
    missing = [one for one in plan(folder) if any(row.objects[0].uri.endswith("x.jpg") for row in one.rows)]
    known = find_known(uri, "run", missing)
    (fragment,) = missing
    assert count_known(known) == fragment.num_rows - 1
    mine = known[fragment.fragment_id]
    part, places = unknown_rows(fragment, mine)
    read = read_rows(part, places, fragment, "run")
    with pytest.raises(TableError, match="no longer holds 1 rows"):
        take_over(fragment, mine, read.slice(0, 0), table_uri=uri, run_id="run")
    for path in (tmp_path / "table").rglob("part-*.parquet"):
        path.unlink()
    with pytest.raises(TableError, match="is gone; was the table vacuumed"):
        take_over(fragment, mine, read, table_uri=uri, run_id="run")


def test_a_version_names_all_that_a_row_is_made_of(folder: Path) -> None:
    row = next(row for one in plan(folder) for row in one.rows)
    assert row_version(row) == row_version(row)
    assert row_version(RowRef(objects=row.objects, error="BAD_ENCODING")) != row_version(row)
    assert row_version(RowRef(objects=(*row.objects, row.objects[0]))) != row_version(row)
    assert make_uid(row.objects[0].uri, "") != row_version(row)
