"""The engine: many requests, one device. `Engine` packs and shares; the reference is the oracle that it is held to."""

from typing import Literal

from llava_core.config import ModelConfig
from llava_core.engine.packed import PackedEngine, check_proven
from llava_core.engine.reference import ReferenceEngine
from llava_core.engine.types import FinishReason, Request, Result, SamplingConfig
from llava_core.errors import ConfigError

Engine = PackedEngine
EngineName = Literal["packed", "reference"]
ENGINES: dict[EngineName, type[PackedEngine | ReferenceEngine]] = {
    "packed": PackedEngine,
    "reference": ReferenceEngine,
}

__all__ = [
    "ENGINES",
    "Engine",
    "EngineName",
    "FinishReason",
    "PackedEngine",
    "ReferenceEngine",
    "Request",
    "Result",
    "SamplingConfig",
    "check_engine",
]


def check_engine(name: EngineName, config: ModelConfig) -> None:
    """See from its config alone whether an engine can run a model.

    Args:
        name: of the engine.
        config: the model's.

    Raises:
        ConfigError: no language model, or one whose attention the packed engine has not been proven for.
    """
    if config.text is None:
        raise ConfigError("the model has no language model; expected one that can answer a prompt")
    if name == "packed":
        check_proven(str(config.text.get("model_type")))
