"""Counts of a run: by reason, from statistics and from files, and the sum that must come out."""

from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipelines import accounts
from pipelines.accounts import check_accounts, counts
from pipelines.errors import AccountingError
from pipelines.parts import write_fragment
from pipelines.tables import commit, live_fragments
from tests.pipelines.table_cases import SCHEMA, rows, write
from tests.pipelines.test_parts import replaced


def fill(uri: str) -> None:
    """Two runs; run "one" has 5 ok, 2 EMPTY in two files, and one file with EMPTY and BOMB."""
    mixed = replaced(rows("c", 0, 3, run_id="one"), "error", "BOMB")
    receipts = [
        write(uri, "a", 4, 1, run_id="one"),
        write(uri, "b", 1, 1, run_id="one"),
        write_fragment(mixed, SCHEMA, table_uri=uri, fragment_id="c", run_id="one"),
    ]
    assert receipts[2].rejected == {"BOMB": 1, "EMPTY": 2}
    commit(uri, receipts, run_id="one", schema=SCHEMA)
    commit(uri, [write(uri, "a", 7, 2, run_id="two", reason="ASPECT")], run_id="two", schema=SCHEMA)


def test_counts_by_run_and_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "table")
    assert counts(uri, "one").rows == 0
    fill(uri)
    read: list[str] = []
    whole = accounts._read_reasons
    monkeypatch.setattr(accounts, "_read_reasons", lambda file, *rest: read.append(file) or whole(file, *rest))
    found = counts(uri, "one")
    assert (found.ok, list(found.rejected.items()), found.rows) == (5, [("EMPTY", 4), ("BOMB", 1)], 10)
    assert [Path(file).name.split("-")[1] for file in read] == ["c"]
    other = counts(uri, "two")
    assert (other.ok, dict(other.rejected)) == (7, {"ASPECT": 2})
    assert counts(uri, "three").rows == 0
    assert live_fragments(DeltaTable(uri), "one") == {"a", "b", "c"}
    assert live_fragments(DeltaTable(uri), "two") == {"a"}
    assert live_fragments(DeltaTable(uri), "three") == set()


def test_counts_of_some_fragments(tmp_path: Path) -> None:
    uri = str(tmp_path)
    fill(uri)
    for _ in range(2):
        found = counts(uri, "one", fragment_ids={"b", "c", "never"})
        assert (found.ok, dict(found.rejected)) == (1, {"EMPTY": 3, "BOMB": 1})
        assert counts(uri, "one", fragment_ids=[]).rows == 0
        DeltaTable(uri).optimize.compact()


def test_counts_survive_a_compaction_across_runs(tmp_path: Path) -> None:
    uri = str(tmp_path)
    fill(uri)
    before = [counts(uri, "one"), counts(uri, "two")]
    DeltaTable(uri).optimize.compact()
    assert len(DeltaTable(uri).file_uris()) == 2
    assert [counts(uri, "one"), counts(uri, "two")] == before


def test_rows_that_are_missing_or_too_many_are_an_error(tmp_path: Path) -> None:
    uri = str(tmp_path)
    fill(uri)
    found = counts(uri, "one")
    check_accounts(found, 10)
    with pytest.raises(AccountingError, match=r"11 rows in, 10 rows out \(5 ok, EMPTY 4, BOMB 1\): 1 missing"):
        check_accounts(found, 11)
    with pytest.raises(AccountingError, match="1 too many"):
        check_accounts(found, 9)
