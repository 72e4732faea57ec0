"""The packed engine against the reference engine, token by token, over every family and kind of request.

Fp32 on a CPU, random weights large enough that rows end in different tokens; limits so small that requests wait for
room, prompts take several passes, and requests that wait come in as others end.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from llava_core.checkpoints.untrained import byte_tokenizer, fill
from llava_core.config import ModelConfig
from llava_core.engine import PackedEngine, ReferenceEngine, Request, SamplingConfig
from llava_core.model import model_class
from llava_core.processor import LLaVAProcessor
from tests.tiny_models import config_for, hf_llava, hf_next, hf_onevision, text_config

IMAGE_TOKEN = byte_tokenizer().convert_tokens_to_ids("<image>")
NUM_REQUESTS = 40
QUESTIONS = ("What is in this picture?", "What is in this picture, and where?", "How many?", "Read the sign.")


FAMILIES: dict[str, tuple[Callable[[], Any], Any]] = {
    "llava_1_5": (hf_llava, text_config(vocab_size=320)),
    "next_llama_mha": (hf_next, text_config(vocab_size=320, num_key_value_heads=4)),
    "next_llama_gqa": (hf_next, text_config(vocab_size=320)),
    "next_mistral_window": (hf_next, text_config("mistral", vocab_size=320, sliding_window=37)),
    "onevision_qwen2": (hf_onevision, text_config("qwen2", vocab_size=320)),
}


def config_of(family: str) -> ModelConfig:
    """Of a small model whose vocabulary is bytes."""
    make, text = FAMILIES[family]
    changes = {"text": text.to_dict(), "image_token_id": IMAGE_TOKEN, "video_token_id": None}
    return config_for(make(), template="vicuna_v1", **changes)


def photo(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def requests() -> list[Request]:
    """Text alone, one image, the same image under several questions, several images; sizes and lengths all mixed."""
    rng = np.random.default_rng(7)
    made: list[Request] = []
    while len(made) < NUM_REQUESTS:
        number = len(made)
        height, width = (int(side) for side in rng.integers(9, 200, 2))
        images: tuple[NDArray[np.uint8], ...] = (photo(height, width, number),)
        kind = number % 6
        if kind == 0:
            images = ()
        elif kind == 5:
            images = (*images, photo(width, height, number + 1000))
        for question in QUESTIONS[: 1 + number % 4 if images else 1]:
            sampling = SamplingConfig(max_new_tokens=int(rng.integers(1, 14)))
            made.append(
                Request(request_id=str(len(made)), prompt=f"{question} {number}", images=images, sampling=sampling)
            )
    return made[:NUM_REQUESTS]


@contextmanager
def two_threads() -> Iterator[None]:
    """Passes run side by side, however many threads the other tests have."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_equal_the_reference_one_by_one(family: str) -> None:
    config = config_of(family)
    model = model_class(config)(config).eval()
    fill(model, seed=3)
    for parameter in model.language_model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 1.6
    processor = LLaVAProcessor(byte_tokenizer(), config)
    asked = requests()
    expected = ReferenceEngine(model, processor, batch_size=1).generate(asked)
    assert [result.error for result in expected] == [None] * len(asked)
    assert len({result.token_ids for result in expected}) > NUM_REQUESTS * 3 // 4
    longest = max(result.num_prompt_tokens for result in expected) + 13
    with two_threads():
        probe = PackedEngine(model, processor)
        # room for the longest request and about two more
        room = 2 * longest * probe.budget.shape.bytes_per_token
        engine = PackedEngine(model, processor, batch_size=5, tile_budget=2, prefill_tokens=64, kv_bytes=room)
        replies = {"roomy": probe.generate(asked), "tight": engine.generate(asked)}
    for limits, results in replies.items():
        for result, wanted in zip(results, expected, strict=True):
            assert result.token_ids == wanted.token_ids, (limits, result.request_id)
            assert result.mean_logprob == pytest.approx(wanted.mean_logprob, abs=2e-5)  # measured 2.1e-6
            assert (result.num_prompt_tokens, result.grids) == (wanted.num_prompt_tokens, wanted.grids)
    assert engine.budget.used_bytes == 0
