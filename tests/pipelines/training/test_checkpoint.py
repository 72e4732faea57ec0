"""Checkpoints are complete or not loaded; a full disk, another run's folder, an object store; one worker."""

import errno
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llava_core.checkpoints.load import load_model
from pipelines.storage import filesystem
from pipelines.training import checkpoint
from pipelines.training.checkpoint import Checkpoints, seed_all, tensors_of
from pipelines.training.errors import TrainingStopped
from pipelines.training.module import TrainModule
from pipelines.training.optimizer import freeze, make_optimizer
from tests.pipelines.training import cases
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_model(tmp_path_factory.mktemp("checkpoint"))


def setting(untrained: Path, value: float) -> tuple[TrainModule, torch.optim.Optimizer]:
    """A model whose trained tensors and moments are all one number."""
    one = cases.stage(learning_rates={"projector": 1e-3})
    module = TrainModule(load_model(untrained), one.losses)
    freeze(module, one)
    optimizer = make_optimizer(module, one)
    for tensor in tensors_of(module, optimizer).values():
        if tensor.is_floating_point():
            tensor.fill_(value)
    return module, optimizer


def save(store: Checkpoints, untrained: Path, value: float, step: int) -> None:
    store.save(*setting(untrained, value), {"step": step})
    assert store.pending
    store.finish()
    assert not store.pending


def loaded(store: Checkpoints, untrained: Path) -> set[float]:
    """The numbers that the newest checkpoint puts in place."""
    found = store.newest()
    assert found is not None
    module, optimizer = setting(untrained, -1.0)
    store.load(found[0], module, optimizer)
    return {float(v) for t in tensors_of(module, optimizer).values() if t.is_floating_point() for v in t.flatten()}


def test_what_was_saved_comes_back_and_random_numbers_go_on(untrained: Path, tmp_path: Path) -> None:
    store = Checkpoints(str(tmp_path / "c"), "run")
    seed_all(7, 1)
    random.gauss(0, 1)
    save(store, untrained, 2.5, 10)
    drawn = (torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand())
    seed_all(8)
    assert loaded(store, untrained) == {2.5}
    assert (torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand()) == drawn
    assert (store.newest() or ("", {}))[1] == {"step": 10}


@pytest.mark.parametrize("harm", ["no marker", "torn marker", "other bytes", "shorter", "missing", "other run"])
def test_a_checkpoint_that_is_not_whole_is_not_used(untrained: Path, tmp_path: Path, harm: str) -> None:
    store = Checkpoints(str(tmp_path / "c"), "run")
    save(store, untrained, 1.0, 10)
    save(store, untrained, 2.0, 20)
    newest = max((tmp_path / "c").iterdir())
    shard = newest / "__0_0.distcp"
    marker = newest / "COMPLETE.json"
    match harm:
        case "no marker":
            marker.unlink()
        case "torn marker":
            marker.write_text(marker.read_text()[:40])
        case "other bytes":
            content = bytearray(shard.read_bytes())
            content[len(content) // 2] ^= 1
            shard.write_bytes(content)
        case "shorter":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "missing":
            shard.unlink()
        case "other run":
            marker.write_text(json.dumps(json.loads(marker.read_text()) | {"identity": "another"}))
    assert loaded(store, untrained) == {1.0}


def test_old_checkpoints_go_once_a_newer_one_is_complete(untrained: Path, tmp_path: Path) -> None:
    store = Checkpoints(str(tmp_path / "c"), "run", keep=2)
    for step in (10, 20, 30):
        save(store, untrained, step, step)
    (tmp_path / "c" / "00000040-dead").mkdir()
    store.remove_incomplete()
    assert sorted(path.name[:8] for path in (tmp_path / "c").iterdir()) == ["00000020", "00000030"]


def test_one_that_was_refused_takes_no_place_of_a_good_one(untrained: Path, tmp_path: Path) -> None:
    store = Checkpoints(str(tmp_path / "c"), "run", keep=2)
    for step in (40, 60):
        save(store, untrained, step, step)
    shard = max((tmp_path / "c").iterdir()) / "__0_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1])
    again = Checkpoints(str(tmp_path / "c"), "run", keep=1)
    assert loaded(again, untrained) == {40.0}
    # until there is a better one, nothing goes
    assert len(list((tmp_path / "c").iterdir())) == 2
    save(again, untrained, 50, 50)
    assert [path.name[:8] for path in (tmp_path / "c").iterdir()] == ["00000050"]
    assert loaded(again, untrained) == {50.0}
    save(again, untrained, 60, 60)
    assert loaded(again, untrained) == {60.0}


def test_a_full_disk_stops_and_keeps_the_last_good_one(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoints(str(tmp_path / "c"), "run")
    save(store, untrained, 1.0, 10)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_sharded", full)
        with pytest.raises(TrainingStopped, match=r"the disk is full .* run the same command"):
            store.save(*setting(untrained, 2.0), {"step": 20})
    assert len(list((tmp_path / "c").iterdir())) == 1
    assert loaded(store, untrained) == {1.0}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.hashlib, "file_digest", full)
        store.save(*setting(untrained, 3.0), {"step": 30})
        with pytest.raises(TrainingStopped, match="the disk is full"):
            store.finish()
    assert loaded(store, untrained) == {1.0}


def test_in_an_object_store(untrained: Path, s3_bucket: S3Bucket) -> None:
    store = Checkpoints(f"{s3_bucket.uri}/run/checkpoints", "run", keep=1, options=s3_bucket.delta_options)
    assert store.newest() is None
    save(store, untrained, 4.0, 10)
    save(store, untrained, 5.0, 20)
    files, root = filesystem(store.uri, store.options)
    names = [path.rsplit("/", 1)[-1] for path in files.find(root)]
    assert sorted(names) == [".metadata", "COMPLETE.json", "__0_0.distcp", "rank-00000.safetensors", "state.json"]
    assert loaded(store, untrained) == {5.0}
