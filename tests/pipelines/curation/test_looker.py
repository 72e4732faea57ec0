"""Images that end their decoder cost themselves and nobody else."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_core.errors import ConfigError, ImageRefused
from pipelines.curation.look import look
from pipelines.curation.looker import Looked, Looker
from pipelines.sandbox import MAX_ATTEMPTS, SandboxError, SandboxSettings
from tests.pipelines.curation.pictures import encoded, scene
from tests.pipelines.hostile import hostile

QUICK = SandboxSettings(decoder="tests.pipelines.hostile:decode", cpu_seconds=0.4, wall_seconds=3.0, memory_bytes=2**30)
GOOD = [encoded(scene(seed, 60 + seed, 90 - seed)) for seed in range(5)]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Looker]:
    with Looker(QUICK) as made:
        yield made


def refusal(answer: Looked | ImageRefused) -> tuple[str, str]:
    assert isinstance(answer, ImageRefused), answer
    return str(answer.reason), answer.detail


def check_neighbours(answers: list[Looked | ImageRefused], files: list[bytes]) -> None:
    for answer, data in zip(answers, files, strict=True):
        assert isinstance(answer, Looked)
        assert answer.facts == look(data)[0]


@pytest.mark.parametrize(
    ("what", "reason", "detail"),
    [
        ("crash", "DECODER_CRASH", "SIGSEGV"),
        ("exit", "DECODER_CRASH", "exit code 3"),
        ("killed", "MEMORY", "killed"),
        ("spin", "TIMEOUT", "took too long"),
        ("swell", "MEMORY", "memory limit"),
    ],
)
def test_an_image_that_ends_the_decoder_is_refused_alone(sandbox: Looker, what: str, reason: str, detail: str) -> None:
    answers = sandbox.look([GOOD[0], GOOD[1], hostile(GOOD[2], what), GOOD[3], GOOD[4]])
    found, said = refusal(answers[2])
    assert found == reason
    assert detail in said
    check_neighbours(answers[:2] + answers[3:], [GOOD[0], GOOD[1], GOOD[3], GOOD[4]])


def test_a_decoder_that_sleeps_is_ended_by_its_alarm() -> None:
    with Looker(replace(QUICK, wall_seconds=0.5)) as sandbox:
        answers = sandbox.look([hostile(GOOD[0], "hang"), GOOD[1]])
    assert refusal(answers[0])[0] == "TIMEOUT"
    check_neighbours(answers[1:], GOOD[1:2])


def test_several_hostile_images_in_a_row_and_at_both_ends(sandbox: Looker) -> None:
    files = [hostile(GOOD[0], "crash"), hostile(GOOD[1], "exit"), GOOD[2], hostile(GOOD[3], "crash")]
    answers = sandbox.look(files)
    assert [refusal(answers[at])[0] for at in (0, 1, 3)] == ["DECODER_CRASH"] * 3
    check_neighbours(answers[2:3], GOOD[2:3])
    check_neighbours(sandbox.look(GOOD), GOOD)


def test_an_image_whose_decoder_died_once_is_tried_again(sandbox: Looker, tmp_path: Path) -> None:
    data = hostile(GOOD[0], f"once={tmp_path / 'died'}")
    answers = sandbox.look([data, GOOD[1]])
    assert (tmp_path / "died").exists()
    check_neighbours(answers, [data, GOOD[1]])


def test_the_decoder_is_started_as_often_as_it_may_die_and_no_more(
    sandbox: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []
    start = sandbox.sandbox._start
    monkeypatch.setattr(sandbox.sandbox, "_start", lambda: starts.append(1) or start())
    sandbox.look(GOOD[:1])
    starts.clear()
    sandbox.look([hostile(GOOD[0], "crash")])
    assert len(starts) == MAX_ATTEMPTS - 1
    sandbox.look(GOOD[:1])
    assert len(starts) == MAX_ATTEMPTS


def test_refusals_of_the_decoder_come_through(sandbox: Looker) -> None:
    answers = sandbox.look([b"", b"words", GOOD[0][:700], GOOD[1]])
    assert [refusal(answer)[0] for answer in answers[:3]] == ["EMPTY", "NOT_IMAGE", "TRUNCATED"]
    check_neighbours(answers[3:], GOOD[1:2])


def test_large_images_fill_both_pipes(sandbox: Looker) -> None:
    files = [encoded(scene(seed, 300, 400), "BMP") for seed in range(4)] * 3
    assert min(map(len, files)) > 2**18
    with Looker(QUICK, square=256) as squares:
        answers = squares.look(files)
    check_neighbours([Looked(answer.facts) for answer in answers if isinstance(answer, Looked)], files)


def test_the_square_is_the_centre_of_the_image() -> None:
    pixels = scene(3, 80, 200)
    with Looker(QUICK, square=40) as sandbox:
        (answer,) = sandbox.look([encoded(pixels, "PNG")])
    assert isinstance(answer, Looked)
    expected = Image.fromarray(pixels[:, 60:140]).resize((40, 40), Image.Resampling.BICUBIC)
    assert answer.square is not None
    # cropping first and resizing a box differ only at the edges
    assert np.abs(answer.square.astype(int) - np.asarray(expected)).max(axis=2)[3:-3, 3:-3].max() <= 1


def test_the_process_has_no_secret_and_ends_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    with Looker(QUICK) as sandbox:
        sandbox.look(GOOD[:1])
        child = sandbox.sandbox._child
        assert child is not None
        pid = child.pid
        assert b"canary" not in Path(f"/proc/{pid}/environ").read_bytes()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_cannot_start_stops_the_job() -> None:
    with pytest.raises(SandboxError, match="does not start"), Looker(replace(QUICK, decoder="nowhere:at_all")) as box:
        box.look(GOOD[:1])
    with pytest.raises(ConfigError, match="memory_bytes"):
        SandboxSettings(memory_bytes=10)
