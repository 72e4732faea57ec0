"""Write a model as a checkpoint folder: "own", "hf" (the hub's layout, every transformers since 4.40) or "original".

Everything that could make the folder mean another model is checked before the first byte is written: settings are
translated and read back (`standard`), tensors without a name there are refused. config.json comes last, so that an
interrupted folder is no checkpoint.

Where `<image>` lies beyond the embedding table, as in the original layout, transformers could not look it up: the "hf"
folder then has padding rows (the mean row, a multiple of 64 in all, as the published conversions have sampled ones),
and says how many are real, so that reading it here gives the table back.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from llava_core.checkpoints import hf, original, own
from llava_core.checkpoints.files import CONFIG, write_json
from llava_core.checkpoints.layouts import EMBED_WEIGHT, HEAD_WEIGHT, Layout, name_written
from llava_core.checkpoints.load import GENERATION, shared_names
from llava_core.checkpoints.standard import CARRIED_KEY, canonical, carried_fields
from llava_core.checkpoints.weights import MAX_SHARD_BYTES, write_weights
from llava_core.config import ModelConfig
from llava_core.errors import CheckpointReason, CheckpointRefused, ConfigError

if TYPE_CHECKING:
    from llava_core.model import LLaVANeXT

ROW_MULTIPLE = 64
PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def save_model(
    model: "LLaVANeXT",
    path: str | Path,
    layout: Layout = "own",
    *,
    tokenizer: Any = None,
    processor: Any = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model, and its tokenizer where one is given.

    Args:
        model: any device and dtype; tensors are stored as they are.
        path: the folder; made if absent, weights and settings in it replaced.
        layout: "own" keeps everything; "hf" and "original" only what other readers would understand.
        tokenizer: a transformers tokenizer, saved beside the weights.
        processor: anything with a `tokenizer`, which is used where `tokenizer` is None.
        max_shard_bytes: most bytes in one weights file.

    Raises:
        CheckpointRefused: NOT_EXPRESSIBLE where the layout cannot say what the model is; WRONG_SHAPE where the
            embedding table has another number of rows than the config.
        ConfigError: an unknown layout, or a quantised model, whose weights are gone.
    """
    if layout not in get_args(Layout):
        raise ConfigError(f"layout is {layout!r}; expected one of {', '.join(map(repr, get_args(Layout)))}")
    if getattr(model.language_model, "is_quantized", False):
        raise ConfigError("a model in 4 or 8 bits cannot be written: load it without quantization_config")
    config = model.config
    tensors = _stored_tensors(model, config)
    dtype = _main_dtype(tensors)
    if layout == "hf":
        config, tensors, carried = _pad_rows(config, tensors)
        raw = _translated(config, dtype, layout, carried)
        extra = hf.write_preprocessors(canonical(config))
    else:
        raw, extra = _translated(config, dtype, layout, {}), {}
    names = name_written(tensors, layout, linear=config.connector.num_layers == 1)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (CONFIG, *PREPROCESSOR_FILES):
        (folder / stale).unlink(missing_ok=True)
    write_weights(folder, {names[ours]: tensor for ours, tensor in tensors.items()}, max_shard_bytes=max_shard_bytes)
    _save_tokenizer(folder, tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None))
    for name, content in extra.items():
        write_json(folder / name, content)
    if model.language_model is not None:
        write_json(folder / GENERATION, model.language_model.generation_config.to_diff_dict())
    write_json(folder / CONFIG, raw)


def check_layout(config: ModelConfig, layout: Layout) -> None:
    """Find out whether a layout can say a model, before there are weights to write.

    Args:
        config: the model's.
        layout: "hf", "original" or "own".

    Raises:
        CheckpointRefused: NOT_EXPRESSIBLE, as `save_model` would.
    """
    _translated(config, "float32", layout, {})


def _save_tokenizer(folder: Path, tokenizer: Any) -> None:
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def _stored_tensors(model: "LLaVANeXT", config: ModelConfig) -> dict[str, torch.Tensor]:
    """The model's tensors under our names; a tied head is not stored twice."""
    tensors = dict(model.state_dict())
    if config.text is None:
        return tensors
    head, embedding = tensors.get(HEAD_WEIGHT), tensors.get(EMBED_WEIGHT)
    if embedding is not None and embedding.shape[0] != config.text.get("vocab_size"):
        raise CheckpointRefused(
            CheckpointReason.WRONG_SHAPE,
            f"the embedding has {embedding.shape[0]} rows, but model.config.text says {config.text.get('vocab_size')}; "
            "change both together",
        )
    shared = shared_names(model)
    if not config.text.get("tie_word_embeddings"):
        return tensors | {name: tensors[name].clone() for name in shared}
    if head is not None and embedding is not None and HEAD_WEIGHT not in shared:
        detail = "model.config.text ties the embeddings, but the model's are two; set tie_word_embeddings to false"
        raise CheckpointRefused(CheckpointReason.WRONG_SHAPE, detail)
    return {name: tensor for name, tensor in tensors.items() if name not in shared}


def _main_dtype(tensors: Mapping[str, torch.Tensor]) -> str:
    """The dtype that most values have, as config files spell it."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            counts[tensor.dtype] += tensor.numel()
    return str(counts.most_common(1)[0][0]).removeprefix("torch.") if counts else "float32"


def _translated(config: ModelConfig, dtype: str, layout: Layout, carried: Mapping[str, Any]) -> dict[str, Any]:
    """The layout's config.json, with what it cannot say under `CARRIED_KEY`."""
    if layout == "own":
        return own.write(config, dtype)
    whole = canonical(config)
    raw = hf.write(whole, dtype) if layout == "hf" else original.write(whole, dtype)
    try:
        if layout == "hf":
            read_back = hf.read(raw, hf.write_preprocessors(whole)["preprocessor_config.json"])
        else:
            read_back = original.read(raw)
    except (CheckpointRefused, ConfigError) as error:
        detail = f'layout "{layout}" cannot say this model (tiles.policy {whole.tiles.policy!r}: {error}); write "own"'
        raise CheckpointRefused(CheckpointReason.NOT_EXPRESSIBLE, detail) from error
    fields = {**carried_fields(whole, read_back, layout), **carried}
    return {**raw, CARRIED_KEY: fields} if fields else raw


def _pad_rows(
    config: ModelConfig, tensors: dict[str, torch.Tensor]
) -> tuple[ModelConfig, dict[str, torch.Tensor], dict[str, Any]]:
    """Give the hf layout rows for placeholder ids beyond the embedding table."""
    if config.text is None:
        return config, tensors, {}
    rows = int(config.text["vocab_size"])
    needed = max(config.image_token_id, config.video_token_id or 0) + 1
    if needed <= rows:
        return config, tensors, {}
    padded = -(-needed // ROW_MULTIPLE) * ROW_MULTIPLE
    wider = dict(tensors)
    for name in (EMBED_WEIGHT, HEAD_WEIGHT):
        if name in wider:
            table = wider[name]
            mean = table.float().mean(dim=0, keepdim=True).to(table.dtype)
            wider[name] = torch.cat([table, mean.expand(padded - rows, -1)])
    wide_config = dataclasses.replace(config, text={**config.text, "vocab_size": padded})
    return wide_config, wider, {"text.vocab_size": rows}
