"""The stage's actor, as far as it needs no Ray."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

from pipelines.inference.config import CaptionConfig
from pipelines.inference.job import freeze
from pipelines.inference.stage import InferenceStage
from tests.pipelines.inference.fakes import photo


def test_an_engine_that_moves_is_noted_without_any_row(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.jpg").write_bytes(photo(20, 30))
    job = freeze(CaptionConfig(input=(str(tmp_path / "photos"),), output=str(tmp_path / "out")))
    spec = dataclasses.replace(job.spec, engine_factory="tests.pipelines.inference.poison:engine")
    notes: list[tuple[int, int]] = []
    remote = SimpleNamespace(remote=lambda *note: notes.append(note))
    stage = InferenceStage(spec, 1, "cpu", SimpleNamespace(note=remote))
    assert stage.engine.restarts == 0
    assert notes == [(0, 0)]
    stage.close()
