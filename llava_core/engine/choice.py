"""Which engines there are, and whether one can run a model: by name and config alone, before anything is loaded.

What this does *not* do: load torch; a driver asks this long before any worker has an engine.
"""

from typing import Literal, get_args

from llava_core.config import ModelConfig, check_choice
from llava_core.errors import ConfigError

EngineName = Literal["packed", "reference", "vllm"]
PROVEN = ("llama", "mistral", "qwen2")
"""Language models whose attention is fully described by what `packed_attention` takes, and which tests compare."""


def check_engine(name: EngineName, config: ModelConfig) -> None:
    """See from its config alone whether an engine can run a model.

    Args:
        name: of the engine.
        config: the model's.

    Raises:
        ConfigError: no such engine, no language model, or one whose attention the packed engine has not been proven
            for; a model that puts image features elsewhere than in the place of image tokens.
    """
    check_choice("engine", "name", name, get_args(EngineName))
    if config.text is None:
        raise ConfigError("the model has no language model; expected one that can answer a prompt")
    if name == "packed":
        check_packable(config)


def check_packable(config: ModelConfig) -> None:
    """Raise `ConfigError` for a model whose language model, or image features' places, the packed engine lacks."""
    model_type = "no language model" if config.text is None else config.text.get("model_type")
    if model_type not in PROVEN:
        raise ConfigError(
            f"the packed engine is proven for {', '.join(PROVEN)}, not for {model_type}; use the reference engine"
        )
    if config.placement != "placeholder":
        raise ConfigError(
            "the packed engine puts image features in the place of image tokens; this model's placement is "
            f"{config.placement!r}; use the reference engine"
        )
