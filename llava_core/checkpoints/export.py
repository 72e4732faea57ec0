"""From one layout to another: weights, settings and tokenizer."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llava_core.checkpoints.hub import resolve_model
from llava_core.checkpoints.layouts import Layout
from llava_core.checkpoints.load import load_model
from llava_core.checkpoints.save import save_model
from llava_core.checkpoints.vocabulary import load_tokenizer, read_vocabulary
from llava_core.conversations import IMAGE_PLACEHOLDER
from llava_core.errors import ConfigError
from llava_core.geometry import AxisOrder

if TYPE_CHECKING:
    from llava_core.model import LLaVANeXT

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def export_checkpoint(
    source: str | Path,
    target: str | Path,
    layout: Layout,
    *,
    dtype: str | None = None,
    vision_tower: str | Path | None = None,
    axis_order: AxisOrder | None = None,
    allow_bin: bool = False,
) -> "LLaVANeXT":
    """Write a checkpoint of any layout in the chosen one.

    Args:
        source: what `resolve_model` takes.
        target: the folder to write.
        layout: of the target.
        dtype: "float32", "float16" or "bfloat16"; None keeps tensors as stored.
        vision_tower: see `load_model`.
        axis_order: see `read_config`.
        allow_bin: see `load_model`.

    Returns:
        The model, as it was written.

    Raises:
        CheckpointRefused: the source cannot be trusted, or the layout cannot say what it is.
        ConfigError: source and target are the same folder.
    """
    folder = resolve_model(source, allow_bin=allow_bin)
    if Path(target).resolve() == folder.resolve():
        raise ConfigError(f"{target} is the checkpoint itself; give another folder to write to")
    model = load_model(
        folder,
        dtype=None if dtype is None else getattr(torch, dtype),
        vision_tower=vision_tower,
        axis_order=axis_order,
        allow_bin=allow_bin,
    )
    vocabulary = read_vocabulary(folder)
    save_model(model, target, layout)
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, Path(target) / name)
    if vocabulary is not None and layout != "original" and IMAGE_PLACEHOLDER not in vocabulary:
        load_tokenizer(folder, model.config).save_pretrained(str(target))
    return model
