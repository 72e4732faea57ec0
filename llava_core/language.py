"""The language model: any of transformers' causal ones, its context, what it returns, and the check on placeholders.

Legend: B samples, T tokens, D text width, V vocabulary.

What this does *not* do: run it (`model`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

from llava_core.errors import ConfigError

_STRETCHED = ("linear", "dynamic", "yarn")
"""Rotary embeddings whose config says by which factor the context is longer than `max_position_embeddings`."""


@dataclass
class LLaVAOutput(ModelOutput):
    """What a forward pass returns; read by attribute or by key, as the document does."""

    loss: Tensor | None = None
    """float32[]: mean over labelled tokens."""
    logits: Tensor | None = None
    """float[B, T, V]."""
    past_key_values: Cache | None = None
    """The language model's cache, if asked for."""
    hidden_states: tuple[Tensor, ...] | None = None
    """The language model's, if asked for."""
    visual_features: Any = None
    """Packed features, a tuple of float[T_i, D] for each image and then each video; in the document's form
    float[B, T, D], shorter samples padded on the left with zeros."""
    multimodal_embeds: Tensor | None = None
    """float[B, T, D]: [START] visual [END] text; the document's form only."""
    attention_mask: Tensor | None = None
    """int[B, T], of `multimodal_embeds`."""


def build_language_model(text: dict[str, Any]) -> PreTrainedModel:
    """A causal language model with random weights, in torch's default dtype whatever the config names.

    Args:
        text: its transformers config as a dict, `model_type` among it.

    Returns:
        One of transformers' own classes; code from the hub is never run.

    Raises:
        ConfigError: a `model_type` that transformers does not have.
    """
    model_type = str(text.get("model_type"))
    settings = {name: value for name, value in text.items() if name not in ("model_type", "dtype", "torch_dtype")}
    try:
        config = AutoConfig.for_model(model_type, **settings)
    except ValueError as error:
        raise ConfigError(
            f"text.model_type is {model_type!r}; expected a causal language model that transformers has"
        ) from error
    model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, dtype=torch.get_default_dtype(), trust_remote_code=False
    )
    return model


def context_tokens(text: PreTrainedConfig) -> int | None:
    """Most tokens of a prompt and its answer together that a language model is made for.

    A sliding window does not count: it bounds how far back a token sees. Nor does what rotary embeddings could
    extrapolate to; but where they are stretched by a factor, as LLaVA's own training does to go beyond the context
    ("linear"), the config still has the length from before. Others ("llama3", "longrope") have the stretched one.

    Args:
        text: the language model's config.

    Returns:
        None for a model that bounds them nowhere.

    Example:
        >>> from transformers import LlamaConfig
        >>> linear = {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}
        >>> context_tokens(LlamaConfig(max_position_embeddings=4096, rope_parameters=linear))
        10240
    """
    length = getattr(text, "max_position_embeddings", None)
    if length is None or length < 1:  # -1 is XLNet's way to say that there is no bound
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") not in _STRETCHED:
        return int(length)
    from_before = rope.get("original_max_position_embeddings") or length
    return max(int(length), int(from_before * (rope.get("factor") or 1)))


def check_placeholders(name: str, mask: Tensor, count: int) -> None:
    """Refuse a prompt whose placeholders are not those of its features.

    Args:
        name: "image" or "video", for the message.
        mask: bool[B, T], true on placeholders.
        count: features there are.

    Raises:
        ValueError: the numbers differ; both are named. A compiled model asserts on the device instead.
    """
    if torch.compiler.is_compiling():
        torch._assert_async(mask.sum() == count, f"{name} placeholders and {count} {name} features do not match")
    elif (placeholders := int(mask.sum())) != count:
        raise ValueError(
            f"input_ids has {placeholders} {name} placeholders, but the {name}s give {count} features; "
            "was the prompt truncated, or expanded for other sizes?"
        )
