"""Two workers and FSDP2 against one, the model sharded or whole on each; the order of samples for one, two and four."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.training.data import Cursor, StepStream
from pipelines.training.loader import Loader
from pipelines.training.samples import Sampler
from pipelines.training.sources import index_inputs, open_source
from tests.pipelines.training import cases, workers

TOLERANCE = 1e-5
"""Measured: 2.4e-7 of parameters, 1.8e-7 of losses."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_both(tmp_path_factory.mktemp("distributed"), 24)


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("sharded", "settings"),
    [
        (True, {}),
        (False, {"normalisation": "square"}),
        (True, {"optimizer": "muon"}),
        (False, {"optimizer": "muon"}),
    ],
    ids=["sharded", "whole on each", "sharded, muon", "whole on each, muon"],
)
def test_two_workers_with_fsdp_equal_one(folder: Path, tmp_path: Path, sharded: bool, settings: dict[str, str]) -> None:
    found = {}
    for size in (1, 2):
        # eps far above rounding: AdamW divides by it where a gradient is nearly nothing
        one = cases.stage(max_steps=4, warmup_ratio=0.0, eps=1e-4, **settings)
        work = cases.work(folder / "untrained", [str(folder / "corpus/data.json")], tmp_path / f"w{size}", one)
        assert workers.run([work], size, sharded=sharded) == [0] * size
        found[size] = load_file(f"{work.own_model}/model.safetensors"), losses(Path(work.output))
    start = load_file(folder / "untrained/model.safetensors")
    moved = max((found[1][0][name] - start[name]).abs().max().item() for name in start)
    worst = max((found[1][0][name] - found[2][0][name]).abs().max().item() for name in start)
    assert moved > 1e-3
    assert worst < TOLERANCE, worst
    assert max(abs(a - b) for a, b in zip(found[1][1], found[2][1], strict=True)) < TOLERANCE


def test_the_order_is_the_same_for_one_two_and_four_workers(folder: Path) -> None:
    one = cases.stage(batch_size=8)
    samples, processor, cost = cases.samples_of(str(folder / "corpus/data.json"), folder / "untrained", one)
    del samples

    def order(size: int) -> list[set[str]]:
        per_rank = []
        for rank in range(size):
            sources = [open_source(index_inputs([str(folder / "corpus/data.json")])[0])]
            stream = StepStream(sources, (), Sampler(processor, one), batch_size=8, epochs=2, seed=5)
            loader = Loader(stream, processor, cost, rank=rank, world_size=size)
            per_rank.append(list(loader.steps(Cursor())))
        for steps in zip(*per_rank, strict=True):
            assert len({step.uids for step in steps}) == len({len(step.rounds) for step in steps}) == 1
            assert len({str(step.cursor) for step in steps}) == 1
        ran = [
            [sample.row.uid for step in steps for batch in step.rounds for sample in batch.samples]
            + [lost.uid for step in steps for lost in step.unreadable]
            for steps in zip(*per_rank, strict=True)
        ]
        for uids, steps in zip(ran, zip(*per_rank, strict=True), strict=True):
            assert sorted(uids) == sorted(steps[0].uids)
        return [set(uids) for uids in ran]

    alone = order(1)
    assert len(alone) > 5
    assert order(2) == alone
    assert order(4) == alone


@pytest.mark.parametrize("settings", [{"normalisation": "device"}, {"activation_checkpointing": True}])
def test_two_workers_run_what_one_runs(folder: Path, settings: dict[str, object], tmp_path: Path) -> None:
    one = cases.stage(max_steps=2, learning_rates={"projector": 1e-3, "language_model": 1e-3}, **settings)
    work = cases.work(folder / "untrained", [str(folder / "corpus/data.json")], tmp_path, one)
    assert workers.run([work], 2) == [0, 0]
    before = load_file(folder / "untrained/model.safetensors")
    after = load_file(f"{work.own_model}/model.safetensors")
    tower = [name for name in before if name.startswith("image_processor.") or name == "image_newline"]
    assert all(torch.equal(before[name], after[name]) for name in tower)
    assert not any(torch.equal(before[name], after[name]) for name in before if "mlp" in name and "language" in name)
