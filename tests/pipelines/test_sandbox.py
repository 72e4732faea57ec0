"""Pixels from a process that may die; what becomes of hostile images is in `curation/test_looker.py` too."""

import pytest

from llava_core.errors import ImageRefused
from llava_core.images import decode_image
from pipelines.child import Died, cause
from pipelines.sandbox import Answer, Sandbox, SandboxSettings
from tests.pipelines.curation.pictures import encoded, scene
from tests.pipelines.hostile import PIXELS, hostile

GOOD = [encoded(scene(seed, 60 + seed, 90 - 2 * seed)) for seed in range(4)]
QUICK = SandboxSettings(decoder="tests.pipelines.hostile:decode", cpu_seconds=0.4, wall_seconds=3.0, memory_bytes=2**30)


def test_pixels_come_back_as_they_are_and_hostile_neighbours_as_reasons() -> None:
    large = encoded(scene(9, 700, 1100), "PNG")
    files = [GOOD[0], hostile(GOOD[1], "crash"), large, b"words", hostile(GOOD[2], "spin"), GOOD[3]]
    with Sandbox(QUICK, PIXELS, {"by": 3}) as sandbox:
        answers = sandbox.run(files, [{"number": at} for at in range(6)])
    for at in (0, 2, 5):
        found, expected = answers[at], decode_image(files[at])
        assert isinstance(found, Answer)
        assert found.values == {"shape": list(expected.shape), "by": 3, "number": at}
        assert bytes(found.payload) == expected.tobytes()
    refused = {at: one for at, one in enumerate(answers) if isinstance(one, ImageRefused)}
    assert {at: str(one.reason) for at, one in refused.items()} == {1: "DECODER_CRASH", 3: "NOT_IMAGE", 4: "TIMEOUT"}
    assert refused[1].detail == "the decoder: it crashed (SIGSEGV), 3 times"


def test_whoever_waits_hears_of_each_answer_and_each_end() -> None:
    heard: list[int] = []
    with Sandbox(QUICK, PIXELS, moved=lambda: heard.append(1)) as sandbox:
        sandbox.run([GOOD[0], b"words", hostile(GOOD[1], "crash"), GOOD[2]])
    # three answers, and three processes that one image ended
    assert len(heard) == 6


def test_what_is_prepared_does_not_count_as_the_first_images_time() -> None:
    with Sandbox(QUICK, PIXELS, prepare="tests.pipelines.hostile:warm_up") as sandbox:
        assert isinstance(sandbox.run([hostile(GOOD[0], "warm")])[0], Answer)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(-9, "MEMORY"), (-14, "TIMEOUT"), (-27, "TIMEOUT"), (-6, "DECODER_CRASH"), (1, "DECODER_CRASH")],
)
def test_how_a_process_ended_says_why_a_row_is_refused(code: int, reason: str) -> None:
    death = cause(code)
    assert isinstance(death, Died)
    assert str(death.reason) == reason
