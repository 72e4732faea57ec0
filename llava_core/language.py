"""The language model: any of transformers' causal ones, what a forward pass returns, and the check on placeholders.

Legend: B samples, T tokens, D text width, V vocabulary.

What this does *not* do: run it (`model`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

from llava_core.errors import ConfigError


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
