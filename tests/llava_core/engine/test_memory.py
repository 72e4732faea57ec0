"""The packed engine where memory runs out: nothing is lost, nothing comes out otherwise, and it goes on as before."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from llava_core.engine import PackedEngine, ReferenceEngine, Request, SamplingConfig, runner
from llava_core.engine import packed as packed_engine
from llava_core.engine.kv import SequenceCache
from llava_core.engine.ladder import Budgets, Ladder
from llava_core.engine.packed import fits
from llava_core.engine.samples import gather_samples
from llava_core.errors import PromptReason
from tests.small_engine import MODEL, PROCESSOR, assert_same, photo, requests_of_every_kind


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


def test_out_of_memory_steps_down_and_answers_stay_the_same() -> None:
    expected = ReferenceEngine(MODEL, PROCESSOR, batch_size=1).generate(requests_of_every_kind())
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=12, tile_budget=8, prefill_tokens=300)
    allocator = Allocator(engine, max_tokens=90, max_tiles=3)
    with MODEL.image_processor.register_forward_pre_hook(allocator.check_tiles):
        assert_same(engine.generate(requests_of_every_kind()), expected)
        now = engine.ladder.now
        assert len(allocator.failures) > 1 and now.batch_size == 12  # decoding never failed
        assert now.tile_budget <= 3 and now.prefill_tokens <= 90
        assert engine.budget.used_bytes == 0
        failures = len(allocator.failures)
        engine.generate(requests_of_every_kind()[:6])
    assert len(allocator.failures) == failures  # what fits is remembered


def test_what_never_fits_loses_tiles_and_then_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 3
    pack = MODEL.pack_images
    tried: list[Budgets] = []

    def checked(patches: Any, *rest: Any) -> Any:
        tried.append(engine.ladder.now)
        if len(patches) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return pack(patches, *rest)

    monkeypatch.setattr(MODEL, "pack_images", checked)
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=6, feature_cache_bytes=0)
    before = engine.ladder.now
    sampling = SamplingConfig(max_new_tokens=4)
    large = Request(request_id="large", prompt="What?", images=(photo(300, 310),), sampling=sampling)
    text = Request(request_id="text", prompt="Say it.", sampling=sampling)
    shrunk, beside = engine.generate([large, text])
    assert PROCESSOR.load_media(large.images, (), None).grids == ((2, 2),)
    assert shrunk.grids in (((1, 2),), ((2, 1),)) and shrunk.error is None
    assert beside.error is None
    assert (tried[-1].tile_budget, tried[-1].prefill_tokens) == (1, 64)  # smaller passes are tried first
    assert engine.ladder.now == before  # they were not at fault
    most = 9
    assert shrunk.token_ids == ReferenceEngine(MODEL, PROCESSOR).generate([replace(large, max_tiles=2)])[0].token_ids
    most = 0
    with pytest.raises(MemoryError, match="no memory for request large, alone"):
        engine.generate([text, large])
    (beside,) = engine.generate([text])
    assert beside.error is None and engine.ladder.now == before
    assert engine.budget.used_bytes == 0


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PackedEngine(MODEL, PROCESSOR)
    monkeypatch.setattr(MODEL, "pack_images", lambda *_: (_ for _ in ()).throw(RuntimeError("shape mismatch")))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        engine.generate([Request(request_id="a", prompt="What?", images=(photo(9, 30),))])


def many(count: int, **settings: Any) -> list[Request]:
    """Requests about different images, of 3 to 24 new tokens, every third drawn."""
    made = []
    for number in range(count):
        sampling = SamplingConfig(max_new_tokens=3 + 7 * number % 22, temperature=number % 3 // 2, seed=number)
        image = photo(60 + number, 90, number)
        prompt = f"What is in it, number {number}?"
        made.append(Request(request_id=str(number), prompt=prompt, images=(image,), sampling=sampling))
    return made


def failing(function: Callable[..., Any], at: set[int]) -> Callable[..., Any]:
    """The function, whose calls of these numbers, from 1, find no memory."""
    calls = 0

    def call(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in at:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return function(*arguments)

    return call


@pytest.mark.parametrize("name", ["asked_logits", "choose"])
def test_rows_that_stay_when_decoding_fails_go_on_where_they_were(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = many(12)
    expected = PackedEngine(MODEL, PROCESSOR, batch_size=8).generate(requests)
    assert len({result.token_ids for result in expected}) == 12
    monkeypatch.setattr(runner, name, failing(getattr(runner, name), {4}))
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=8)
    assert_same(engine.generate(requests), expected)
    assert engine.budget.used_bytes == 0 and engine.ladder.now.batch_size < 8


def test_no_room_for_a_cache_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = many(9)
    expected = PackedEngine(MODEL, PROCESSOR).generate(requests)
    held = 0

    def check(self: SequenceCache) -> None:
        nonlocal held
        if held == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        held += 1

    allocate = SequenceCache.__post_init__
    monkeypatch.setattr(SequenceCache, "__post_init__", lambda self: (check(self), allocate(self)))
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=8)
    release = engine.budget.release

    def released(cache: SequenceCache) -> None:
        nonlocal held
        held -= 1
        release(cache)

    monkeypatch.setattr(engine.budget, "release", released)
    assert_same(engine.generate(requests), expected)
    assert held == engine.budget.used_bytes == 0
    assert engine.ladder.now.batch_size == 8  # passes were not at fault


def test_one_failure_to_allocate_does_not_keep_requests_apart_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [replace(one, sampling=SamplingConfig(max_new_tokens=6)) for one in many(20)]
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=8)
    rows: list[int] = []
    decode = engine._runner.decode
    engine._runner.decode = lambda running: (rows.append(len(running)), decode(running))[1]  # type: ignore
    monkeypatch.setattr(SequenceCache, "__post_init__", failing(SequenceCache.__post_init__, {2}))
    engine.generate(requests)
    assert rows[0] == 1 and max(rows) > 3
    rows.clear()
    engine.generate(requests)
    assert rows[0] == 8


def test_one_failed_prefill_makes_passes_smaller_and_leaves_decoding_alone() -> None:
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=8, tile_budget=8, prefill_tokens=300)
    prefill = engine._runner.prefill
    engine._runner.prefill = failing(prefill, {1})  # type: ignore[method-assign]
    engine.generate(many(3))
    assert engine.ladder.now == Budgets(8, 4, 150)
    engine._runner.prefill = failing(prefill, {1})  # type: ignore[method-assign]
    engine.generate(many(1))
    assert engine.ladder.now == Budgets(8, 2, 75)


def test_one_failed_step_of_decoding_makes_fewer_decode_and_leaves_passes_alone() -> None:
    requests = [replace(one, sampling=SamplingConfig(max_new_tokens=6)) for one in many(5)]
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=8, tile_budget=8, prefill_tokens=3000)
    engine._runner.decode = failing(engine._runner.decode, {2})  # type: ignore[method-assign]
    engine.generate(requests)
    assert engine.ladder.now == Budgets(2, 8, 3000)


@pytest.mark.parametrize("fails", ["cache", "decoding"])
def test_what_passes_have_no_part_in_takes_tiles_at_once(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = SamplingConfig(max_new_tokens=4)
    request = Request(request_id="a", prompt="What?", images=(photo(300, 310),), sampling=sampling)
    engine = PackedEngine(MODEL, PROCESSOR)
    before = engine.ladder.now
    if fails == "cache":
        monkeypatch.setattr(SequenceCache, "__post_init__", failing(SequenceCache.__post_init__, {1}))
    else:
        engine._runner.decode = failing(engine._runner.decode, {2})  # type: ignore[method-assign]
    (result,) = engine.generate([request])
    assert PROCESSOR.load_media(request.images, (), None).grids == ((2, 2),)
    assert result.grids in (((1, 2),), ((2, 1),)) and engine.ladder.now == before
    assert_same([result], ReferenceEngine(MODEL, PROCESSOR).generate([replace(request, max_tiles=2)]))


def test_a_cache_that_never_finds_room_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the device that has none: were its requests refused, a job would refuse a corpus, one by one."""
    requests = many(3)
    engine = PackedEngine(MODEL, PROCESSOR)
    expected, before = engine.generate(requests), engine.ladder.now
    tried: list[int] = []
    with monkeypatch.context() as full:
        never = failing(lambda _: None, set(range(1, 1000)))
        full.setattr(SequenceCache, "__post_init__", lambda self: (tried.append(self.capacity), never(self)))
        with pytest.raises(MemoryError, match="no memory for request 0"):
            engine.generate(requests)
    assert tried == sorted(set(tried), reverse=True)  # each time with fewer tiles
    assert_same(engine.generate(requests), expected)
    assert engine.ladder.now == before


def test_all_samples_are_recorded_with_the_fewest_tiles_that_one_was_made_from() -> None:
    drawn = SamplingConfig(max_new_tokens=4, temperature=1.2, seed=5, n=3)
    request = Request(request_id="a", prompt="Tell a story.", images=(photo(300, 310),), sampling=drawn)
    one = replace(request, sampling=replace(drawn, n=1))
    whole, less = PackedEngine(MODEL, PROCESSOR).generate([one, replace(one, max_tiles=2)])
    assert whole.grids == ((2, 2),) and whole.num_image_tokens > less.num_image_tokens
    (result,) = gather_samples([request], [whole, less, whole])
    for name in ("grids", "num_image_tokens", "num_prompt_tokens"):
        assert getattr(result, name) == getattr(less, name)
    assert (result.token_ids, len(result.samples)) == (whole.token_ids, 3)


def test_an_error_leaves_the_engine_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = many(4)
    engine = PackedEngine(MODEL, PROCESSOR)
    expected = engine.generate(requests)
    per_token = engine.budget.shape.bytes_per_token
    engine = PackedEngine(MODEL, PROCESSOR, kv_bytes=3 * max(r.num_prompt_tokens for r in expected) * per_token)
    with monkeypatch.context() as broken:
        broken.setattr(runner, "choose", lambda *_: {}["nothing"])
        with pytest.raises(KeyError, match="nothing"):
            engine.generate(requests)
    assert_same(engine.generate(requests), expected)


def test_a_prefix_whose_requests_wait_makes_room() -> None:
    sampling = SamplingConfig(max_new_tokens=30)
    image = photo(60, 90, 1)
    requests = [
        Request(request_id=str(number), prompt=f"What is in it, number {number}?", images=(image,), sampling=sampling)
        for number in range(5)
    ]
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=2)
    expected = engine.generate(requests)
    longest = max(result.num_prompt_tokens for result in expected) + 30
    room = (longest + 45) * engine.budget.shape.bytes_per_token
    engine = PackedEngine(MODEL, PROCESSOR, batch_size=2, kv_bytes=room)
    engine._runner.decode = failing(engine._runner.decode, {3})  # type: ignore[method-assign]
    assert_same(engine.generate(requests), expected)


def test_a_request_alone_may_be_as_long_as_the_model_takes_and_several_together_keep_to_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = many(3)
    needed = [r.num_prompt_tokens + r.num_image_tokens for r in PackedEngine(MODEL, PROCESSOR).generate(requests)]
    per_token = PackedEngine(MODEL, PROCESSOR).budget.shape.bytes_per_token
    monkeypatch.setattr(packed_engine, "kv_bytes_for", lambda _: max(needed) // 2 * per_token)
    engine = PackedEngine(MODEL, PROCESSOR)
    rows: list[int] = []
    decode = engine._runner.decode
    engine._runner.decode = lambda running: (rows.append(len(running)), decode(running))[1]  # type: ignore
    assert [result.error for result in engine.generate(requests)] == [None] * 3
    assert set(rows) == {1}
    context = MODEL.language_model.config.max_position_embeddings
    assert engine.budget.ever_fits(context) and not engine.budget.ever_fits(context + 1)
    given = PackedEngine(MODEL, PROCESSOR, kv_bytes=max(needed) // 2 * per_token)
    assert {result.error for result in given.generate(requests)} == {PromptReason.TOO_LONG}


def test_budgets_come_back_with_the_last_of_those_that_failed_beside_the_one_at_fault() -> None:
    begin = Budgets(8, 6, 400)
    ladder = Ladder(begin)
    ladder.step_down([3, 4, 5], 1, prefill=True)
    assert ladder.now == Budgets(8, 3, 200)
    ladder.settle(3)
    ladder.step_down([4, 8], 3, prefill=False)
    assert ladder.now == Budgets(2, 3, 200)
    ladder.settle(8)
    ladder.blame(7)  # has been in no step that failed
    ladder.blame(4)
    ladder.settle(4)
    ladder.settle(9)
    assert ladder.now == Budgets(2, 3, 200)
    ladder.settle(5)
    assert ladder.now == begin
    # nobody at fault: what fits is remembered
    ladder.blame(7)
    ladder.step_down([1, 2], 0, prefill=True)
    ladder.settle(1)
    ladder.settle(2)
    assert ladder.now == Budgets(8, 3, 200)
    # fewer together only where passes cannot be smaller
    ladder.step_down([6], 0, prefill=True)
    assert ladder.now == Budgets(8, 1, 100) and not ladder.now.smallest
    ladder.step_down([6], 5, prefill=True)
    assert ladder.now == Budgets(8, 1, 64) and ladder.now.smallest
    ladder.step_down([6], 5, prefill=True)
    assert ladder.now == Budgets(3, 1, 64)
    # a call that the request at fault has ended gives them back to the next
    ladder.blame(6)
    ladder.begin()
    assert ladder.now == Budgets(8, 3, 200)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception) -> None:
    def step() -> None:
        raise error

    assert not fits(step)
