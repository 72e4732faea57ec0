"""The language model in 4 or 8 bits, quantised by transformers and bitsandbytes (the `[quantize]` extra)."""

import importlib
from typing import TYPE_CHECKING, Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from llava_core.errors import ConfigError

if TYPE_CHECKING:
    from llava_core.model import LLaVANeXT

PREFIX = "language_model."


def require_bitsandbytes() -> None:
    """Raise `ConfigError` unless the packages that quantise are installed."""
    try:
        for name in ("bitsandbytes", "accelerate"):
            importlib.import_module(name)
    except ImportError as error:
        detail = f"quantization_config needs bitsandbytes and accelerate ({error}); install 'tessera[quantize]'"
        raise ConfigError(detail) from error


def quantise_language_model(
    model: "LLaVANeXT", tensors: dict[str, torch.Tensor], quantization_config: Any, device: torch.device
) -> None:
    """Load the language model's tensors through transformers, which quantises them.

    Args:
        model: its `language_model` is replaced.
        tensors: of the whole model, under our names; those of the language model are taken out.
        quantization_config: transformers' `BitsAndBytesConfig`.
        device: where the language model goes.

    Raises:
        ConfigError: there is no language model.
    """
    if model.config.text is None:
        raise ConfigError("quantization_config is for a language model, which this checkpoint does not have")
    state = {name.removeprefix(PREFIX): tensors.pop(name) for name in list(tensors) if name.startswith(PREFIX)}
    values = {key: value for key, value in model.config.text.items() if key != "model_type"}
    text_config = CONFIG_MAPPING[model.config.text["model_type"]](**values)
    language_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(text_config)]
    model.language_model = language_class.from_pretrained(
        None,
        config=text_config,
        state_dict=state,
        quantization_config=quantization_config,
        device_map={"": device},
        dtype=state["model.embed_tokens.weight"].dtype,
    )
