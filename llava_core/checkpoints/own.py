"""Settings of this project's own layout: the `ModelConfig` as it is, under a model type and a format version.

It can say everything that a model can be, so every other layout's extras go here. Tensor names are the module's own.
"""

from collections.abc import Mapping
from typing import Any

from llava_core.config import ModelConfig
from llava_core.errors import CheckpointReason, CheckpointRefused, ConfigError

MODEL_TYPE = "tessera"
FORMAT_VERSION = 1


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Read our own config.json.

    Raises:
        CheckpointRefused: UNKNOWN_LAYOUT for a format version from the future, CORRUPT for wrong values.
    """
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        detail = f"format_version is {version!r}; this program reads {FORMAT_VERSION}. Use the program that wrote it"
        raise CheckpointRefused(CheckpointReason.UNKNOWN_LAYOUT, detail)
    fields = {key: value for key, value in raw.items() if key not in ("model_type", "format_version", "torch_dtype")}
    try:
        return ModelConfig.from_dict(fields)
    except (ConfigError, TypeError, AttributeError) as error:
        raise CheckpointRefused(CheckpointReason.CORRUPT, f"config.json: {error}") from error


def write(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Our own config.json.

    Args:
        config: of the model.
        dtype: of the tensors, for people; reading keeps whatever is stored.
    """
    return {"model_type": MODEL_TYPE, "format_version": FORMAT_VERSION, "torch_dtype": dtype, **config.to_dict()}
