"""A job before any cluster work: which layout is written, which folders are its own, what is another run."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from llava_core.errors import CheckpointRefused
from pipelines.training.config import TrainConfig
from pipelines.training.job import settle
from tests.pipelines.training import cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_both(tmp_path_factory.mktemp("job"), 12, wrong=False)


def config(folder: Path, output: Path, **settings: Any) -> TrainConfig:
    values: dict[str, Any] = {"model": str(folder / "untrained"), **settings}
    return TrainConfig(input=(str(folder / "corpus/data.json"),), output=str(output), **values)


def test_the_layout_is_one_that_can_say_the_model(folder: Path, tmp_path: Path) -> None:
    model = str(tmp_path / "model")
    default = config(folder, tmp_path, model=None)
    assert default.start == "tiny" and settle(default).works[-1].export == {model: "own"}
    assert settle(config(folder, tmp_path)).works[-1].export == {model: "hf"}
    assert settle(config(folder, tmp_path, layout="own")).works[-1].export == {model: "own"}
    # before three stages are trained, not after
    with pytest.raises(CheckpointRefused, match=r'layout "hf" .*stem_vision_model.*write layout "own"'):
        settle(dataclasses.replace(default, layout="hf"))
