"""Whole-table work: overwriting, replacing and vacuuming leave exactly what they promise."""

import os
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from llava_core.errors import ConfigError
from pipelines.errors import TableError
from pipelines.tables import commit, committed_fragments
from pipelines.upkeep import overwrite, replace_table, restore, vacuum
from tests.pipelines.table_cases import SCHEMA, fragment_counts, uids, write


def both_runs(uri: str) -> None:
    for run_id, count in (("one", 2), ("two", 5)):
        commit(uri, [write(uri, run_id + "_a", count, 1, run_id=run_id)], run_id=run_id, schema=SCHEMA)


def test_overwriting_a_run_takes_out_that_run_and_lets_it_be_made_again(tmp_path: Path) -> None:
    uri = str(tmp_path)
    overwrite(uri, run_id="one")
    both_runs(uri)
    overwrite(uri, run_id="one")
    assert fragment_counts(uri) == uids(("two_a", 6))
    assert committed_fragments(uri, "one", ["one_a"]) == set()
    assert committed_fragments(uri, "two", ["two_a"]) == {"two_a"}
    for expected in (("one_a",), ()):
        again = commit(uri, [write(uri, "one_a", 3, 1, run_id="one")], run_id="one", schema=SCHEMA)
        assert again.committed == expected
    assert fragment_counts(uri) == uids(("two_a", 6), ("one_a", 4))


def test_overwriting_the_table_takes_out_every_run(tmp_path: Path) -> None:
    uri = str(tmp_path)
    both_runs(uri)
    version = DeltaTable(uri).version()
    overwrite(uri)
    assert DeltaTable(uri).version() == version + 1
    assert fragment_counts(uri) == uids()
    assert committed_fragments(uri, "one", ["one_a"]) == committed_fragments(uri, "two", ["two_a"]) == set()
    both_runs(uri)
    both_runs(uri)
    assert fragment_counts(uri) == uids(("one_a", 3), ("two_a", 6))


def test_an_earlier_version_comes_back_and_what_came_later_can_be_made_again(tmp_path: Path) -> None:
    uri = str(tmp_path)
    both_runs(uri)
    before = DeltaTable(uri).version()
    commit(uri, [write(uri, "two_b", 2, 0, run_id="two")], run_id="two", schema=SCHEMA)
    overwrite(uri, run_id="one")
    assert restore(uri, before) == before + 3
    assert fragment_counts(uri) == uids(("one_a", 3), ("two_a", 6))
    assert committed_fragments(uri, "two", ["two_a", "two_b"]) == {"two_a"}
    assert committed_fragments(uri, "one", ["one_a"]) == {"one_a"}
    for name, count, expected in (("two_a", 8, ()), ("two_b", 1, ("two_b",))):
        again = commit(uri, [write(uri, name, count, 1, run_id="two")], run_id="two", schema=SCHEMA)
        assert again.committed == expected
    assert fragment_counts(uri) == uids(("one_a", 3), ("two_a", 6), ("two_b", 2))
    # what came back leaves like anything else
    report = commit(uri, [write(uri, "two_c", 3, 0, run_id="two")], run_id="two", schema=SCHEMA, stale=["two_a"])
    assert (report.committed, report.withdrawn) == (("two_c",), ("two_a",))
    assert fragment_counts(uri) == uids(("one_a", 3), ("two_b", 2), ("two_c", 3))
    with pytest.raises(ConfigError, match=r"no version 99 before the newest of .*: version \d+"):
        restore(uri, 99)
    with pytest.raises(ConfigError, match="no table"):
        restore(str(tmp_path / "nothing"), 0)


def test_replacing_is_one_commit_and_the_same_again_is_none(tmp_path: Path) -> None:
    uri = str(tmp_path)

    def replace(run_id: str, count: int) -> tuple[str, ...]:
        parts = [write(uri, name, count, 0, run_id=run_id) for name in ("x", "y")]
        return replace_table(uri, parts, run_id=run_id, schema=SCHEMA).committed

    assert replace("one", 2) == ("x", "y")
    version = DeltaTable(uri).version()
    assert replace("one", 2) == ()
    assert DeltaTable(uri).version() == version
    assert replace("two", 3) == ("x", "y")
    assert DeltaTable(uri).version() == version + 1
    assert fragment_counts(uri) == uids(("x", 3), ("y", 3))
    assert replace("one", 2) == ("x", "y")
    assert fragment_counts(uri) == uids(("x", 2), ("y", 2))


def test_contracts_of_replace(tmp_path: Path) -> None:
    uri = str(tmp_path)
    receipt = write(uri, "x")
    for receipts, run_id, kept in (([receipt] * 2, "run", ()), ([receipt], "other", ()), ([receipt], "run", ("x",))):
        with pytest.raises(TableError, match="needs receipts of run"):
            replace_table(uri, receipts, run_id=run_id, schema=SCHEMA, kept=kept)
    with pytest.raises(TableError, match="no longer holds 1 fragments of run run"):
        replace_table(uri, [receipt], run_id="run", schema=SCHEMA, kept=("y",))


def test_what_is_kept_stays_and_all_else_leaves_in_the_same_commit(tmp_path: Path) -> None:
    uri = str(tmp_path)
    both_runs(uri)
    commit(uri, [write(uri, "one_b", 1, 1, run_id="one")], run_id="one", schema=SCHEMA)
    kept = {file for file in DeltaTable(uri).file_uris() if "one_a" in file}
    version = DeltaTable(uri).version()
    new = write(uri, "one_c", 4, 0, run_id="one")
    report = replace_table(uri, [new], run_id="one", schema=SCHEMA, kept=("one_a",))
    assert (report.committed, report.withdrawn, report.version) == (("one_c",), ("one_b", "two_a"), version + 1)
    assert DeltaTable(uri).version() == version + 1
    assert fragment_counts(uri) == uids(("one_a", 3), ("one_c", 4))
    assert kept < set(DeltaTable(uri).file_uris())
    assert committed_fragments(uri, "one", ["one_a", "one_b", "one_c"]) == {"one_a", "one_c"}
    assert committed_fragments(uri, "two", ["two_a"]) == set()
    again = replace_table(uri, [], run_id="one", schema=SCHEMA, kept=("one_a", "one_c"))
    assert (again.committed, again.withdrawn, again.version) == ((), (), version + 1)
    both_runs(uri)
    assert fragment_counts(uri) == uids(("one_a", 3), ("one_c", 4), ("two_a", 6)), "what left can be made again"
    assert replace_table(uri, [], run_id="one", schema=SCHEMA).withdrawn == ("one_a", "one_c", "two_a")
    assert fragment_counts(uri) == uids()


def test_vacuum_removes_old_orphans_only_and_only_when_told(tmp_path: Path) -> None:
    uri = str(tmp_path)
    assert vacuum(str(tmp_path / "none")) == []
    commit(uri, [write(uri, "a")], run_id="run", schema=SCHEMA)
    orphan, young = write(uri, "orphan", 2, 0).files[0].path, write(uri, "young", 2, 0).files[0].path
    left = [orphan, "status=ok/part-b-0123456789ab.parquet.00ff.tmp"]
    others = ["gallery.html", "_run/run.json", "status=ok/notes.txt"]
    for name in (left[1], *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    long_ago = time.time() - 200 * 3600
    live = [file.removeprefix(uri + "/") for file in DeltaTable(uri).file_uris()]
    for name in (*left, *others, *live):
        os.utime(tmp_path / name, (long_ago, long_ago))
    assert vacuum(uri) == sorted(left)
    assert all((tmp_path / name).exists() for name in left)
    assert vacuum(uri, dry_run=False) == sorted(left)
    assert not any((tmp_path / name).exists() for name in left)
    assert all((tmp_path / name).exists() for name in (young, *others, *live))
    assert fragment_counts(uri) == uids(("a", 3))
    with pytest.raises(ConfigError, match="at least 24"):
        vacuum(uri, retention_hours=23)
