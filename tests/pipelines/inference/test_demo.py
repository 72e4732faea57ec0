"""The demo shows its own run's captions, and where that fails nothing hides why."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import demo
from pipelines.inference.config import InferenceConfig
from pipelines.inference.job import freeze
from tests.pipelines.inference.fakes import photo
from tests.pipelines.inference.page_cases import commit


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo writes, of one drawing and one photo."""
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "drawings", lambda: {"1.jpg": photo(20, 30)})
    monkeypatch.setattr(demo, "photos", lambda: {"2.jpg": photo(30, 20)})
    return tmp_path


def test_a_run_that_fails_leaves_its_code_and_no_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.cli, "run", lambda job: 2)
    assert demo.main() == 2


def test_captions_of_another_run_are_not_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_job(config: InferenceConfig, say: Callable[[str], None]) -> None:
        job = freeze(config)
        settings = dataclasses.replace(job.spec.settings, run_id="other0000")
        commit(dataclasses.replace(job, spec=dataclasses.replace(job.spec, settings=settings)))
        commit(job)

    monkeypatch.setattr(demo, "run_job", run_job)
    assert demo.main() == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if ".jpg" in line]
    assert [line.split()[:2] for line in shown] == [["1.jpg", "uid1"]]
