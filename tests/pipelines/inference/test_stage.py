"""The stage's actor, as far as it needs no Ray."""

import dataclasses
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.inference import stage as stage_module
from pipelines.inference.config import CaptionConfig
from pipelines.inference.job import freeze
from pipelines.inference.stage import InferenceStage
from pipelines.inference.tiles import Wish
from pipelines.sandbox import SandboxSettings
from tests.pipelines.hostile import hostile
from tests.pipelines.inference.fakes import photo
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]

Notes = list[tuple[int, int]]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[InferenceStage, Notes]]:
    """A stage of one decoder whose engine has started, and what it notes."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.jpg").write_bytes(photo(20, 30))
    job = freeze(CaptionConfig(input=(str(tmp_path / "photos"),), output=str(tmp_path / "out")))
    sandbox = SandboxSettings(decoder="tests.pipelines.hostile:decode")
    spec = dataclasses.replace(job.spec, engine_factory="tests.pipelines.inference.poison:engine", sandbox=sandbox)
    notes: Notes = []
    remote = SimpleNamespace(remote=lambda *note: notes.append(note))
    stage = InferenceStage(spec, 1, "cpu", SimpleNamespace(note=remote))
    assert stage.engine.restarts == 0
    yield stage, notes
    stage.close()


def test_an_engine_that_moves_is_noted_without_any_row(started: tuple[InferenceStage, Notes]) -> None:
    assert started[1] == [(0, 0)]


def test_tokens_are_told_while_they_are_made_and_once(started: tuple[InferenceStage, Notes]) -> None:
    stage, notes = started
    notes.clear()
    stage._moved(30)
    stage._moved(12)
    stage._made(3, 100)
    stage._made(1, 5)
    # a step that ran out of memory was made twice
    stage._moved(9)
    stage._made(1, 5)
    stage._made(1, 6)
    assert notes == [(0, 30), (0, 12), (3, 58), (1, 5), (0, 9), (1, 0), (1, 6)]


def test_images_that_end_their_decoder_are_signs_of_life_too(
    started: tuple[InferenceStage, Notes], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, notes = started
    monkeypatch.setattr(stage_module, "SIGN_SECONDS", 0.0)
    files = [photo(20, 30), hostile(photo(30, 20), "crash")]
    notes.clear()
    stage.decoders.tile(files, [Wish(1, 2, 2)] * 2)
    # one answer, and three processes that the other image ended
    assert notes == [(0, 0)] * 4
    stage.decoders.details(files)
    assert notes == [(0, 0)] * 8


def test_signs_of_life_are_not_a_message_for_each_image(
    started: tuple[InferenceStage, Notes], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, notes = started
    monkeypatch.setattr(stage_module, "SIGN_SECONDS", 1000.0)
    stage.decoders.tile([photo(20, 30)] * 9, [Wish(1, 2, 2)] * 9)
    assert notes == [(0, 0)]


def test_a_model_in_a_store_is_the_one_of_a_folder_for_driver_and_worker(
    tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Path(str(resources.files("llava_core") / "assets/tiny"))
    for file in tiny.iterdir():
        s3_bucket.put(f"trained/model/{file.name}", file.read_bytes())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.jpg").write_bytes(photo(20, 30))
    config = CaptionConfig(input=(str(tmp_path / "photos"),), output=str(tmp_path / "out"))
    here = freeze(dataclasses.replace(config, model=str(tiny)))
    for name, value in s3_bucket.delta_options.items():
        monkeypatch.setenv(name, value)
    uri = f"{s3_bucket.uri}/trained/model"
    there = freeze(dataclasses.replace(config, model=uri))
    assert there.spec.settings.model_revision == here.spec.settings.model_revision
    assert there.spec.settings.config == here.spec.settings.config
    assert (there.spec.model, there.spec.settings.model) == (uri, uri)
    # a worker knows what it was given, and not the driver's environment
    for name in s3_bucket.delta_options:
        monkeypatch.delenv(name)
    stage = InferenceStage(
        dataclasses.replace(there.spec, engine_factory="tests.pipelines.inference.poison:reading"), 1, "cpu"
    )
    assert stage.engine.restarts == 0
    stage.close()
