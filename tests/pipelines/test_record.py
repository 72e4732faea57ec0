"""A run's name changes with what changes a row; its record comes back as it was written."""

import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.record import RunRecord, git_revision, merged_fragments, run_id, run_versions


def test_run_id_changes_with_any_value_and_not_with_order() -> None:
    settings = {"model": "m", "prompt": "Describe", "sampling": {"temperature": 0.0, "seed": 0}}
    name = run_id(settings)
    assert len(name) == 16 and int(name, 16) >= 0
    assert run_id(dict(reversed(settings.items()))) == name
    for other in (
        settings | {"prompt": "describe"},
        settings | {"sampling": {"temperature": 0.1, "seed": 0}},
        settings | {"more": None},
    ):
        assert run_id(other) != name
    assert run_id({"a": 1}) == "015abd7f5cc57a2d"


def test_run_id_refuses_what_has_no_one_spelling() -> None:
    with pytest.raises(TypeError):
        run_id({"path": Path("x")})
    with pytest.raises(ValueError, match="JSON"):
        run_id({"x": math.nan})


def test_a_record_comes_back_as_written(tmp_path: Path) -> None:
    record = RunRecord(
        run_id="0123456789abcdef",
        job="caption_corpus",
        settings={"prompt": "é", "limit": None},
        seeds={"sampling": 7},
        versions={"ray": "2.60.0"},
        fragments={"/data/in": ["f1", "f2"]},
        rows_in=3,
        counts={"ok": 2, "EMPTY": 1},
        status="complete",
        started="2026-01-01T00:00:00+00:00",
    )
    output = str(tmp_path / "out")
    assert RunRecord.read(output, record.run_id) is None
    assert record.write(output) == f"{output}/_run/0123456789abcdef.json"
    assert RunRecord.read(output, record.run_id) == record


def test_a_record_of_a_newer_version_can_still_be_read(tmp_path: Path) -> None:
    (tmp_path / "_run").mkdir()
    (tmp_path / "_run" / "r.json").write_text('{"run_id": "r", "job": "j", "settings": {}, "invented_later": 1}')
    assert RunRecord.read(str(tmp_path), "r") == RunRecord(run_id="r", job="j", settings={})


def test_merging_plans_goes_over_each_of_them_a_few_times_whatever_their_length() -> None:
    passes = 0

    class Plan(list[str]):
        def __iter__(self) -> Iterator[str]:
            nonlocal passes
            passes += 1
            return super().__iter__()

    before = RunRecord(run_id="r", job="j", settings={}, fragments={"a": [f"old{one}" for one in range(50)]})
    merged = merged_fragments(before, {"a": Plan(["old3", "new"])}, finished=False)
    assert merged == {"a": [*(f"old{one}" for one in range(50) if one != 3), "old3", "new"]}
    assert passes <= 2


def test_versions_name_packages_and_the_revision(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None
    assert "git" not in run_versions(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"]):
        subprocess.run(git + command, check=True)
    head = run_versions(tmp_path)["git"]
    assert len(head) == 40
    (tmp_path / "file").write_text("2")
    assert git_revision(tmp_path) == head + "+changes"
    assert run_versions(tmp_path)["ray"].startswith("2.")
