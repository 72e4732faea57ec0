"""Requests that end their engine cost themselves and nobody else."""

import dataclasses
import json
import os
import time
from collections.abc import Iterator

import numpy as np
import pytest

from llava_core.engine.types import Request, Result, Sample, SamplingConfig
from llava_core.geometry import Size
from pipelines.inference import engine_guard
from pipelines.inference.engine_guard import EngineError, EngineGuard, EngineSpec
from pipelines.inference.engine_process import pack_requests, result_of, unpack_requests
from tests.pipelines.inference.poison import poisoned

SPEC = EngineSpec(
    folder="",
    dtype="auto",
    quantize=None,
    engine="packed",
    batch_size=3,
    device="cpu",
    threads=1,
    timeout=1.5,
    factory="tests.pipelines.inference.poison:engine",
)


@pytest.fixture(scope="module")
def guard() -> Iterator[EngineGuard]:
    made = EngineGuard(SPEC)
    yield made
    made.close()


def request(number: int, what: str | None = None) -> Request:
    """A request about an image whose size is its number's."""
    pixels = np.full((10 + number, 20, 3), number, np.uint8)
    image = poisoned(pixels, what) if what else pixels
    return Request(request_id=f"r{number}", prompt=f"p{number}", images=(image,), max_tiles=number % 3)


def test_requests_survive_the_pipe_and_an_image_goes_once() -> None:
    shared = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    other = shared[::-1, ::-1]
    sampling = SamplingConfig(max_new_tokens=3, temperature=0.5, stop=("a", "b"), seed=7)
    sent = [
        Request(request_id="a", prompt="ä?", images=(shared, other), sampling=sampling, max_tiles=None),
        Request(request_id="b", prompt="", images=(shared,), max_tiles=2),
    ]
    frames = pack_requests(sent)
    assert len(frames) == 1 + 2 * 2
    back = unpack_requests(iter(frames))
    assert [dataclasses.replace(one, images=()) for one in back] == [
        dataclasses.replace(one, images=()) for one in sent
    ]
    assert [[image.tolist() for image in one.images] for one in back] == [  # type: ignore[union-attr]
        [shared.tolist(), other.tolist()],
        [shared.tolist()],
    ]


def test_results_survive_the_pipe() -> None:
    sample = Sample(text="a", token_ids=(1, 2), finish_reason="length", mean_logprob=-0.5, min_logprob=-1.0)
    result = Result(
        request_id="r",
        text="a",
        token_ids=(1, 2),
        image_sizes=(Size(3, 4),),
        grids=(Size(1, 2),),
        samples=(sample,) * 2,
    )
    back = result_of(json.loads(json.dumps(dataclasses.asdict(result))))
    assert back == result
    assert (back.grids[0].height, back.samples[1].token_ids) == (1, (1, 2))


def test_one_of_many_is_rejected_with_its_reason_and_the_others_are_served(guard: EngineGuard) -> None:
    poison = {4: ("crash", "DECODER_CRASH", "SIGSEGV"), 20: ("swell", "MEMORY", "killed")}
    poison |= {21: ("raise", "DECODER_CRASH", "ValueError: no such tile"), 30: ("exhaust", "MEMORY", "MemoryError")}
    results = guard.generate([request(at, poison[at][0] if at in poison else None) for at in range(32)])
    assert [one.request_id for one in results] == [f"r{at}" for at in range(32)]
    for at, result in enumerate(results):
        if at in poison:
            assert (result.error, result.text) == (poison[at][1], None)
            assert poison[at][2] in str(result.error_detail)
        else:
            assert (result.error, result.text) == (None, f"{10 + at} by 20, p{at} {at % 3}")


def test_a_hung_request_is_ended_and_one_that_moves_is_not(guard: EngineGuard) -> None:
    started = time.monotonic()
    hung, slow = guard.generate([request(0, "hang"), request(1, "slow")])
    assert hung.error == "TIMEOUT"
    # it took 3 s, twice the timeout, and gave signs of life
    assert slow.text == "11 by 20, p1 1"
    assert time.monotonic() - started < 60


def test_a_request_is_tried_alone_as_often_as_it_may_and_no_more(
    guard: EngineGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []
    start = guard._start
    monkeypatch.setattr(guard, "_start", lambda: starts.append(1) or start())
    guard.generate([request(0)])
    starts.clear()
    before = guard.restarts
    guard.generate([request(at, "crash" if at == 9 else None) for at in range(12)])
    # twelve, its group of two, itself twice: four ends, each followed by a start
    assert len(starts) == guard.restarts - before == 4


def test_an_engine_that_fails_over_everything_stops_the_job() -> None:
    broken = EngineGuard(dataclasses.replace(SPEC, factory="tests.pipelines.inference.poison:broken"))
    assert broken.restarts == 0, "a first start is none"
    with pytest.raises(EngineError, match=r"request r1 .*SIGABRT.* and over a plain one too"):
        broken.generate([request(1)])
    with pytest.raises(EngineError, match="ConfigError: no engine of batch size 3"):
        EngineGuard(dataclasses.replace(SPEC, factory="tests.pipelines.inference.poison:refusing"))


def test_a_broken_contract_is_not_a_bad_row(guard: EngineGuard) -> None:
    with pytest.raises(EngineError, match="ConfigError: a contract"):
        guard.generate([request(1, "broken")])
    assert guard.generate([request(2)])[0].error is None


def test_the_process_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    made = EngineGuard(SPEC)
    assert made._child is not None
    pid = made._child.pid
    with open(f"/proc/{pid}/environ", "rb") as file:
        assert b"canary" not in file.read()
    made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert engine_guard.ALONE_TRIES == 2
