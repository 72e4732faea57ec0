"""A job before any cluster work: which layout is written, which folders are its own, what is another run."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file

from llava_core.errors import CheckpointRefused, ConfigError
from pipelines.training.config import TrainConfig
from pipelines.training.export import open_model
from pipelines.training.flow import write_record
from pipelines.training.job import TrainJob, check_record, remove_changed, settle
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


def test_a_model_in_a_store_is_the_same_run_and_leaves_no_copy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("memory").put(f"{folder}/untrained/", "/begin/", recursive=True)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    here, there = (settle(config(folder, tmp_path, model=m)) for m in (f"{folder}/untrained", "memory://begin"))
    assert [work.identity for work in there.works] == [work.identity for work in here.works]
    assert there.works[0].model == "memory://begin"
    # as a worker does, at the beginning of each stage
    model, processor = open_model("memory://begin")
    wanted = load_file(folder / "untrained/model.safetensors")
    found = model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert processor.tokenizer("What?").input_ids
    assert list((tmp_path / "scratch").iterdir()) == []


class Own:
    """A source of one's own, which names no images."""

    fingerprint, units = "own", (3,)


def test_an_image_root_is_read_and_has_to_be_of_use(folder: Path, tmp_path: Path) -> None:
    own = "tests.pipelines.training.test_job:Own"
    both = dataclasses.replace(config(folder, tmp_path), image_root=str(folder))
    both = dataclasses.replace(both, input=(own, *both.input))
    assert settle(both).data.keys() == {own, str(folder / "corpus/data.json")}
    with pytest.raises(ConfigError, match="--image-root is for corpora that name their images, and no input is one"):
        settle(dataclasses.replace(both, input=(own,)))
    with pytest.raises(ConfigError, match=r"out/align/images is read, but .*out/align would be written over it"):
        settle(dataclasses.replace(both, output=str(tmp_path / "out"), image_root=str(tmp_path / "out/align/images")))
    # the same names below another folder are other images, and so another run
    write_record(settle(both), "complete")
    with pytest.raises(ConfigError, match="--image-root takes other rows or images of it"):
        check_record(settle(dataclasses.replace(both, image_root=str(tmp_path))))


def written(job: TrainJob) -> list[Path]:
    """A file in every folder that a job writes."""
    files = [Path(folder, "file") for work in job.works for folder in (work.output, *work.export)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    return files


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["align", "model"])
def test_a_folder_that_no_run_has_made_is_never_removed(
    folder: Path, tmp_path: Path, name: str, overwrite: bool
) -> None:
    (tmp_path / name).mkdir()
    job = settle(config(folder, tmp_path, overwrite=overwrite))
    with pytest.raises(ConfigError, match=f"{tmp_path / name} is there already, and no run"):
        check_record(job)
    remove_changed(job, job.missing)
    assert (tmp_path / name).exists()


def test_overwriting_removes_what_recorded_runs_made_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    two = settle(config(folder, tmp_path, stages=("align", "instruct"), epochs=3.0))
    files = written(two)
    write_record(two, "complete")
    # a later run of fewer stages does not forget whose the other folder is
    write_record(settle(config(folder, tmp_path, stages=("align",), epochs=3.0)), "complete")
    check_record(settle(config(folder, tmp_path, stages=("align",), epochs=3.0)))
    changed = settle(config(folder, tmp_path, overwrite=True))
    (tmp_path / "highres").mkdir()
    with pytest.raises(ConfigError, match="highres is there already"):
        check_record(changed)
    remove_changed(changed, changed.missing)
    assert not any(file.exists() for file in files) and (tmp_path / "highres").exists()
    (tmp_path / "highres").rmdir()
    check_record(changed)


def test_an_interrupted_run_keeps_its_folders(folder: Path, tmp_path: Path) -> None:
    job = settle(config(folder, tmp_path))
    files = written(job)
    write_record(job, "stopped")
    check_record(job)
    remove_changed(job, job.missing)
    assert all(file.exists() for file in files)


def test_what_is_read_is_never_written_over(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model").symlink_to(folder / "untrained")
    with pytest.raises(ConfigError, match=r"untrained is read, but .*out/model would be written over it"):
        settle(config(folder, tmp_path / "out"))
    cases.write_corpus(tmp_path / "new/align/corpus", 4, wrong=False)
    inside = config(folder, tmp_path / "new")
    inside = dataclasses.replace(inside, input=(str(tmp_path / "new/align/corpus/data.json"),))
    with pytest.raises(ConfigError, match=r"data.json is read, but .*new/align would be written over it"):
        settle(inside)
    # beside them is fine, and a name is compared whole
    (tmp_path / "new/align").rename(tmp_path / "new/aligned")
    settle(dataclasses.replace(inside, input=(str(tmp_path / "new/aligned/corpus/data.json"),)))


def test_samples_that_are_skipped_make_no_other_run(folder: Path, tmp_path: Path) -> None:
    job, without = settle(config(folder, tmp_path)), settle(config(folder, tmp_path, skip=("a", "b")))
    assert [work.identity for work in without.works] == [work.identity for work in job.works]
    assert {work.skip for work in without.works} == {("a", "b")}
    write_record(job, "failed")
    check_record(without)
