"""The reference engine against the model's own forward pass, row by row, on the embedded checkpoint."""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage

from llava_core.checkpoints import load_model
from llava_core.engine import ReferenceEngine, Request, SamplingConfig
from llava_core.errors import ImageReason, PromptReason
from llava_core.processor import LLaVAProcessor
from llava_core.prompts import ask
from tests.tiny_models import untrained_folder


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    data = BytesIO()
    PILImage.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def engine() -> Iterator[ReferenceEngine]:
    path = untrained_folder()
    yield ReferenceEngine(load_model(path), LLaVAProcessor.from_pretrained(path), batch_size=2)


def test_answers_come_in_order_with_bad_requests_among_them(engine: ReferenceEngine) -> None:
    short, long = SamplingConfig(max_new_tokens=3), SamplingConfig(max_new_tokens=9)
    requests = [
        Request(request_id="wide", prompt="What is it?", images=(png(photo(40, 130)),), sampling=long),
        Request(request_id="broken", prompt="What?", images=(png(photo(40, 130))[:200],), sampling=short),
        Request(request_id="text", prompt="No image here.", sampling=short),
        Request(request_id="empty", prompt=" ", images=(photo(9, 9),), sampling=short),
        Request(request_id="tall", prompt="?", images=(photo(150, 30, 1),), sampling=short),
    ]
    results = engine.generate(requests)
    assert [result.request_id for result in results] == ["wide", "broken", "text", "empty", "tall"]
    assert [result.error for result in results] == [None, ImageReason.TRUNCATED, None, PromptReason.EMPTY_TEXT, None]
    assert [len(result.token_ids) for result in results if result.finish_reason == "length"] == [9, 3, 3]
    assert results[0].image_sizes == ((40, 130),) and results[4].grids[0].height > results[4].grids[0].width
    assert results[2].num_image_tokens == 0 and results[2].num_prompt_tokens > 0
    assert results[1].text is None and results[1].error_detail


def test_tokens_and_logprobs_equal_the_models_own_in_a_padded_batch(engine: ReferenceEngine) -> None:
    sampling = SamplingConfig(max_new_tokens=6)
    images = [photo(40, 130, 2), photo(101, 57, 3)]
    prompts = ["Describe the picture in detail, please.", "What?"]
    requests = [
        Request(request_id=str(i), prompt=prompt, images=(image,), sampling=sampling)
        for i, (prompt, image) in enumerate(zip(prompts, images, strict=True))
    ]
    for result, prompt, image in zip(engine.generate(requests), prompts, images, strict=True):
        encoded = engine.processor.encode(ask(prompt), (image,))
        inputs = engine.processor.collate([encoded])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([result.token_ids])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            logits = engine.model(**inputs).logits[0, len(encoded.input_ids) - 1 : -1]
        assert tuple(logits.argmax(-1).tolist()) == result.token_ids
        chosen = torch.log_softmax(logits, -1).max(-1).values
        assert result.mean_logprob == pytest.approx(chosen.mean().item(), abs=1e-5)  # measured 2e-7
        assert result.min_logprob == pytest.approx(chosen.min().item(), abs=1e-5)


def test_seeds_decide_what_is_drawn(engine: ReferenceEngine) -> None:
    def drawn(seed: int) -> tuple[int, ...]:
        sampling = SamplingConfig(max_new_tokens=12, temperature=1.5, seed=seed)
        return engine.generate([Request(request_id="a", prompt="Say something.", sampling=sampling)])[0].token_ids

    before = torch.random.get_rng_state()
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_refuses_a_model_without_a_language_model(engine: ReferenceEngine) -> None:
    from llava_core import LLaVANeXT

    bare = LLaVANeXT(visual_encoder_dim=64, language_model_dim=32, num_visual_tokens=16, visual_encoder_layers=1)
    with pytest.raises(ValueError, match="language model"):
        ReferenceEngine(bare, engine.processor)
