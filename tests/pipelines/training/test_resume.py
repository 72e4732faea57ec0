"""Killed and gone on with, a run ends where an uninterrupted one does, bit by bit: parameters, optimiser, next samples.

Two workers (gloo, FSDP2), three stages that train different parts, checkpoints every second step; kill -9.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.training.loop import StageWork
from tests.pipelines.training import cases, workers

STEPS = 5
RATES = {"align": ("projector", "newline"), "instruct": ("projector", "language_model"), "highres": ()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_both(tmp_path_factory.mktemp("resume"), 18)


def three_stages(folder: Path, output: Path, **settings: Any) -> list[StageWork]:
    """align, instruct, highres, each of 5 steps over 1.5 epochs of 20 rows; checkpoints after 2 and 4.

    The first leaves out samples without image, and has 1.75 for it.
    """
    works: list[StageWork] = []
    for number, (name, parts) in enumerate(RATES.items()):
        rates = {**settings, **({"learning_rates": dict.fromkeys(parts, 2e-3)} if parts else {})}
        epochs = 1.75 if name == "align" else 1.5
        one = cases.stage(name, batch_size=6, epochs=epochs, max_tiles=None if not parts else 0, **rates)
        start = folder / "untrained" if not works else Path(works[-1].own_model)
        inputs = [str(folder / "corpus/data.json")]
        works.append(cases.work(start, inputs, output, one, number, checkpoint_steps=2))
    return works


def outcome(output: Path) -> dict[str, Any]:
    """Everything that has to be equal: tensors, optimiser, cursor, losses."""
    found: dict[str, Any] = {}
    for name in RATES:
        marker = json.loads((output / name / "model/COMPLETE.json").read_text())
        lines = [json.loads(line) for line in (output / name / "metrics.jsonl").read_text().splitlines()]
        newest = max((output / name / "checkpoints").iterdir())
        assert (newest / "COMPLETE.json").exists()
        found[name] = {
            "model": load_file(output / name / "model/model.safetensors"),
            "checkpoint": workers.saved_tensors(newest),
            "cursor": marker["cursor"],
            "rejected": (output / name / "rejected.jsonl").read_text(),
            "losses": [(line["step"], line["loss"], line["grad_norm"]) for line in lines],
        }
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any], kinds: tuple[str, ...] = ("model", "checkpoint")) -> None:
    for name in RATES:
        for kind in kinds:
            mine, theirs = one[name][kind], other[name][kind]
            assert mine.keys() == theirs.keys()
            assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == [], (name, kind)
        for kind in ("cursor", "rejected", "losses"):
            assert one[name][kind] == other[name][kind], (name, kind)


@pytest.fixture(scope="module")
def in_one_go(folder: Path) -> dict[str, Any]:
    assert workers.run(three_stages(folder, folder / "whole"), 2) == [0, 0]
    return outcome(folder / "whole")


def test_the_uninterrupted_run_trains(in_one_go: dict[str, Any]) -> None:
    for name in RATES:
        assert [step for step, _, _ in in_one_go[name]["losses"]] == list(range(1, STEPS + 1))
        assert in_one_go[name]["cursor"]["epoch"] == 1
        assert any(key.startswith("optimizer.") and value.any() for key, value in in_one_go[name]["checkpoint"].items())
        # one image is missing, which reading finds; one is cut, which only decoding finds
        lines = [json.loads(line)["reason"] for line in in_one_go[name]["rejected"].splitlines()]
        assert {"NOT_FOUND", "TRUNCATED"} <= set(lines)
    assert len({tuple(in_one_go[name]["losses"]) for name in RATES}) == 3


def killed_and_resumed(folder: Path, deaths: list[tuple[str, int]], output: Path) -> dict[str, Any]:
    for death in deaths:
        assert workers.run(three_stages(folder, output), 2, death)[0] == -9, death
    assert workers.run(three_stages(folder, output), 2) == [0, 0]
    return outcome(output)


def test_two_kills_change_nothing(folder: Path, in_one_go: dict[str, Any], tmp_path: Path) -> None:
    # within the second stage's second epoch, then between the second stage and the third
    assert_same(killed_and_resumed(folder, [("step", STEPS + 4), ("between", 3)], tmp_path), in_one_go)


@pytest.mark.parametrize(("sharded", "optimizer"), [(False, "adamw"), (False, "muon"), (True, "muon")])
def test_a_kill_changes_nothing_where_the_model_is_whole_on_each_worker_or_muon_moves_it(
    folder: Path, tmp_path: Path, sharded: bool, optimizer: str
) -> None:
    one_go, killed = (three_stages(folder, tmp_path / name, optimizer=optimizer) for name in ("one_go", "killed"))
    assert workers.run(one_go, 2, sharded=sharded) == [0, 0]
    assert workers.run(killed, 2, ("step", STEPS + 4), sharded=sharded)[0] == -9
    assert workers.run(killed, 2, sharded=sharded) == [0, 0]
    assert_same(outcome(tmp_path / "killed"), outcome(tmp_path / "one_go"))


@pytest.mark.parametrize(
    ("seed", "steps", "kinds"),
    [
        # a step that has no checkpoint of its own
        (0, (1, 3), ("model", "checkpoint")),
        # a stage's last step: its checkpoint is one more than the uninterrupted run has
        (1, (STEPS,), ("model",)),
        *(pytest.param(n, range(1, STEPS), ("model", "checkpoint"), marks=pytest.mark.slow) for n in range(2, 8)),
    ],
)
def test_sigterm_saves_the_step_it_comes_in_and_changes_nothing(
    folder: Path, in_one_go: dict[str, Any], tmp_path: Path, seed: int, steps: Sequence[int], kinds: tuple[str, ...]
) -> None:
    draw = random.Random(seed)
    stage, step = draw.randrange(len(RATES)), draw.choice(steps)
    works = three_stages(folder, tmp_path)
    # one of two workers hears it, and both stop
    assert workers.run(works, 2, stop=stage * STEPS + step) == [workers.STOPPED] * 2
    output = Path(works[stage].output)
    newest = max((output / "checkpoints").iterdir())
    assert (newest / "COMPLETE.json").exists() and int(newest.name.partition("-")[0]) == step
    assert len((output / "metrics.jsonl").read_text().splitlines()) == step
    assert not Path(works[stage].own_model).exists()
    assert workers.run(works, 2) == [0, 0]
    assert_same(outcome(tmp_path), in_one_go, kinds)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_many_kills_change_nothing(folder: Path, in_one_go: dict[str, Any], tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    # Every attempt gets on by a step at least, so this many kills reach all stages.
    deaths = [("step", draw.randint(2, 4)) for _ in range(2)]
    deaths += [(draw.choice(["saved", "brought", "model"]), 1) for _ in range(2)]
    draw.shuffle(deaths)
    assert_same(killed_and_resumed(folder, deaths, tmp_path), in_one_go)
