"""Commits: every fragment in a table exactly once, whatever the order, and readable by others."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from llava_core.errors import ConfigError
from pipelines.errors import TableError
from pipelines.parts import Receipt
from pipelines.tables import amend, commit, committed_fragments, create_table, open_table
from pipelines.upkeep import overwrite
from tests.pipelines.table_cases import SCHEMA, fragment_counts, uids, write


def test_commit_makes_the_table_and_both_readers_see_the_rows(tmp_path: Path) -> None:
    uri = str(tmp_path / "out" / "captions")
    assert committed_fragments(uri, "run", ["a"]) == set()
    assert open_table(uri) is None
    report = commit(uri, [write(uri, "a", 2, 1), write(uri, "b", 1, 0)], run_id="run", schema=SCHEMA)
    assert (report.committed, report.already, report.withdrawn) == (("a", "b"), (), ())
    assert committed_fragments(uri, "run", ["a", "b", "c"]) == {"a", "b"}
    assert committed_fragments(uri, "other", ["a"]) == set()
    table = DeltaTable(uri)
    assert table.version() == report.version
    assert fragment_counts(uri) == uids(("a", 3), ("b", 1))
    frame = pl.scan_delta(uri).filter(pl.col("status") == "rejected").collect()
    assert frame["uid"].to_list() == ["a:2"]
    assert frame["error"].to_list() == ["EMPTY"]
    assert table.metadata().partition_columns == ["status"]
    both = table.to_pyarrow_table(filters=[("fragment_id", "=", "b")])
    assert both["size"].to_pylist() == [{"height": 10, "width": 20}]


def test_a_second_commit_of_a_fragment_changes_nothing(tmp_path: Path) -> None:
    uri = str(tmp_path)
    first = commit(uri, [write(uri, "a")], run_id="run", schema=SCHEMA)
    again = commit(uri, [write(uri, "a"), write(uri, "b")], run_id="run", schema=SCHEMA)
    assert (again.committed, again.already) == (("b",), ("a",))
    nothing = commit(uri, [write(uri, "a", 5)], run_id="run", schema=SCHEMA)
    assert (nothing.committed, nothing.already) == ((), ("a",))
    assert nothing.version == again.version == first.version + 1 == DeltaTable(uri).version()
    assert fragment_counts(uri) == uids(("a", 3), ("b", 3))


def test_two_runs_live_in_one_table(tmp_path: Path) -> None:
    uri = str(tmp_path)
    commit(uri, [write(uri, "a", run_id="one")], run_id="one", schema=SCHEMA)
    report = commit(uri, [write(uri, "a", run_id="two")], run_id="two", schema=SCHEMA)
    assert report.committed == ("a",)
    assert set(fragment_counts(uri).values()) == {2}


def test_a_stale_fragment_leaves_in_the_commit_that_brings_its_successor(tmp_path: Path) -> None:
    uri = str(tmp_path)
    commit(uri, [write(uri, "old", 3, 1), write(uri, "kept")], run_id="run", schema=SCHEMA)
    before = DeltaTable(uri).version()
    report = commit(uri, [write(uri, "new", 4, 0)], run_id="run", schema=SCHEMA, stale=["old", "never"])
    assert (report.committed, report.withdrawn, report.version) == (("new",), ("old",), before + 1)
    assert DeltaTable(uri).version() == before + 1
    assert fragment_counts(uri) == uids(("kept", 3), ("new", 4))
    assert committed_fragments(uri, "run", ["old", "new", "kept"]) == {"new", "kept"}
    back = commit(uri, [write(uri, "old", 3, 1)], run_id="run", schema=SCHEMA, stale=["new"])
    assert (back.committed, back.withdrawn) == (("old",), ("new",))
    assert fragment_counts(uri) == uids(("kept", 3), ("old", 4))


def test_a_stale_fragment_of_another_run_stays(tmp_path: Path) -> None:
    uri = str(tmp_path)
    commit(uri, [write(uri, "a", run_id="one")], run_id="one", schema=SCHEMA)
    commit(uri, [write(uri, "a", run_id="two")], run_id="two", schema=SCHEMA, stale=[])
    commit(uri, [], run_id="two", schema=SCHEMA, stale=["a"])
    assert DeltaTable(uri).to_pyarrow_table()["run_id"].unique().to_pylist() == ["one"]


def test_contracts_of_commit(tmp_path: Path) -> None:
    uri = str(tmp_path)
    receipt = write(uri, "a")
    with pytest.raises(TableError, match="receipts of \\['run'\\]"):
        commit(uri, [receipt], run_id="other", schema=SCHEMA)
    with pytest.raises(TableError, match="both new and stale"):
        commit(uri, [receipt], run_id="run", schema=SCHEMA, stale=["a"])
    assert open_table(uri) is None


def test_a_compacted_table_still_knows_its_fragments_and_lets_one_go(tmp_path: Path) -> None:
    uri = str(tmp_path)
    commit(uri, [write(uri, "a"), write(uri, "b", 4)], run_id="run", schema=SCHEMA)
    commit(uri, [write(uri, "a", 5, 2, run_id="zoo")], run_id="zoo", schema=SCHEMA)
    before = DeltaTable(uri).to_pyarrow_table().sort_by([("run_id", "ascending"), ("uid", "ascending")])
    DeltaTable(uri).optimize.compact()
    assert commit(uri, [write(uri, "a")], run_id="run", schema=SCHEMA).already == ("a",)
    version = DeltaTable(uri).version()
    report = commit(uri, [write(uri, "c", 1, 0)], run_id="run", schema=SCHEMA, stale=["a", "never"])
    assert (report.committed, report.withdrawn, report.version) == (("c",), ("a",), version + 1)
    assert DeltaTable(uri).version() == version + 1
    assert committed_fragments(uri, "run", ["a", "b", "c"]) == {"b", "c"}
    assert committed_fragments(uri, "zoo", ["a"]) == {"a"}
    after = DeltaTable(uri).to_pyarrow_table().sort_by([("run_id", "ascending"), ("uid", "ascending")])
    gone = pc.and_(pc.equal(before["run_id"], "run"), pc.equal(before["fragment_id"], "a"))
    assert after.filter(pc.not_equal(after["fragment_id"], "c")).equals(before.filter(pc.invert(gone)))
    assert after.num_rows == 5 + 7 + 1
    # all of a mixed file may go, too
    commit(uri, [], run_id="run", schema=SCHEMA, stale=["b"])
    commit(uri, [], run_id="zoo", schema=SCHEMA, stale=["a"])
    assert fragment_counts(uri) == uids(("c", 1))


def rejected_again(uri: str, name: str, ok: int, rejected: int) -> Receipt:
    """What became of a fragment's rejected rows, in rows of another attempt."""
    return write(uri, name, ok, rejected, reason="TIMEOUT", attempt=9)


@pytest.mark.parametrize("compacted", [False, True])
def test_rejected_rows_are_replaced_by_what_became_of_them(compacted: bool, tmp_path: Path) -> None:
    uri = str(tmp_path)
    commit(uri, [write(uri, "a", 3, 2), write(uri, "b", 1, 3)], run_id="run", schema=SCHEMA)
    commit(uri, [write(uri, "a", 1, 4, run_id="zoo")], run_id="zoo", schema=SCHEMA)
    if compacted:
        DeltaTable(uri).optimize.compact()
    receipt = rejected_again(uri, "a", 3, 1)
    for expected in (("a",), ()):
        report = amend(uri, [receipt], run_id="run", schema=SCHEMA, expected={"a": 2})
        assert report.committed == expected
        assert report.version == DeltaTable(uri).version()
    table = DeltaTable(uri).to_pyarrow_table(columns=["run_id", "fragment_id", "error"])
    assert Counter(map(tuple, (row.values() for row in table.to_pylist()))) == {
        ("run", "a", None): 6,
        ("run", "a", "TIMEOUT"): 1,
        ("run", "b", None): 1,
        ("run", "b", "EMPTY"): 3,
        ("zoo", "a", None): 1,
        ("zoo", "a", "EMPTY"): 4,
    }
    assert committed_fragments(uri, "run", ["a", "b"]) == {"a", "b"}


def test_rejected_rows_that_changed_meanwhile_or_would_be_lost_stop_the_job(tmp_path: Path) -> None:
    uri = str(tmp_path)
    commit(uri, [write(uri, "a", 1, 3)], run_id="run", schema=SCHEMA)
    with pytest.raises(TableError, match="no longer has the 2 rejected rows"):
        amend(uri, [rejected_again(uri, "a", 2, 1)], run_id="run", schema=SCHEMA, expected={"a": 2})
    with pytest.raises(TableError, match="2 rows came of 3 rejected ones"):
        amend(uri, [rejected_again(uri, "a", 2, 0)], run_id="run", schema=SCHEMA, expected={"a": 3})
    assert fragment_counts(uri) == uids(("a", 4))


def test_transactions_outlive_a_checkpoint_and_the_log_before_it(tmp_path: Path) -> None:
    uri = str(tmp_path)
    commit(uri, [write(uri, "a")], run_id="run", schema=SCHEMA)
    commit(uri, [write(uri, "b")], run_id="run", schema=SCHEMA)
    DeltaTable(uri).create_checkpoint()
    for entry in sorted((tmp_path / "_delta_log").glob("*.json"))[:-1]:
        entry.unlink()
    DeltaTable(uri).cleanup_metadata()
    assert commit(uri, [write(uri, "a"), write(uri, "b")], run_id="run", schema=SCHEMA).committed == ()
    report = commit(uri, [write(uri, "c")], run_id="run", schema=SCHEMA, stale=["a"])
    assert report.withdrawn == ("a",)
    assert fragment_counts(uri) == uids(("b", 3), ("c", 3))


def test_many_fragments_are_looked_up_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path)
    names = [f"f{number}" for number in range(60)]
    commit(uri, [write(uri, name) for name in names[:40]], run_id="run", schema=SCHEMA)
    commit(uri, [write(uri, "f41")], run_id="run", schema=SCHEMA, stale=["f7"])
    expected = {*names[:40], "f41"} - {"f7"}
    looks: list[str] = []
    whole = DeltaTable.transaction_version
    monkeypatch.setattr(DeltaTable, "transaction_version", lambda table, name: looks.append(name) or whole(table, name))
    assert committed_fragments(uri, "run", names) == expected
    assert len(looks) <= 3
    assert committed_fragments(uri, "run", names[38:45]) == {"f38", "f39", "f41"}


@pytest.mark.parametrize("meddle", ["empty fragment", "rows deleted", "compacted", "overwritten"])
def test_files_that_do_not_tell_are_not_believed(meddle: str, tmp_path: Path) -> None:
    uri = str(tmp_path)
    names = [f"f{number}" for number in range(40)]
    commit(uri, [write(uri, name, 1, 0) for name in names[:3]], run_id="run", schema=SCHEMA)
    expected = set(names[:3])
    if meddle == "empty fragment":
        commit(uri, [write(uri, "f9", 0, 0)], run_id="run", schema=SCHEMA)
        expected |= {"f9"}
    elif meddle == "rows deleted":
        DeltaTable(uri).delete("fragment_id = 'f1'")
    elif meddle == "compacted":
        DeltaTable(uri).optimize.compact()
    else:
        overwrite(uri)
        commit(uri, [write(uri, name, 1, 0) for name in names[10:13]], run_id="run", schema=SCHEMA)
        expected = set(names[10:13])
    assert committed_fragments(uri, "run", names) == expected
    assert commit(uri, [write(uri, name, 1, 0) for name in names], run_id="run", schema=SCHEMA).already == tuple(
        sorted(expected)
    )


def test_a_table_with_another_schema_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path)
    create_table(uri, SCHEMA)
    with pytest.raises(TableError, match="another schema"):
        create_table(uri, SCHEMA.append(pa.field("more", pa.int64())))


def test_a_schema_that_delta_would_change_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiny: uint8 would become int8"):
        create_table(str(tmp_path), SCHEMA.append(pa.field("tiny", pa.uint8())))
    with pytest.raises(ConfigError, match="needs the columns run_id"):
        create_table(str(tmp_path), SCHEMA.remove(SCHEMA.get_field_index("run_id")))
    assert list(tmp_path.iterdir()) == []


READ_AND_LEAVE = """
import sys
from pipelines.tables import dataset, open_table
print(dataset(open_table(sys.argv[1])).to_table().num_rows, flush=True)
"""


def test_a_program_that_reads_a_table_and_leaves_ends_well(tmp_path: Path) -> None:
    """Through Delta's own file system about every second one is aborted."""
    uri = str(tmp_path / "a table, 50% of it")
    commit(uri, [write(uri, "a", 20, 20), write(uri, "b", 20, 20)], run_id="run", schema=SCHEMA)
    for _ in range(8):
        done = subprocess.run([sys.executable, "-c", READ_AND_LEAVE, uri], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "80\n"), done.stderr
