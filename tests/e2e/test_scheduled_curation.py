"""Scheduled curation as a cron job runs it: a growing corpus, one run killed, two at once; then going back."""

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines.curation.lease import FOLDER
from pipelines.synthetic.corpus import SyntheticConfig, Truth, make_corpus
from tests.e2e.processes import finished, started

ROOT = Path(__file__).resolve().parents[2]
CORPUS = SyntheticConfig(rows=24, seed=4, planted=0.5, least_side=100, most_side=140)
THRESHOLDS = ("--min-blur", "5", "--min-bright-end", "0.15", "--max-blockiness", "3", "--min-text-chars", "1")

pytestmark = pytest.mark.slow


def command(folder: Path, *words: str) -> list[str]:
    """What the schedule runs, each time the same."""
    places = ["--input", str(folder / "corpus"), "--output", str(folder / "out"), "--rows-per-fragment", "6"]
    return [sys.executable, str(ROOT / "jobs" / "curate_corpus.py"), *places, *THRESHOLDS, "--num-workers", "1", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def grow(folder: Path, rows: int, before: int = 0) -> list[Truth]:
    values = {name: getattr(CORPUS, name) for name in ("seed", "planted", "least_side", "most_side")}
    return make_corpus(folder, SyntheticConfig(rows=rows, **values), first=before)


def rows(folder: Path, name: str, version: int | None = None) -> list[dict[str, Any]]:
    table = DeltaTable(folder / "out" / name, version=version)
    return list(pa.table(table.to_pyarrow_dataset().to_table()).to_pylist())


def kept(folder: Path, version: int | None = None) -> list[str]:
    return sorted(row["uri"] for row in rows(folder, "selection", version) if row["status"] == "ok")


def versions(folder: Path) -> dict[str, int]:
    return {name: DeltaTable(folder / "out" / name).version() for name in ("scores", "selection", "shards")}


def check(folder: Path, truths: list[Truth]) -> None:
    """Every row once in scores and selection, every kept one once in shards."""
    uris = Counter(f"{folder / 'corpus'}/{truth.name}" for truth in truths)
    assert Counter(row["uri"] for row in rows(folder, "scores")) == uris
    assert Counter(row["uri"] for row in rows(folder, "selection")) == uris
    assert Counter(row["uri"] for row in rows(folder, "shards")) == Counter(kept(folder))


def run(folder: Path, *words: str) -> str:
    code, said = finished(command(folder, *words), environment())
    assert code == 0, said
    return said


def kill_midway(folder: Path) -> None:
    """Start a run, and kill it and all its processes once it has written a part that it did not commit."""
    parts = (folder / "out" / "scores").rglob
    before = {path.name for path in parts("part-*.parquet")}
    with started(command(folder), environment()) as process:
        until = time.monotonic() + 180
        while {path.name for path in parts("part-*.parquet")} == before:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.02)


def overlap(folder: Path) -> str:
    """Start a run, and a second one while the first holds the lease; return what the second said."""
    with started(command(folder), environment()) as first:
        for line in first.stdout or ():
            if "to do, by" in line:
                break
        code, said = finished(command(folder), environment())
        rest = (first.stdout or sys.stdin).read()
        assert first.wait(timeout=300) == 0, rest
    assert code == 1, said
    return said


def test_three_nights_one_killed_two_at_once_and_back(tmp_path: Path) -> None:
    truths = grow(tmp_path, 24)
    run(tmp_path)
    check(tmp_path, truths)
    first, night_one = versions(tmp_path), kept(tmp_path)
    time.sleep(1)
    between = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    time.sleep(1)

    truths = grow(tmp_path, 48, before=24)
    kill_midway(tmp_path)
    assert {name: version for name, version in versions(tmp_path).items() if name != "scores"} == {
        name: version for name, version in first.items() if name != "scores"
    }, "readers see the first night's selection and shards"
    assert kept(tmp_path) == night_one

    said = run(tmp_path)
    check(tmp_path, truths)
    second = versions(tmp_path)
    assert all(second[name] > first[name] for name in second)
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    assert "dedupe:" in said

    truths = grow(tmp_path, 72, before=48)
    refused = overlap(tmp_path)
    assert "another run has been writing here since" in refused
    check(tmp_path, truths)
    (lease,) = (tmp_path / "out" / FOLDER).iterdir()
    assert '"expires": 0.0' in lease.read_text(), "given back"
    assert kept(tmp_path, second["selection"]) != kept(tmp_path)

    back = [sys.executable, str(ROOT / "jobs" / "roll_back.py"), "--output", str(tmp_path / "out")]
    code, listed = finished(back, environment())
    assert code == 0, listed
    assert f"selection {second['selection']}" in listed
    code, said = finished([*back, "--to", between], environment())
    assert code == 0, said
    assert f"selection: version {first['selection']} is back" in said
    assert kept(tmp_path) == night_one
    assert sorted(row["uri"] for row in rows(tmp_path, "shards")) == night_one

    run(tmp_path)
    check(tmp_path, truths)
    assert "nothing was missing" in run(tmp_path)
