"""Drivers that die at once (SIGKILL) at every step, and drivers that race: every row in the table exactly once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipelines.accounts import check_accounts, counts
from pipelines.tables import open_table
from tests.pipelines.driver_process import PLAN
from tests.pipelines.table_cases import fragment_counts, uids
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]

SCRIPT = Path(__file__).with_name("driver_process.py")
WHOLE = uids(*((name, ok + rejected) for name, (ok, rejected) in PLAN.items()))


def start(uri: str, attempt: int, death: str = "never", go: Path | None = None) -> subprocess.Popen[str]:
    """Start a driver that commits two fragments at a time."""
    words = [sys.executable, str(SCRIPT), uri, str(attempt), "2", death, *([str(go)] if go else [])]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy())


def finish(driver: subprocess.Popen[str]) -> dict[str, list[str]]:
    """Wait for a driver that lives and return what it committed."""
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    report: dict[str, list[str]] = json.loads(out)
    return report


def settle(uri: str, options: dict[str, str], deaths: list[str]) -> None:
    """Let one driver after another die on a table; then one lives, and one finds nothing to do."""
    for attempt, death in enumerate(deaths):
        driver = start(uri, attempt, death)
        _, err = driver.communicate(timeout=120)
        assert driver.returncode == -9, (death, err)
        if open_table(uri, options) is not None:
            assert fragment_counts(uri, options) <= WHOLE
    last = finish(start(uri, len(deaths)))
    assert 0 < len(last["committed"]) < len(PLAN)
    assert fragment_counts(uri, options) == WHOLE
    check_accounts(counts(uri, "run", storage_options=options), WHOLE.total())
    version = DeltaTable(uri, storage_options=options).version()
    assert finish(start(uri, 9))["committed"] == []
    assert DeltaTable(uri, storage_options=options).version() == version


def test_killed_drivers_lose_and_double_nothing(tmp_path: Path) -> None:
    settle(str(tmp_path), {}, ["torn:3", "written:3", "decided:1", "committed:2", "decided:2"])


def test_killed_drivers_lose_and_double_nothing_on_s3(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_bucket.delta_options.items():
        monkeypatch.setenv(name, value)
    settle(f"{s3_bucket.uri}/out", s3_bucket.delta_options, ["written:3", "decided:2", "committed:2"])


def test_drivers_that_race_share_the_work(tmp_path: Path) -> None:
    uri, go = str(tmp_path / "table"), tmp_path / "go"
    drivers = [start(uri, attempt, go=go) for attempt in range(3)]
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("go.*"))) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    go.touch()
    reports = [finish(driver) for driver in drivers]
    assert sorted(name for report in reports for name in report["committed"]) == sorted(PLAN)
    assert fragment_counts(uri) == WHOLE
