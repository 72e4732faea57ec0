"""Going back brings the selection and the shards of one time together, and lets a later run make its own again."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

from llava_core.errors import ConfigError
from pipelines import cli
from pipelines.record import RunRecord
from pipelines.rollback import RollbackConfig, roll_back, versions
from pipelines.upkeep import replace_table
from tests.pipelines.table_cases import SCHEMA, fragment_counts, uids, write


def night(folder: Path, count: int, *, shards: bool = True) -> None:
    """One run: a new selection, and new shards unless they stay."""
    for name in ("selection", *(("shards",) if shards else ())):
        uri = str(folder / name)
        replace_table(uri, [write(uri, name, count, 0, run_id=f"r{count}")], run_id=f"r{count}", schema=SCHEMA)


def go_back(folder: Path, to: str | None = None) -> list[str]:
    said: list[str] = []
    roll_back(RollbackConfig(output=str(folder), to=to), said.append)
    return said


def test_both_tables_of_a_time_come_back(tmp_path: Path) -> None:
    night(tmp_path, 3)
    night(tmp_path, 4, shards=False)
    time.sleep(0.01)
    between = datetime.now(UTC).isoformat()
    time.sleep(0.01)
    night(tmp_path, 5)
    RunRecord(run_id="done", job="curate_corpus", settings={}, status="complete", rows_in=5).write(str(tmp_path))
    listed = go_back(tmp_path)
    assert [line.partition("  ")[2] for line in listed] == [
        *(f"selection {number}" for number in range(4)),
        *(f"shards {number}" for number in range(3)),
    ]
    assert go_back(tmp_path, between) == [
        "selection: version 2 is back, as version 4",
        "shards: version 1 is back, as version 3",
    ]
    assert fragment_counts(str(tmp_path / "selection")) == uids(("selection", 4))
    assert fragment_counts(str(tmp_path / "shards")) == uids(("shards", 3))
    record = RunRecord.read(str(tmp_path), "done")
    assert record is not None
    assert (record.status, record.rows_in) == ("failed", 5)
    night(tmp_path, 5)
    assert fragment_counts(str(tmp_path / "selection")) == uids(("selection", 5))
    assert fragment_counts(str(tmp_path / "shards")) == uids(("shards", 5))


def test_what_stands_stays_and_times_are_read_as_utc(tmp_path: Path) -> None:
    night(tmp_path, 3)
    later = (datetime.now(UTC) + timedelta(minutes=1)).replace(tzinfo=None).isoformat(timespec="seconds")
    assert go_back(tmp_path, later) == ["selection: version 1 is what stands", "shards: version 1 is what stands"]
    assert DeltaTable(tmp_path / "shards").version() == 1
    assert [at.tzinfo for at in versions(str(tmp_path / "shards")).values()] == [UTC, UTC]


def test_wrong_times_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no table"):
        go_back(tmp_path)
    night(tmp_path, 3)
    with pytest.raises(ConfigError, match="selection held nothing at 2020-01-01T00:00:00"):
        go_back(tmp_path, "2020-01-01")
    with pytest.raises((ConfigError, SystemExit)):
        cli.parse(RollbackConfig, ["--output", str(tmp_path), "--to", "yesterday"])
