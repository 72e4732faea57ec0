"""Shared by the checkpoint tests: small models of ours in folders, and files changed by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from llava_core.checkpoints import load_model
from llava_core.model import LLaVANeXT

WEIGHTS = "model.safetensors"


def edit_config(folder: Path, **changes: Any) -> None:
    """Change entries of a folder's config.json; None removes one."""
    path = folder / "config.json"
    raw = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Rewrite a folder's weights."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(edit(tensors), folder / WEIGHTS)


def rename(folder: Path, names: Callable[[str], str]) -> None:
    """Rename a folder's tensors."""
    edit_tensors(folder, lambda tensors: {names(name): tensor for name, tensor in tensors.items()})


def saved(model: Any, folder: Path) -> Path:
    """Save a transformers model and return its folder."""
    model.save_pretrained(folder)
    return folder


def ours(model: Any, folder: Path) -> LLaVANeXT:
    """A transformers model as ours, through a folder that transformers wrote."""
    return load_model(saved(model, folder))


def assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """Same tensors, bit for bit, under the same names."""
    left, right = first.state_dict(), second.state_dict()
    assert left.keys() == right.keys()
    different = [
        name for name in left if left[name].dtype != right[name].dtype or not torch.equal(left[name], right[name])
    ]
    assert not different
