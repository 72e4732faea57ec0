"""Vision towers that original checkpoints only name, and the reading of a tower supplied from elsewhere.

An original LLaVA config says `mm_vision_tower: openai/clip-vit-large-patch14-336` and nothing of its shape; LLaVA 1.5
does not even ship its weights, because the tower was frozen. SigLIP is used as LLaVA uses it: 26 of its 27 layers, no
pooling head, features from the last of them before the final norm.

Source: the towers' config files; `siglip_encoder.py` of LLaVA-VL/LLaVA-NeXT@df17966.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_core.checkpoints.files import CONFIG, read_json, refuse_remote_code
from llava_core.checkpoints.layouts import ENCODER, is_derived
from llava_core.checkpoints.standard import standard_config
from llava_core.checkpoints.weights import Weights, open_weights
from llava_core.errors import CheckpointReason, CheckpointRefused

_CLIP_LARGE = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
KNOWN_TOWERS: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14": {**_CLIP_LARGE, "image_size": 224},
    "openai/clip-vit-large-patch14-336": {**_CLIP_LARGE, "image_size": 336},
    "google/siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": False,
    },
}
"""Config of each tower that the released checkpoints name, as LLaVA uses it."""

_PARTS_LEFT_OUT = ("text_model.", "visual_projection.", "text_projection.", "logit_scale", "logit_bias", "head.")
HALF = (0.5, 0.5, 0.5)


def tower_by_name(name: str) -> dict[str, Any] | None:
    """A known tower's complete config by hub name or by a path that ends in its name; None for others.

    Example:
        >>> tower_by_name("/data/clip-vit-large-patch14-336")["image_size"]
        336
    """
    for known, config in KNOWN_TOWERS.items():
        if name.rstrip("/").rpartition("/")[2] == known.rpartition("/")[2]:
            return standard_config(config)
    return None


def name_of_tower(config: Mapping[str, Any]) -> str | None:
    """The hub name of the known tower with exactly this (standard) config; None for others."""
    return next((name for name, known in KNOWN_TOWERS.items() if standard_config(known) == config), None)


def supplied_config(folder: Path) -> dict[str, Any]:
    """The config of a tower in its own folder: CLIP or SigLIP, whole or vision part only, as LLaVA uses it.

    Raises:
        CheckpointRefused: UNKNOWN_LAYOUT where it is neither.
    """
    refuse_remote_code(folder)
    raw = read_json(folder / CONFIG)
    kind = raw.get("model_type")
    if kind in ("clip", "siglip"):
        raw = {**raw.get("vision_config", {}), "model_type": f"{kind}_vision_model"}
    elif kind not in ("clip_vision_model", "siglip_vision_model"):
        detail = f"{folder / CONFIG} has model_type {kind!r}; expected a CLIP or SigLIP vision tower"
        raise CheckpointRefused(CheckpointReason.UNKNOWN_LAYOUT, detail)
    config = standard_config(raw)
    if config["model_type"] == "siglip_vision_model":
        config |= {"num_hidden_layers": config["num_hidden_layers"] - 1, "vision_use_head": False}
    return config


def supplied_names(folder: Path, tower: Mapping[str, Any], *, allow_bin: bool) -> tuple[Weights, dict[str, str]]:
    """Open a supplied tower's weights and pick those that LLaVA uses.

    Left out are the text model, projections, the pooling head, and layers beyond `tower["num_hidden_layers"]`.

    Returns:
        The weights, and our names → names in them.
    """
    refuse_remote_code(folder)
    weights = open_weights(folder, allow_bin=allow_bin)
    named: dict[str, str] = {}
    for stored in weights.specs():
        name = stored.removeprefix("vision_model.")
        layer = name.removeprefix("encoder.layers.").partition(".")[0]
        beyond = layer.isdigit() and int(layer) >= int(tower["num_hidden_layers"])
        if not (beyond or is_derived(stored) or name.startswith(_PARTS_LEFT_OUT)):
            named[ENCODER + name] = stored
    return weights, named
