"""A small random model whose answers differ, and requests of every kind to an engine around it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from llava_core.checkpoints import load_model
from llava_core.engine import Request, Result, SamplingConfig
from llava_core.processor import LLaVAProcessor
from tests.tiny_models import untrained_folder

FLOATS = ("mean_logprob", "min_logprob", "yes_no_margin")
QUESTIONS = (
    "What is in this picture?",
    "What is in this picture, and where?",
    "How many?",
    "Describe it in detail, please, from left to right.",
)


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def load() -> tuple[Any, LLaVAProcessor]:
    path = untrained_folder()
    model = load_model(path)
    # Untrained weights are small, and so are their differences: at larger ones rows end in different tokens.
    torch.manual_seed(0)
    for parameter in model.language_model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    return model, LLaVAProcessor.from_pretrained(path)


MODEL, PROCESSOR = load()


def requests_of_every_kind() -> list[Request]:
    """Mixed sizes, text alone, several images, shared images, bad ones, one to twenty-three new tokens."""
    made = []
    sizes = [(40, 130), (131, 44), (56, 56), (300, 200), (17, 90), (112, 113)]
    for index, (height, width) in enumerate(sizes):
        for number, question in enumerate(QUESTIONS[: 1 + index % 4]):
            images: tuple[NDArray[np.uint8], ...] = (photo(height, width, index),)
            if index == 4:
                images = (*images, photo(60, 61, 99))
            sampling = SamplingConfig(max_new_tokens=1 + (7 * index + 5 * number) % 23)
            made.append(Request(request_id=f"{index}.{number}", prompt=question, images=images, sampling=sampling))
        made.append(
            Request(request_id=f"{index}.text", prompt=f"Say {index}.", sampling=SamplingConfig(max_new_tokens=5))
        )
    made.insert(3, Request(request_id="bad", prompt="?", images=(b"\xff\xd8\xff\xe0 no more",)))
    made.insert(9, Request(request_id="empty", prompt="  ", images=(photo(40, 130, 0),)))
    return made


def assert_same(results: list[Result], expected: list[Result]) -> None:
    assert [result.request_id for result in results] == [result.request_id for result in expected]
    for result, wanted in zip(results, expected, strict=True):
        assert result.token_ids == wanted.token_ids, result.request_id
        for name in FLOATS:
            measured, exact = getattr(result, name), getattr(wanted, name)
            assert measured == (exact if exact is None else pytest.approx(exact, abs=2e-5))  # measured 2e-6
        without = dict.fromkeys(FLOATS)
        assert replace(result, **without) == replace(wanted, **without)
