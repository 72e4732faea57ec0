"""The settings of a checkpoint folder: which layout it has, and the `ModelConfig` that its files describe.

Only JSON and the tokenizer's vocabulary are read; no weights. What this does *not* do: translate (`own`, `hf`,
`original`).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from llava_core.checkpoints import own
from llava_core.checkpoints.files import (
    CONFIG,
    HASHED_SUFFIXES,
    hash_files,
    read_json,
    read_optional_json,
    refuse_remote_code,
)
from llava_core.checkpoints.hub import resolve_model
from llava_core.checkpoints.layouts import Layout
from llava_core.checkpoints.vocabulary import next_token_id, read_vocabulary
from llava_core.config import Family, ModelConfig
from llava_core.errors import CheckpointReason, CheckpointRefused
from llava_core.geometry import AxisOrder


def detect_layout(path: str | Path) -> Layout:
    """Tell which layout a checkpoint folder has, from its config.json.

    Args:
        path: the folder, or what `resolve_model` finds one by.

    Returns:
        "own", "hf" or "original".

    Raises:
        CheckpointRefused: NOT_FOUND, CORRUPT, or UNKNOWN_LAYOUT for anything that is no LLaVA.
    """
    folder = resolve_model(path)
    return layout_of(read_json(folder / CONFIG), folder)


def layout_of(raw: Mapping[str, Any], folder: Path) -> Layout:
    """The layout that a config.json describes; see `detect_layout`."""
    kind = raw.get("model_type")
    if kind == own.MODEL_TYPE:
        return "own"
    if kind in get_args(Family) and ("text_config" in raw or "vision_config" in raw):
        return "hf"
    if isinstance(kind, str) and kind.startswith("llava") and any(key.startswith("mm_") for key in raw):
        return "original"
    raise CheckpointRefused(
        CheckpointReason.UNKNOWN_LAYOUT,
        f"{folder / CONFIG} has model_type {kind!r}; expected {own.MODEL_TYPE!r}, one of {sorted(get_args(Family))} "
        "with text_config and vision_config, or an original LLaVA with mm_* settings",
    )


def read_config(
    path: str | Path,
    *,
    vision_tower: str | Path | None = None,
    axis_order: AxisOrder | None = None,
    template: str | None = None,
) -> ModelConfig:
    """Read the settings of a checkpoint folder in any layout.

    Args:
        path: the folder, or what `resolve_model` finds one by.
        vision_tower: folder or hub name of the tower, for originals that name one this project does not know.
        axis_order: how pinpoints are read; by default "original" in the original layout and "hf" in transformers'.
            Published `llava-hf` conversions were *trained* with "original".
        template: name of the prompt template; by default chosen from the language model (`standard.template_for`).

    Returns:
        The config.

    Raises:
        CheckpointRefused: REMOTE_CODE, or whatever makes the settings unusable.
    """
    folder = resolve_model(path)
    raw = read_json(folder / CONFIG)
    layout = layout_of(raw, folder)
    refuse_remote_code(folder)
    own_layout = layout == "own"
    config = own.read(raw) if own_layout else _translate(folder, raw, layout, vision_tower, axis_order, template)
    if axis_order is not None and config.tiles.axis_order != axis_order:
        config = dataclasses.replace(config, tiles=dataclasses.replace(config.tiles, axis_order=axis_order))
    return config if template is None else dataclasses.replace(config, template=template)


def _translate(
    folder: Path,
    raw: Mapping[str, Any],
    layout: Layout,
    vision_tower: str | Path | None,
    axis_order: AxisOrder | None,
    template: str | None,
) -> ModelConfig:
    """Read a layout of others', whose defaults transformers knows; with it comes torch, which our own never needs."""
    from llava_core.checkpoints import hf, original
    from llava_core.checkpoints.standard import apply_carried
    from llava_core.checkpoints.towers import supplied_config

    if layout == "hf":
        preprocessor = read_optional_json(folder / "preprocessor_config.json")
        nested = read_optional_json(folder / "processor_config.json").get("image_processor")
        preprocessor = preprocessor or (nested if isinstance(nested, dict) else {})
        return apply_carried(hf.read(raw, preprocessor, axis_order=axis_order, template=template), raw)
    vocabulary = read_vocabulary(folder)
    config = original.read(
        raw,
        tower=supplied_config(resolve_model(vision_tower)) if vision_tower is not None else None,
        next_token_id=next_token_id(vocabulary) if vocabulary else None,
        axis_order=axis_order,
        template=template,
    )
    return apply_carried(config, raw)


def revision(path: str | Path) -> str:
    """Hash the contents of a checkpoint: settings, weights and tokenizer.

    Args:
        path: the folder, or what `resolve_model` finds one by.

    Returns:
        16 hexadecimal digits; equal for equal files, wherever they lie and whenever they were written.

    Raises:
        CheckpointRefused: NOT_FOUND where there is no config.json.
    """
    folder = resolve_model(path)
    read_json(folder / CONFIG)
    return hash_files(f for f in folder.iterdir() if f.suffix in HASHED_SUFFIXES and not f.name.startswith("."))
