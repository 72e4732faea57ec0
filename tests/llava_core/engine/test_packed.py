"""The packed engine against the reference engine, one request at a time: tokens identical, whatever shares a step."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers.generation import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llava_core.engine import PackedEngine, ReferenceEngine, Request, Result, SamplingConfig, check_engine
from llava_core.engine.samples import sample_seed
from llava_core.engine.sampling import YesNo, _warped, choose
from llava_core.errors import ConfigError, ImageReason, PromptReason
from llava_core.model import LLaVANeXT
from llava_core.processor import LLaVAProcessor
from llava_core.prompts import ask
from tests.small_engine import MODEL, PROCESSOR, assert_same, photo, requests_of_every_kind


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


def test_models_that_put_image_features_elsewhere_are_refused_before_they_are_loaded() -> None:
    beside = replace(MODEL.config, placement="concatenate")
    check_engine("reference", beside)
    with pytest.raises(ConfigError, match="placement is 'concatenate'; use the reference engine"):
        check_engine("packed", beside)


def test_too_many_images_refuse_their_request_alone() -> None:
    config = replace(MODEL.config, tiles=replace(MODEL.config.tiles, policy="grid", pinpoints=(), max_images=2))
    model, processor = LLaVANeXT(config), LLaVAProcessor(PROCESSOR.tokenizer, config)
    good = Request(request_id="a", prompt="What?", images=(photo(60, 60),), sampling=SamplingConfig(max_new_tokens=3))
    many = replace(good, request_id="b", images=(photo(60, 60),) * 3)
    results = PackedEngine(model, processor).generate([good, many, good])
    assert [result.error for result in results] == [None, PromptReason.TOO_LONG, None]


ENGINES = (PackedEngine, ReferenceEngine)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_end_that_the_checkpoint_names_ends_an_answer(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(request_id="a", prompt="Go on.", sampling=SamplingConfig(max_new_tokens=12))
    whole = engine(MODEL, PROCESSOR).generate([request])[0].token_ids
    end = next(token for token in whole[4:] if token not in whole[:4])
    monkeypatch.setattr(MODEL.language_model.generation_config, "eos_token_id", [2, end])
    # a word of the vocabulary is the config's default, or another vocabulary's end
    assert engine(MODEL, PROCESSOR).generate([request])[0].token_ids == whole
    tokenizer = copy.deepcopy(PROCESSOR.tokenizer)
    tokenizer.add_tokens([tokenizer.convert_ids_to_tokens(end)], special_tokens=True)
    result = engine(MODEL, LLaVAProcessor(tokenizer, PROCESSOR.config)).generate([request])[0]
    assert result.token_ids == whole[: whole.index(end) + 1] and result.finish_reason == "stop"


@pytest.mark.parametrize("engine", ENGINES)
def test_prompt_and_answer_keep_to_the_models_context(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = SamplingConfig(max_new_tokens=9)
    requests = [
        Request(request_id=name, prompt=prompt, images=images, sampling=sampling)
        for name, prompt, images in (
            ("short", "Hm?", ()),
            ("image", "Hm, what?", (photo(50, 60),)),
            ("longest", "Hm, which?", (photo(50, 60),)),
            ("too long", "Hm, where?", (photo(50, 60), photo(60, 51))),
        )
    ]
    whole = engine(MODEL, PROCESSOR).generate(requests)
    lengths = [result.num_prompt_tokens for result in whole]
    assert lengths[1] == lengths[2] - 1 and [len(result.token_ids) for result in whole] == [9] * 4
    context = lengths[2] + 1
    monkeypatch.setattr(MODEL.language_model.config, "max_position_embeddings", context)
    results = engine(MODEL, PROCESSOR).generate(requests)
    assert_same(results[:1], whole[:1])
    for number, room in ((1, 2), (2, 1)):
        assert results[number].token_ids == whole[number].token_ids[:room]
        assert results[number].finish_reason == "length"
    assert results[3].error == PromptReason.TOO_LONG
    detail = f"a prompt of {lengths[3]} tokens leaves no room for an answer in the model's {context}"
    assert results[3].error_detail == detail
    monkeypatch.setattr(MODEL.language_model.config, "max_position_embeddings", lengths[2])
    results = engine(MODEL, PROCESSOR).generate(requests)
    assert [result.error for result in results] == [None, None] + [PromptReason.TOO_LONG] * 2


@pytest.mark.parametrize("engine", ENGINES)
def test_an_end_of_turn_that_is_no_added_token_ends_an_answer_by_its_words(engine: Any) -> None:
    request = Request(request_id="a", prompt="Go on.", sampling=SamplingConfig(max_new_tokens=20))
    whole = engine(MODEL, PROCESSOR).generate([request])[0].text
    processor = LLaVAProcessor(PROCESSOR.tokenizer, PROCESSOR.config)
    processor.stop_strings = (whole[5:7],)
    result = engine(MODEL, processor).generate([request])[0]
    assert result.text == whole[: whole.index(whole[5:7])].strip() and result.finish_reason == "stop"


def test_log_probabilities_of_what_is_drawn_are_the_same_in_both_engines() -> None:
    drawn = SamplingConfig(max_new_tokens=1, temperature=0.4, top_k=3, top_p=0.9, repetition_penalty=1.2, seed=2)
    request = Request(request_id="a", prompt="Tell a story.", images=(photo(40, 50),), sampling=drawn)
    found: dict[str, dict[tuple[int, ...], float]] = {}
    for engine in ENGINES:
        results = [
            engine(MODEL, PROCESSOR).generate([replace(request, sampling=replace(drawn, seed=s))])[0] for s in range(9)
        ]
        found[engine.__name__] = {result.token_ids: result.mean_logprob for result in results}
    packed, reference = found.values()
    assert len(packed) > 1 and packed.keys() & reference.keys()
    for token in packed.keys() & reference.keys():
        assert packed[token] == pytest.approx(reference[token], abs=2e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_scores_that_are_no_numbers_refuse_their_request_alone(engine: Any) -> None:
    good = Request(request_id="good", prompt="Go on.", sampling=SamplingConfig(max_new_tokens=5))
    drawn = replace(good, request_id="drawn", sampling=SamplingConfig(max_new_tokens=5, temperature=1.0))
    beside = replace(good, request_id="beside", sampling=replace(drawn.sampling, seed=1))
    bad = replace(beside, request_id="bad", prompt="What?", images=(photo(50, 60),))
    expected = engine(MODEL, PROCESSOR, batch_size=1).generate([good, drawn])
    hook = MODEL.projector.register_forward_hook(lambda _, __, made: made * float("nan"))
    with hook:
        results = engine(MODEL, PROCESSOR).generate([good, bad, drawn, beside])
    assert results[1].error == PromptReason.NOT_FINITE and "after 0 tokens" in str(results[1].error_detail)
    assert results[3].error is None  # drawn in one batch with the bad one
    assert [results[0].token_ids, results[2].token_ids] == [one.token_ids for one in expected]
    _, chosen = choose(torch.tensor([[1.0, float("nan"), 0.5]]), [drawn.sampling], [[]], [torch.Generator()])
    assert chosen[0] != chosen[0]


def test_a_batch_does_not_run_empty_where_there_are_many_threads() -> None:
    requests = [
        Request(
            request_id=str(number), prompt=f"Say {number}.", sampling=SamplingConfig(max_new_tokens=2 + number % 8 * 4)
        )
        for number in range(32)
    ]
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=8)
    engine._lanes.count = 8
    rows: list[int] = []
    decode = engine._runner.decode
    engine._runner.decode = lambda running: (rows.append(len(running)), decode(running))[1]  # type: ignore
    engine.generate(requests)
    assert sum(rows) / len(rows) > 4.5  # 3.2 where every place must be empty before one is filled
