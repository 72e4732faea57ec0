"""A model in a store is read from a copy, which is whole, and which nobody has to remove."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from llava_core.errors import CheckpointReason, CheckpointRefused
from pipelines.models import local_model

FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": b"first",
    "model-00002-of-00002.safetensors": b"second",
    "pytorch_model.bin": b"old",
    "tokenizer.json": b'{"a": 1}',
    "tokenizer.model": b"words",
    "COMPLETE.json": b'{"step": 7}',
}
"""Of a checkpoint; beside it lie a page, and a folder with the files of another one."""
OTHERS = {"train_report.html": b"<p>", "checkpoints/config.json": b"[]"}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture
def uri() -> Iterator[str]:
    """A checkpoint in a store."""
    store = fsspec.filesystem("memory")
    for name, data in {**FILES, **OTHERS}.items():
        store.pipe_file(f"/models/mine/{name}", data)
    yield "memory://models/mine"
    store.rm("/models", recursive=True)


def test_a_copy_is_whole_and_goes(uri: str, scratch: Path) -> None:
    with local_model(uri) as name:
        assert {path.name: path.read_bytes() for path in Path(name).iterdir()} == FILES
        assert list(scratch.iterdir()) == [Path(name)]
    assert list(scratch.iterdir()) == []
    with pytest.raises(RuntimeError, match="while it is read"), local_model(f"{uri}/"):
        raise RuntimeError("while it is read")
    assert list(scratch.iterdir()) == []


def test_settings_alone_have_no_weights(uri: str, scratch: Path) -> None:
    with local_model(uri, weights=False) as name:
        found = {path.name for path in Path(name).iterdir()}
    assert found == {"config.json", "tokenizer.json", "tokenizer.model", "COMPLETE.json"}


@pytest.mark.parametrize("place", ["memory://models/other", "memory://models"])
def test_a_place_without_a_checkpoint_is_refused(uri: str, scratch: Path, place: str) -> None:
    with pytest.raises(CheckpointRefused, match=f"{place} has no file of a checkpoint") as refused, local_model(place):
        pass
    assert refused.value.reason is CheckpointReason.NOT_FOUND and list(scratch.iterdir()) == []


def test_what_is_here_is_not_copied(tmp_path: Path, scratch: Path) -> None:
    for source, wanted in [
        ("tiny", "tiny"),
        ("owner/model@4f8a", "owner/model@4f8a"),
        ("out/model", "out/model"),
        (f"file://{tmp_path}/model", f"{tmp_path}/model"),
    ]:
        with local_model(source) as name:
            assert name == wanted
    assert list(scratch.iterdir()) == []
