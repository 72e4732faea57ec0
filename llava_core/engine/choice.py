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
            for.
    """
    check_choice("engine", "name", name, get_args(EngineName))
    if config.text is None:
        raise ConfigError("the model has no language model; expected one that can answer a prompt")
    if name == "packed":
        check_proven(str(config.text.get("model_type")))


def check_proven(model_type: str) -> None:
    """Raise `ConfigError` for a language model that packed attention has not been proven for."""
    if model_type not in PROVEN:
        raise ConfigError(
            f"the packed engine is proven for {', '.join(PROVEN)}, not for {model_type}; use the reference engine"
        )
