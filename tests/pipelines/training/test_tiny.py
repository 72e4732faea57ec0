"""Recipe `tiny` from nothing: its stages one after the other, what moves in each, a model that answers at the end."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_core.checkpoints import load_model, read_config, resolve_model
from llava_core.checkpoints.fresh import new_model
from llava_core.engine import PackedEngine, Request, SamplingConfig
from llava_core.processor import LLaVAProcessor
from pipelines.training.config import TrainConfig
from pipelines.training.job import settle
from pipelines.training.loop import StageWork, run_stage

PARTS = {"see": {"vision_tower"}, "align": {"projector"}}


def small(work: StageWork) -> StageWork:
    """The stage at two samples a step."""
    return dataclasses.replace(work, folder=work.output, stage=dataclasses.replace(work.stage, batch_size=2))


def part(name: str) -> str:
    return {"image_processor": "vision_tower", "image_newline": "projector"}.get(name.split(".")[0], name.split(".")[0])


def test_the_recipe_brings_its_data_and_beginning_and_its_own_layout(tmp_path: Path) -> None:
    job = settle(TrainConfig(recipe="tiny", output=str(tmp_path), limit_steps=2, seed=7))
    assert [work.stage.name for work in job.works] == ["see", "align", "instruct", "highres"]
    assert job.works[0].model == "fresh:7" and job.works[-1].export == {str(tmp_path / "model"): "own"}
    assert settle(TrainConfig(recipe="tiny", output=str(tmp_path), seed=8)).works[0].identity != job.works[0].identity
    assert all(work.stage.precision == "float32" for work in job.works)
    assert {work.stage.optimizer for work in job.works} == {"muon"}
    other = settle(TrainConfig(recipe="tiny", output=str(tmp_path), limit_steps=2, seed=7, optimizer="adamw"))
    assert {work.stage.optimizer for work in other.works} == {"adamw"}
    assert other.works[0].identity != job.works[0].identity
    whole = settle(TrainConfig(recipe="tiny", output=str(tmp_path)))
    part = settle(TrainConfig(recipe="tiny", output=str(tmp_path), stages=("see", "align")))
    assert [work.ends_recipe for work in (*job.works, *part.works)] == [False] * 6
    assert [work.ends_recipe for work in whole.works] == [False, False, False, True]


def test_workers_in_another_folder_find_a_relative_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").symlink_to(resolve_model("tiny"))
    monkeypatch.chdir(tmp_path)
    job = settle(TrainConfig(recipe="tiny", output=str(tmp_path / "out"), model="models", limit_steps=2))
    assert job.works[0].model == str(tmp_path / "models")


@pytest.mark.slow
def test_every_stage_moves_its_parts_and_the_model_at_the_end_answers(tmp_path: Path) -> None:
    job = settle(TrainConfig(recipe="tiny", output=str(tmp_path), limit_steps=2))
    before = dict(new_model(0).state_dict())
    works = [dataclasses.replace(work, ends_recipe=work.stage.name == "highres") for work in map(small, job.works)]
    for work in works:
        run_stage(work, torch.device("cpu"))
        after = load_model(work.own_model).state_dict()
        moved = {part(name) for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        assert moved == PARTS.get(work.stage.name, moved), work.stage.name
        assert moved >= {"language_model", "projector"} or work.stage.name in PARTS
        statistics = [name for name in after if name.endswith("running_mean")]
        learned = [not torch.equal(after[name], before[name]) for name in statistics]
        assert all(learned) if work.stage.name == "see" else not any(learned), work.stage.name
        before = dict(after)
        assert read_config(work.own_model).trained == work.ends_recipe
    folder = tmp_path / "model"
    assert read_config(folder).trained
    engine = PackedEngine(load_model(folder), LLaVAProcessor.from_pretrained(folder))
    pixels = np.full((200, 180, 3), 200, np.uint8)
    ask = Request(
        request_id="1", prompt="Describe the image.", images=(pixels,), sampling=SamplingConfig(max_new_tokens=4)
    )
    [result] = engine.generate([ask])
    assert result.error is None
