"""Configs of towers and language models in one spelling, and the differences that a foreign layout can only carry.

Foreign config files cannot say everything that a `ModelConfig` says. After translating a config out, it is translated
in again, and what comes back different is either

- harmless to other readers (`CARRIED`: the prompt template's name, a rounding rule, …): written under the key
  "tessera" of config.json, which they ignore and this project applies when it reads the folder; or
- something that would change the model's answers there: refused with NOT_EXPRESSIBLE.

So nothing is dropped, and no list of "supported" fields has to be kept in step with the translations.
What this does *not* do: know any layout (`hf`, `original`).
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

from llava_core.config import ConnectorConfig, ModelConfig, TileConfig, VideoConfig
from llava_core.errors import CheckpointReason, CheckpointRefused, ConfigError
from llava_core.geometry import Size

CARRIED_KEY = "tessera"
"""Key of config.json, in layouts that are not ours, under which carried fields lie."""
CARRIED = frozenset(
    {
        "template",
        "trained",
        "image_token_id",
        "video_token_id",
        "text.vocab_size",
        "tiles.rounding",
        "tiles.image_mean",
        "tiles.image_std",
        "video.max_frames",
    }
)
"""Fields that other readers of a layout do not need, or have from elsewhere (tokenizer, preprocessor's file)."""
VOLATILE = frozenset(
    {
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "_name_or_path",
        "auto_map",
        "_attn_implementation",
    }
)
"""What config files say about how they were made, and not about the model."""
TEXT_MODELS = ("llama", "mistral", "qwen2")
"""Language models that every layout can name."""
TOWERS = ("clip_vision_model", "siglip_vision_model")


def standard_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a config of a transformers model with its class's defaults, in today's spelling.

    Args:
        values: with "model_type"; old spellings (`rope_theta`, `torch_dtype`) are understood.

    Returns:
        The config without what says nothing about the model (versions, dtype).

    Raises:
        CheckpointRefused: UNKNOWN_LAYOUT for a model type that transformers does not have, CORRUPT for wrong values.

    Example:
        >>> standard_config({"model_type": "llama", "rope_theta": 5e5})["rope_parameters"]
        {'rope_theta': 500000.0, 'rope_type': 'default'}
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        detail = f"model_type {kind!r} is not one that transformers knows; remote code is never used"
        raise CheckpointRefused(CheckpointReason.UNKNOWN_LAYOUT, detail)
    known = {key: value for key, value in values.items() if key not in VOLATILE and key != "model_type"}
    try:
        full = CONFIG_MAPPING[kind](**known).to_diff_dict()
    except Exception as error:  # transformers validates with several unrelated types of error
        raise CheckpointRefused(CheckpointReason.CORRUPT, f"config of a {kind} is wrong: {error}") from error
    rope = full.get("rope_parameters")
    if isinstance(rope, dict) and "rope_type" in rope:
        rope.pop("type", None)
    kept: dict[str, Any] = json.loads(json.dumps({key: full[key] for key in full if key not in VOLATILE}))
    return kept


def legacy_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Spell a text config's rotary settings as readers before transformers 5 expect them; today's read them too.

    Example:
        >>> legacy_rope({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}})
        {'rope_theta': 10000.0, 'rope_scaling': {'rope_type': 'linear', 'factor': 2.0, 'type': 'linear'}}
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_type" not in rope:
        return dict(config)
    spelled = {key: value for key, value in config.items() if key != "rope_parameters"}
    if "rope_theta" in rope:
        spelled["rope_theta"] = rope["rope_theta"]
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    spelled["rope_scaling"] = None if rope["rope_type"] == "default" else {**scaling, "type": rope["rope_type"]}
    return spelled


def canonical(config: ModelConfig) -> ModelConfig:
    """The one config of all that mean the same model: unused settings at their defaults, pinpoints as (height, width).

    A list read in "original" order is the list of its transposed entries read in "hf" order: the same canvases, walked
    in the same order, so that ties fall alike.
    """
    tiles, connector = config.tiles, config.connector
    if tiles.policy != "pinpoints":
        tiles = dataclasses.replace(tiles, pinpoints=(), axis_order="hf")
    if tiles.policy != "grid":
        tiles = dataclasses.replace(tiles, max_tiles=TileConfig(policy="single").max_tiles)
    if tiles.policy == "single":
        tiles = dataclasses.replace(tiles, rounding="hf", multi_image="anyres", anyres_max=None)
    if tiles.axis_order == "original":
        turned = tuple(Size(second, first) for first, second in tiles.pinpoints)
        tiles = dataclasses.replace(tiles, pinpoints=turned, axis_order="hf")
    if not connector.position_embedding:
        connector = dataclasses.replace(connector, max_grid=ConnectorConfig().max_grid)
    vision = config.vision
    if vision.tower.get("model_type") in TOWERS:
        vision = dataclasses.replace(vision, tower=standard_config(vision.tower))
    if vision.tower.get("model_type") != "clip_vision_model":
        vision = dataclasses.replace(vision, select_feature="full")  # nothing could be left out
    text = None
    if config.text is not None:
        # Some classes know the width by another name only.
        text = {"hidden_size": config.text_dim, **standard_config(config.text)}
    video = config.video if config.video_token_id is not None or config.video.temporal_encoder else VideoConfig()
    return dataclasses.replace(config, tiles=tiles, connector=connector, vision=vision, text=text, video=video)


def carried_fields(config: ModelConfig, read_back: ModelConfig, layout: str) -> dict[str, Any]:
    """What a layout must carry under `CARRIED_KEY` so that nothing of a config is lost.

    Args:
        config: what is written, canonical.
        read_back: what the layout's own reader makes of the translated config.
        layout: for the message.

    Returns:
        Dotted field name → value; empty where the layout says everything.

    Raises:
        CheckpointRefused: NOT_EXPRESSIBLE, naming the fields that readers of the layout would get wrong.
    """
    ours, theirs = _flat(config), _flat(canonical(read_back))
    changed = {name: value for name, value in ours.items() if theirs.get(name) != value}
    lost = [f"{name} = {value!r}" for name, value in changed.items() if name not in CARRIED]
    if lost:
        raise CheckpointRefused(
            CheckpointReason.NOT_EXPRESSIBLE,
            f'layout "{layout}" cannot say {"; ".join(lost)[:500]}; write layout "own" to keep it',
        )
    return changed


def apply_carried(config: ModelConfig, raw: Mapping[str, Any]) -> ModelConfig:
    """Put carried fields of a config.json back into the config read from it.

    Raises:
        CheckpointRefused: CORRUPT for a field that may not be carried or a value out of its range.
    """
    carried = raw.get(CARRIED_KEY, {})
    if not isinstance(carried, dict) or not carried.keys() <= CARRIED:
        detail = f"{CARRIED_KEY} in config.json is {carried!r}; expected an object with keys among {sorted(CARRIED)}"
        raise CheckpointRefused(CheckpointReason.CORRUPT, detail)
    if not carried:
        return config
    values = config.to_dict()
    for name, value in carried.items():
        *path, last = name.split(".")
        target: Any = values
        for step in path:
            target = target[step]
        target[last] = value
    try:
        return ModelConfig.from_dict(values)
    except (ConfigError, TypeError) as error:
        raise CheckpointRefused(CheckpointReason.CORRUPT, f"{CARRIED_KEY} in config.json: {error}") from error


def _flat(config: ModelConfig) -> dict[str, Any]:
    """Dotted names of all fields; a tower or language model counts as one, but for the vocabulary's size."""
    values = json.loads(json.dumps(config.to_dict()))
    flat = {"vision.tower": values["vision"].pop("tower"), "text": values.pop("text")}
    if flat["text"] is not None:
        flat["text.vocab_size"] = flat["text"].pop("vocab_size", None)
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{part}": inner for part, inner in value.items()})
        else:
            flat[name] = value
    return flat


def template_for(text: Mapping[str, Any]) -> str:
    """Name the prompt template that a released language model was trained with.

    The text model decides, and for Llama the size of its vocabulary: 32,000 is Vicuna, 64,000 Yi (the 34B), 128,256
    Llama 3, each padded by a few rows at most.

    Raises:
        CheckpointRefused: NOT_EXPRESSIBLE for a text model without a rule; the caller can give `template`.

    Example:
        >>> template_for({"model_type": "llama", "vocab_size": 32064}), template_for({"model_type": "qwen2"})
        ('vicuna_v1', 'qwen_1_5')
        >>> template_for({"model_type": "llama", "vocab_size": 64064})
        'chatml_direct'
    """
    rows = int(text.get("vocab_size") or 0)
    match text.get("model_type"):
        case "qwen2":
            return "qwen_1_5"
        case "mistral":
            return "mistral_instruct"
        case "llama" if rows >= 128_000:
            return "llava_llama_3"
        case "llama" if 64_000 <= rows < 65_000:
            return "chatml_direct"
        case "llama":
            return "vicuna_v1"
        case other:
            raise CheckpointRefused(
                CheckpointReason.NOT_EXPRESSIBLE,
                f"no rule names the prompt template of a {other!r} language model; give template=",
            )
