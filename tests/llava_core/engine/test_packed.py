"""The packed engine against the reference engine, one request at a time: tokens identical, whatever shares a step."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.generation import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llava_core.checkpoints import load_model
from llava_core.engine import PackedEngine, ReferenceEngine, Request, Result, SamplingConfig, check_engine
from llava_core.engine.samples import sample_seed
from llava_core.engine.sampling import YesNo, _warped, choose
from llava_core.errors import ConfigError, ImageReason, PromptReason
from llava_core.processor import LLaVAProcessor
from llava_core.prompts import ask
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


@pytest.fixture(scope="module")
def expected() -> list[Result]:
    return ReferenceEngine(MODEL, PROCESSOR, batch_size=1).generate(requests_of_every_kind())


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"share_prefixes": False},
        {"batch_size": 3, "prefill_tokens": 60, "tile_budget": 3},
        {"batch_size": 5, "kv_bytes": 640 * 512, "feature_cache_bytes": 0},
        {"batch_size": 1},
    ],
    ids=["all at once", "nothing shared", "small steps", "little room", "one by one"],
)
def test_equals_the_reference_one_by_one(limits: dict[str, Any], expected: list[Result]) -> None:
    engine = PackedEngine(MODEL, PROCESSOR, **limits)
    assert len({result.token_ids for result in expected if result.error is None}) > 12
    assert_same(engine.generate(requests_of_every_kind()), expected)
    assert engine.budget.used_bytes == 0


def test_equal_images_are_encoded_once_and_different_ones_never_share() -> None:
    engine = PackedEngine(MODEL, PROCESSOR)
    seen: list[int] = []
    hook = MODEL.image_processor.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    sampling = SamplingConfig(max_new_tokens=8)
    # Equal sizes, so that all five prompts have the very same token ids; only the pixels differ.
    images = [photo(50, 60, 1), photo(50, 60, 2), photo(50, 60, 1).copy()]
    requests = [
        Request(request_id=str(i), prompt="What?", images=(im,), sampling=sampling) for i, im in enumerate(images)
    ]
    first, second, third = engine.generate(requests)
    again = engine.generate(requests[1:2])[0]
    hook.remove()
    one_image = len(PROCESSOR.load_media((images[0],), (), None).tiles)
    assert sum(seen) == 2 * one_image
    assert first.token_ids == third.token_ids and first.token_ids != second.token_ids
    assert again.token_ids == second.token_ids


def test_a_request_that_never_fits_is_refused_and_its_neighbours_are_served() -> None:
    fits = Request(request_id="fits", prompt="Hm?", sampling=SamplingConfig(max_new_tokens=4))
    too_long = Request(request_id="long", prompt="Hm? " * 40, sampling=SamplingConfig(max_new_tokens=4))
    needed = len(PROCESSOR.encode(ask("Hm?", num_images=0)).input_ids) + 3
    # 2 layers' keys and values of 2 heads, 16 wide, in float32; room for one of the requests that fit, and a half.
    engine = PackedEngine(MODEL, PROCESSOR, kv_bytes=needed * 3 // 2 * 512)
    assert engine.budget.shape.bytes_per_token == 512
    results = engine.generate([fits, too_long, fits])
    assert [result.error for result in results] == [None, PromptReason.TOO_LONG, None]
    assert results[0].token_ids == results[2].token_ids
    assert engine.budget.used_bytes == 0


def test_stop_strings_end_the_text_before_them() -> None:
    engine = PackedEngine(MODEL, PROCESSOR)
    plain = Request(request_id="a", prompt="Go on.", sampling=SamplingConfig(max_new_tokens=20))
    whole = engine.generate([plain])[0]
    assert whole.text is not None and len(whole.text) > 6
    stop = whole.text[4:6]
    cut = engine.generate([replace(plain, sampling=SamplingConfig(max_new_tokens=20, stop=(stop,)))])[0]
    assert cut.text == whole.text[: whole.text.index(stop)].strip() and cut.finish_reason == "stop"
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)] and len(cut.token_ids) < len(whole.token_ids)
    stopping = replace(plain, sampling=SamplingConfig(max_new_tokens=20, stop=(stop,)))
    assert_same([cut], ReferenceEngine(MODEL, PROCESSOR).generate([stopping]))


def test_what_is_drawn_does_not_depend_on_the_neighbours() -> None:
    engine = PackedEngine(MODEL, PROCESSOR)
    drawn = SamplingConfig(max_new_tokens=10, temperature=1.3, top_p=0.9, top_k=40, seed=5)
    request = Request(request_id="a", prompt="Tell a story.", sampling=drawn)
    others = [Request(request_id=str(i), prompt=f"Tell {i}.", sampling=replace(drawn, seed=i)) for i in range(3)]
    alone = engine.generate([request])[0].token_ids
    assert engine.generate([*others, request])[-1].token_ids == alone
    assert engine.generate([replace(request, sampling=replace(drawn, seed=6))])[0].token_ids != alone


def test_several_samples_are_those_of_their_seeds_and_the_image_is_prefilled_once() -> None:
    engine = PackedEngine(MODEL, PROCESSOR)
    tokens: list[int] = []
    run_pass = engine._runner._pass
    engine._runner._pass = lambda pieces, embeds: tokens.append(embeds.shape[1]) or run_pass(pieces, embeds)  # type: ignore
    drawn = SamplingConfig(max_new_tokens=6, temperature=1.2, seed=5, n=4)
    image = photo(131, 44, 1)
    request = Request(request_id="a", prompt="Tell a story.", images=(image,), sampling=drawn)
    plain = replace(request, request_id="b", sampling=SamplingConfig(max_new_tokens=2))
    first, beside = engine.generate([request, plain])
    length = first.num_prompt_tokens
    # the prompt once, its last token for each of 4 + 1 requests, then what is decoded
    assert sum(tokens) <= length + 5 + 4 * 5 + 1
    assert (len(first.samples), beside.samples, beside.request_id) == (4, (), "b")
    assert len({one.token_ids for one in first.samples}) == 4
    assert (first.samples[0].token_ids, first.samples[0].text) == (first.token_ids, first.text)
    for number, sample in enumerate(first.samples):
        one = replace(drawn, n=1, seed=sample_seed(5, number))
        alone = PackedEngine(MODEL, PROCESSOR).generate([replace(request, sampling=one)])[0]
        assert (sample.token_ids, sample.finish_reason) == (alone.token_ids, alone.finish_reason)
        assert sample.mean_logprob == pytest.approx(alone.mean_logprob, abs=2e-5)
    refused = engine.generate([replace(request, images=(b"<html>",))])[0]
    assert (refused.error, refused.samples) == (ImageReason.NOT_IMAGE, ())
    with pytest.raises(ConfigError, match="all samples are the same"):
        SamplingConfig(n=2)


def test_what_is_drawn_from_is_what_transformers_draws_from() -> None:
    generator = torch.Generator().manual_seed(3)
    ids = [4, 9, 9, 30]
    for sampling in (
        SamplingConfig(temperature=0.7),
        SamplingConfig(temperature=1.4, top_k=7),
        SamplingConfig(temperature=1.4, top_p=0.6),
        SamplingConfig(temperature=0.9, top_k=12, top_p=0.8, repetition_penalty=1.7),
    ):
        logits = 3 * torch.randn(1, 50, generator=generator)
        warpers: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
        if sampling.repetition_penalty != 1:
            warpers.insert(0, RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if sampling.top_k:
            warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            warpers.append(TopPLogitsWarper(sampling.top_p))
        expected = logits.clone()
        for warper in warpers:
            expected = warper(torch.tensor([ids]), expected)
        found = _warped(logits[0].clone(), sampling, ids)
        assert torch.equal(torch.isinf(found), torch.isinf(expected[0]))
        assert torch.allclose(found, expected[0], atol=1e-6)
        drawn = torch.Generator().manual_seed(8)
        (token,), (logprob,) = choose(logits.clone(), [sampling], [ids], [drawn])
        assert logprob == pytest.approx(torch.log_softmax(expected, -1)[0, token].item(), abs=1e-5)
    # greedy, with a penalty that changes which one is greatest
    logits = torch.tensor([[1.0, 2.0, 1.9, -1.0]])
    assert choose(logits.clone(), [SamplingConfig()], [[1]], [None])[0] == [1]
    assert choose(logits.clone(), [SamplingConfig(repetition_penalty=1.1)], [[1]], [None])[0] == [2]


def test_bad_images_refuse_every_request_about_them() -> None:
    requests = [Request(request_id=str(i), prompt=f"{i}?", images=(b"<html>",)) for i in range(3)]
    results = PackedEngine(MODEL, PROCESSOR).generate(requests)
    assert [result.error for result in results] == [ImageReason.NOT_IMAGE] * 3


def test_deterministic_results_are_equal_to_the_last_bit_whatever_the_neighbours() -> None:
    engine = PackedEngine(MODEL, PROCESSOR, deterministic=True, batch_size=6)
    requests = [request for request in requests_of_every_kind() if request.request_id not in ("bad", "empty")]
    together = engine.generate(requests)
    for request, result in list(zip(requests, together, strict=True))[::3]:
        fresh = PackedEngine(MODEL, PROCESSOR, deterministic=True, batch_size=6)
        assert fresh.generate([request]) == [result]


class Allocator:
    """Fails as torch's allocator does while more than so many tokens, or tiles, are in one pass."""

    def __init__(self, engine: PackedEngine, max_tokens: int = 10**9, max_tiles: int = 10**9) -> None:
        self.failures: list[int] = []
        self.max_tokens, self.max_tiles = max_tokens, max_tiles
        self.run_pass = engine._runner._pass
        engine._runner._pass = self.checked_pass  # type: ignore[method-assign]

    def checked_pass(self, pieces: Any, embeds: Any) -> Any:
        if embeds.shape[1] > self.max_tokens:
            self.failures.append(embeds.shape[1])
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: 9")
        return self.run_pass(pieces, embeds)

    def check_tiles(self, _: Any, inputs: tuple[Any, ...]) -> None:
        if len(inputs[0]) > self.max_tiles:
            self.failures.append(len(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory.")


def test_out_of_memory_steps_down_and_answers_stay_the_same(expected: list[Result]) -> None:
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=12, tile_budget=8, prefill_tokens=300)
    allocator = Allocator(engine, max_tokens=90, max_tiles=3)
    with MODEL.image_processor.register_forward_pre_hook(allocator.check_tiles):
        assert_same(engine.generate(requests_of_every_kind()), expected)
        assert len(allocator.failures) > 1 and engine.batch_size < 12
        assert engine.tile_budget <= 3 and engine.prefill_tokens <= 90
        assert engine.budget.used_bytes == 0
        failures = len(allocator.failures)
        engine.generate(requests_of_every_kind()[:6])
    assert len(allocator.failures) == failures  # what fits is remembered


def test_what_never_fits_loses_tiles_and_then_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 3
    pack = MODEL.pack_images

    def checked(patches: Any, *rest: Any) -> Any:
        if len(patches) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return pack(patches, *rest)

    monkeypatch.setattr(MODEL, "pack_images", checked)
    engine = PackedEngine(MODEL, PROCESSOR)
    sampling = SamplingConfig(max_new_tokens=4)
    large = Request(request_id="large", prompt="What?", images=(photo(300, 310),), sampling=sampling)
    text = Request(request_id="text", prompt="Say it.", sampling=sampling)
    shrunk, beside = engine.generate([large, text])
    assert PROCESSOR.load_media(large.images, (), None).grids == ((2, 2),)
    assert shrunk.grids in (((1, 2),), ((2, 1),)) and shrunk.error is None
    assert beside.error is None
    assert engine.tile_budget == 1 and engine.prefill_tokens == 64  # smaller passes are tried first
    most = 9
    assert shrunk.token_ids == ReferenceEngine(MODEL, PROCESSOR).generate([replace(large, max_tiles=2)])[0].token_ids
    most = 0
    refused, beside = PackedEngine(MODEL, PROCESSOR).generate([large, text])
    assert (refused.error, beside.error) == (ImageReason.MEMORY, None)
    assert engine.budget.used_bytes == 0


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PackedEngine(MODEL, PROCESSOR)
    monkeypatch.setattr(MODEL, "pack_images", lambda *_: (_ for _ in ()).throw(RuntimeError("shape mismatch")))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        engine.generate([Request(request_id="a", prompt="What?", images=(photo(9, 30),))])


def test_yes_no_margin_reads_the_first_tokens_logits() -> None:
    yes_no = YesNo(lambda text: [ord(letter) for letter in text])
    assert yes_no.yes == {ord("y"), ord("Y")} and yes_no.no == {ord("n"), ord("N")}
    logits = torch.full((2, 128), -10.0)
    logits[0, ord("Y")], logits[0, ord("y")], logits[0, ord("n")] = 2.0, 1.0, 0.5
    logits[1, ord("N")] = 3.0
    margins = yes_no.margins(logits)
    assert margins[0] == pytest.approx(2.313262 - 0.5, abs=1e-4) and margins[1] is not None and margins[1] < -10
    assert YesNo(lambda text: [7]).margins(logits) == [None, None]


def test_language_models_that_are_not_proven_are_refused_before_they_are_loaded() -> None:
    check_engine("packed", MODEL.config)
    other = replace(MODEL.config, text={**MODEL.config.text, "model_type": "gemma2"})
    check_engine("reference", other)
    with pytest.raises(ConfigError, match="not for gemma2; use the reference engine"):
        check_engine("packed", other)
    with pytest.raises(ConfigError, match="no language model"):
        check_engine("reference", replace(MODEL.config, text=None))
