"""The front door of exports: exit codes as the other jobs have them, and no folder named like a store."""

import sys
from pathlib import Path

import pytest

from jobs import export_checkpoint


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the job as from the command line; its exit code."""
    monkeypatch.setattr(sys, "argv", ["export_checkpoint.py", *words])
    try:
        return export_checkpoint.main()
    except SystemExit as leaving:
        assert isinstance(leaving.code, int)
        return leaving.code


def test_a_checkpoint_is_written_in_the_layout_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--model", "tiny", "--output", "out/own", "--layout", "own") == 0
    assert "layout own" in capsys.readouterr().out
    assert (tmp_path / "out/own/config.json").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "tiny", "--output", "s3://bucket/x", "--layout", "own"), "is not on a local disk"),
        (("--output", "out"), "--model"),
        (("--model", "tiny", "--output", "out"), "NOT_EXPRESSIBLE"),
        (("--model", "nowhere", "--output", "out"), "nowhere"),
    ],
)
def test_wrong_settings_and_refused_checkpoints_end_with_2(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *words) == 2
    said = capsys.readouterr()
    assert says in said.err + said.out
    assert not (tmp_path / "s3:").exists()
