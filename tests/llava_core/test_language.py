"""How long a prompt and its answer may be together, by the language model's config."""

from typing import Any

import pytest
from transformers import BloomConfig, GPT2Config, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config

from llava_core.language import context_tokens


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"max_position_embeddings": 4000, "rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **more}}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 500}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(max_position_embeddings=4096), 4096),
        # how far back a token sees is no bound
        (MistralConfig(max_position_embeddings=32768, sliding_window=4096), 32768),
        (Qwen2Config(max_position_embeddings=9000, use_sliding_window=True, sliding_window=700), 9000),
        # stretched by a factor that the length does not have in it yet
        (LlamaConfig(**rope("linear", factor=2.5)), 10000),
        (LlamaConfig(**rope("dynamic", factor=2.0)), 8000),
        (Qwen2Config(**rope("yarn", factor=4.0)), 16000),
        (Qwen2Config(**rope("yarn", factor=3.0, original_max_position_embeddings=1500)), 4500),
        # stretched already
        (Qwen2Config(**rope("yarn", factor=4.0, original_max_position_embeddings=1000)), 4000),
        (LlamaConfig(**rope("llama3", **LLAMA3)), 4000),
        (GPT2Config(n_positions=1024), 1024),
        # bounded nowhere
        (BloomConfig(), None),
        (PreTrainedConfig(max_position_embeddings=-1), None),
    ],
)
def test_context(config: PreTrainedConfig, expected: int | None) -> None:
    assert context_tokens(config) == expected
