"""Reading files safely: each way in which a folder can be broken or hostile is refused with its own reason."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava_core.checkpoints.files import read_json, refuse_remote_code, write_json
from llava_core.checkpoints.weights import is_finite, open_weights, write_weights
from llava_core.errors import CheckpointReason, CheckpointRefused

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4, dtype=torch.bfloat16), "c": torch.ones(1)}


class Canary:
    """Pickles to a call that makes a file: if the file appears, code of a checkpoint was run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT | os.O_WRONLY)


def refused(reason: CheckpointReason, folder: Path, **options: bool) -> str:
    with pytest.raises(CheckpointRefused) as caught:
        open_weights(folder, **options)
    assert caught.value.reason is reason
    return caught.value.detail


def test_single_file_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    write_weights(tmp_path, TENSORS)
    weights = open_weights(tmp_path)
    assert weights.specs().keys() == TENSORS.keys()
    assert weights.specs()["b"].dtype is torch.bfloat16
    assert weights.specs()["a"].shape == (2, 3)
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in TENSORS.items())


def test_shards_are_written_with_an_index_and_replace_what_was_there(tmp_path: Path) -> None:
    write_weights(tmp_path, {"old": torch.zeros(2)})
    write_weights(tmp_path, TENSORS, max_shard_bytes=30)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 24 + 8 + 4}
    assert index["weight_map"] == {"a": names[0], "b": names[1], "c": names[1]}
    assert all(torch.equal(open_weights(tmp_path).read(name), tensor) for name, tensor in TENSORS.items())
    write_weights(tmp_path, {"new": torch.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    write_weights(tmp_path, TENSORS)
    write_json(tmp_path / "x.json", {})
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "x.json").stat().st_mode


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-3],
        lambda data: data + b"extra",
        lambda data: (2**60).to_bytes(8, "little") + data[8:],
        lambda data: b"",
        lambda data: data[:9] + b"!" + data[10:],
    ],
    ids=["truncated", "trailing", "huge-header", "empty", "bad-header"],
)
def test_damaged_safetensors_are_corrupt(tmp_path: Path, damage: object) -> None:
    write_weights(tmp_path, TENSORS)
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert str(path) in refused(CheckpointReason.CORRUPT, tmp_path)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "..", "a\\b.safetensors"]
)
def test_index_may_not_point_outside(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "folder"
    inside.mkdir()
    save_file(TENSORS, tmp_path / "model.safetensors")
    write_json(inside / "model.safetensors.index.json", {"weight_map": {"a": name}})
    assert repr(name) in refused(CheckpointReason.PATH_TRAVERSAL, inside)


def test_index_may_not_name_pickles(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"")
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"a": "x.bin"}})
    refused(CheckpointReason.UNSAFE_FORMAT, tmp_path)


def test_index_without_map_or_with_missing_or_repeating_shards(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    write_json(index, {"weight_map": {}})
    refused(CheckpointReason.CORRUPT, tmp_path)
    write_json(index, {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    assert "one.safetensors" in refused(CheckpointReason.NOT_FOUND, tmp_path)
    save_file(TENSORS, tmp_path / "one.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "two.safetensors")
    assert "repeats tensor a" in refused(CheckpointReason.CORRUPT, tmp_path)


def test_folder_without_weights(tmp_path: Path) -> None:
    refused(CheckpointReason.NOT_FOUND, tmp_path)


def test_bin_is_read_only_where_asked_for(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    said = refused(CheckpointReason.UNSAFE_FORMAT, tmp_path)
    assert "once, by `export_checkpoint` with allow_bin=True (jobs/export_checkpoint.py --allow-bin)" in said
    weights = open_weights(tmp_path, allow_bin=True)
    assert weights.specs()["a"].shape == (2, 3)
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in TENSORS.items())


def test_bin_shards(tmp_path: Path) -> None:
    torch.save({"a": TENSORS["a"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": TENSORS["b"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": shards})
    assert open_weights(tmp_path, allow_bin=True).specs().keys() == {"a", "b"}


def test_pickled_code_does_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    torch.save({"a": Canary(canary)}, tmp_path / "pytorch_model.bin")
    refused(CheckpointReason.UNSAFE_FORMAT, tmp_path)
    assert "nothing of it was run" in refused(CheckpointReason.UNSAFE_FORMAT, tmp_path, allow_bin=True)
    assert not canary.exists()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(CheckpointRefused) as caught:
        open_weights(tmp_path, allow_bin=True)
    assert caught.value.reason in (CheckpointReason.UNSAFE_FORMAT, CheckpointReason.CORRUPT)
    assert not canary.exists()
    os.close(pickle.loads(pickle.dumps(Canary(canary))))
    assert canary.exists(), "the canary itself does not work"


def test_bin_that_is_no_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "pytorch_model.bin")
    refused(CheckpointReason.UNSAFE_FORMAT, tmp_path, allow_bin=True)
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    refused(CheckpointReason.CORRUPT, tmp_path, allow_bin=True)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '{"a": "\udcff"}'])
def test_json_that_is_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CheckpointRefused) as caught:
        read_json(tmp_path / "config.json")
    assert caught.value.reason is CheckpointReason.CORRUPT


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_remote_code_is_refused_at_any_depth(tmp_path: Path, file: str) -> None:
    write_json(tmp_path / "config.json", {"model_type": "llava"})
    refuse_remote_code(tmp_path)
    write_json(tmp_path / file, {"text_config": [{"auto_map": {"AutoModel": "evil.Model"}}]})
    with pytest.raises(CheckpointRefused) as caught:
        refuse_remote_code(tmp_path)
    assert caught.value.reason is CheckpointReason.REMOTE_CODE
    assert "evil.Model" in caught.value.detail


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_value_in_many_that_is_not_finite(value: float, dtype: torch.dtype) -> None:
    tensor = torch.zeros(5, 7, dtype=dtype)
    assert is_finite(tensor)
    tensor[3, 2] = value
    assert not is_finite(tensor)
