"""Requests that end their engine cost themselves and nobody else."""

import dataclasses
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from llava_core.engine.types import Request, Result, Sample, SamplingConfig
from llava_core.errors import CheckpointRefused, ImageReason
from llava_core.geometry import Size
from llava_core.tiled_image import TiledImage
from pipelines.child import Died
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
    image = tiled(poisoned(pixels, what) if what else pixels)
    return Request(request_id=f"r{number}", prompt=f"p{number}", images=(image,), max_tiles=number % 3)


def tiled(pixels: NDArray[np.uint8]) -> TiledImage:
    """An image whose tiles are of its own levels, and as many as it has rows."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    tiles = np.full((len(pixels), 3, 2, 2), pixels[0, 0, 0])
    return TiledImage(file.getvalue(), Size(*pixels.shape[:2]), Size(1, len(pixels) - 1), tiles)


def plain(image: Any) -> list[Any]:
    """What there is of a tiled image, for comparison."""
    return [image.file, image.size, image.grid, image.tiles.tolist()]


def test_a_model_in_a_store_is_there_while_an_engine_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/guarded/config.json", b"{}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = EngineGuard(
        dataclasses.replace(SPEC, folder="memory://guarded", factory="tests.pipelines.inference.poison:reading")
    )
    assert list(tmp_path.iterdir()) == []
    results = made.generate([request(1), request(2, "crash"), request(3)])
    assert [one.error for one in results] == [None, "DECODER_CRASH", None] and made.restarts >= 2
    assert list(tmp_path.iterdir()) == []
    made.close()
    store.rm("/guarded", recursive=True)
    with pytest.raises(CheckpointRefused, match="memory://guarded has no file of a checkpoint"):
        EngineGuard(dataclasses.replace(SPEC, folder="memory://guarded"))


def test_requests_survive_the_pipe_and_an_image_goes_once() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    shared, other = tiled(pixels), tiled(np.ascontiguousarray(pixels[:, ::-1].swapaxes(0, 1)))
    sampling = SamplingConfig(max_new_tokens=3, temperature=0.5, stop=("a", "b"), seed=7)
    sent = [
        Request(request_id="a", prompt="ä?", images=(shared, other), sampling=sampling, max_tiles=None),
        Request(request_id="b", prompt="", images=(shared,), max_tiles=2),
    ]
    frames = pack_requests(sent)
    assert len(frames) == 1 + 2 * 3
    back = unpack_requests(iter(frames))
    assert [dataclasses.replace(one, images=()) for one in back] == [
        dataclasses.replace(one, images=()) for one in sent
    ]
    assert [[plain(image) for image in one.images] for one in back] == [[plain(shared), plain(other)], [plain(shared)]]


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


def test_an_image_that_ends_the_engine_is_tried_with_two_questions_and_rejected_with_all(
    guard: EngineGuard,
) -> None:
    """Of 24 requests 10 are about one bad picture; the good ones beside them are answered."""
    picture = request(3, "crash").images
    asked = [dataclasses.replace(request(at), images=picture) if 5 <= at < 15 else request(at) for at in range(24)]
    guard.generate([request(0)])
    before = guard.restarts
    results = guard.generate(asked)
    assert [one.request_id for one in results] == [f"r{at}" for at in range(24)]
    assert [at for at, one in enumerate(results) if one.error] == list(range(5, 15))
    assert {one.error for one in results[5:15]} == {"DECODER_CRASH"}
    crashed = "the engine: it crashed (SIGSEGV)"
    assert [one.error_detail for one in results[5:15]] == [
        *[f"{crashed}, alone and 2 times"] * 2,
        *[f"{crashed}, over 2 other requests about these images; this one was not tried"] * 8,
    ]
    # all 24; the group 4–7; 5 twice; 6 twice
    assert guard.restarts - before == 6
    # what one call found out is forgotten by the next: a picture's place in memory is another's then
    assert guard._given_up(asked[14]) is not None
    assert guard.generate([request(1)])[0].error is None and guard._given_up(asked[14]) is None


def test_a_question_that_ends_the_engine_does_not_speak_for_its_image(guard: EngineGuard) -> None:
    """Of four questions about one picture the first and the last are bad: one that is answered clears the picture."""
    picture = request(3).images
    ends = {"r0", "r3"}
    asked = [dataclasses.replace(request(at), images=picture) for at in range(5)]
    call, seen = guard._call, []

    def calling(requests: list[Request]) -> list[Result]:
        if ends & {one.request_id for one in requests}:
            raise Died(ImageReason.DECODER_CRASH, "it crashed")
        seen.append([one.request_id for one in requests])
        return call(requests)

    guard._call = calling  # type: ignore[method-assign,assignment]
    try:
        results = guard.generate(asked)
    finally:
        del guard._call
    assert [one.error for one in results] == ["DECODER_CRASH", None, None, "DECODER_CRASH", None]
    assert seen == [["plain"], ["r1"], ["r2"], ["plain"], ["r4"]]


def test_requests_without_images_share_no_blame(guard: EngineGuard) -> None:
    """Of five the first two end the engine, one after the other; the others are served."""
    asked = [dataclasses.replace(request(at), images=()) for at in range(5)]

    def calling(requests: list[Request]) -> list[Result]:
        if {"r0", "r1"} & {one.request_id for one in requests}:
            raise Died(ImageReason.DECODER_CRASH, "it crashed")
        return [Result(request_id=one.request_id, text="well") for one in requests]

    guard._call = calling  # type: ignore[method-assign,assignment]
    try:
        results = guard.generate(asked)
    finally:
        del guard._call
    assert [one.error for one in results] == ["DECODER_CRASH", "DECODER_CRASH", None, None, None]


def test_whoever_waits_hears_of_steps_ends_and_starts() -> None:
    heard: list[int] = []
    made = EngineGuard(SPEC, heard.append)
    assert heard == [0], "it has started"
    made.generate([request(1, "slow")])
    assert len(heard) in (3, 4, 5), "it took 3 s, with a sign about each"
    assert 0 not in heard[1:] and 4 * 15 <= sum(heard) <= 4 * 30, "of 4 tokens at each of 30 steps"
    heard.clear()
    made.generate([request(1, "crash")])
    # itself thrice; each end is followed by a start
    assert heard.count(0) == 6
    made.close()


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
