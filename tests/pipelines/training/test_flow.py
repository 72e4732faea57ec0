"""The job: settings that are refused, the record, and three stages under Ray Train with a worker killed on the way."""

import dataclasses
import json
import math
import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from ray.train import ScalingConfig
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlavaNextForConditionalGeneration

from llava_core.errors import ConfigError
from pipelines.errors import StoppedError
from pipelines.runtime import Node, WorkerPlan
from pipelines.training.config import TrainConfig
from pipelines.training.errors import TrainingStopped
from pipelines.training.export import open_model, write_model
from pipelines.training.flow import scale, train, write_record
from pipelines.training.job import check_record, settle
from pipelines.training.loop import StageWork
from pipelines.training.plan import plan_stage, say_plan
from pipelines.training.recipes import RECIPES
from pipelines.training.report import stage_html
from pipelines.training.watch import Alarm
from tests.pipelines.training import cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_both(tmp_path_factory.mktemp("flow"), 24)


WATCHED = {"loss", "grad_norm", "tokens_per_s", "images_per_s", "non_padding", "data_wait", "tflops"}
"""What TensorBoard shows beside the learning rates; MFU is shown where a peak is known, which no CPU has."""


def scalars(folder: Path) -> set[str]:
    """Names of the finite values in TensorBoard's files: records of a length and its checksum, an event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = set()
    for file in folder.iterdir():
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            event = Event.FromString(data[12 : 12 + length])
            found |= {value.tag for value in event.summary.value if math.isfinite(value.simple_value)}
            data = data[16 + length :]
    return found


def config(folder: Path, output: Path, **settings: Any) -> TrainConfig:
    values: dict[str, Any] = {"recipe": "document", "limit_steps": 2, "precision": "float32", "batch_size": 6}
    data = str(folder / "corpus/data.json")
    return TrainConfig(input=(data,), output=str(output), model=str(folder / "untrained"), **{**values, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": ("align", "polish")}, "has no stage polish; it has align, instruct, highres"),
        ({"weights": (1.0, 2.0)}, "2 numbers for 1 inputs"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0.0}, "epochs is 0"),
        ({"min_workers": 3, "num_workers": 2}, "min_workers is 3"),
        ({"input": ()}, "input is empty, and stage align"),
        ({"output": " "}, "output is empty"),
    ],
)
def test_wrong_settings_are_refused(folder: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config(folder, tmp_path), **settings)


def test_a_batch_that_workers_cannot_share_is_refused(folder: Path, tmp_path: Path) -> None:
    job = settle(config(folder, tmp_path, num_workers=4))
    with pytest.raises(ConfigError, match="stage align has 6 samples a step, which 4 workers cannot share evenly"):
        scale(job.config, [Node(cpus=8)], job.works)
    elastic = settle(config(folder, tmp_path, num_workers=4, min_workers=1))
    assert scale(elastic.config, [Node(cpus=8)], elastic.works)[0].num_workers == (1, 4)


@pytest.mark.parametrize(
    ("settings", "gpus", "scaled", "now"),
    [
        # four of eight are back after a loss: the job goes on with them
        ({"num_workers": 8, "min_workers": 2}, 4, (2, 8), 4),
        ({"num_workers": 3, "min_workers": 2}, 4, (2, 3), 3),
        ({"min_workers": 2}, 4, (2, 4), 4),
        ({"num_workers": 3, "min_workers": 3}, 0, (3, 3), 3),
    ],
)
def test_an_elastic_job_begins_with_what_is_there(
    folder: Path, tmp_path: Path, settings: dict[str, Any], gpus: int, scaled: tuple[int, int], now: int
) -> None:
    job = settle(config(folder, tmp_path, stages=("align",), **settings))
    scaling, plan = scale(job.config, [Node(cpus=2), Node(cpus=16, gpus=gpus)], job.works)
    assert (scaling.num_workers, plan.num_actors, plan.num_gpus) == (scaled, now, float(gpus > 0))


@pytest.mark.parametrize(
    ("settings", "gpus", "message"),
    [
        ({"num_workers": 8, "min_workers": 5}, 4, "5 workers of 1 GPUs do not fit .* at most 4 do"),
        ({"min_workers": 5}, 4, "--min-workers is 5, and without --num-workers there would be 4"),
        ({"min_workers": 2}, 0, "--min-workers is 2, and without --num-workers there would be 1"),
    ],
)
def test_an_elastic_job_that_can_never_begin_is_refused(
    folder: Path, tmp_path: Path, settings: dict[str, Any], gpus: int, message: str
) -> None:
    job = settle(config(folder, tmp_path, stages=("align",), **settings))
    with pytest.raises(ConfigError, match=message):
        scale(job.config, [Node(cpus=2), Node(cpus=16, gpus=gpus)], job.works)


def test_adapters_without_peft_are_refused_before_anything_is_removed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "align").mkdir()
    write_record(settle(config(folder, tmp_path)), "complete")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"a stage with lora needs peft .*install 'tessera\[lora\]'"):
        train(config(folder, tmp_path, lora_rank=4, overwrite=True), lambda _: None)
    assert (tmp_path / "align").exists()
    # the language model is frozen there, and gets none
    settle(config(folder, tmp_path, lora_rank=4, stages=("align",)))


def test_an_input_that_is_not_there_and_a_model_that_is_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        settle(dataclasses.replace(config(folder, tmp_path), input=(str(tmp_path / "nothing.json"),)))
    with pytest.raises(Exception, match="NOT_FOUND"):
        settle(dataclasses.replace(config(folder, tmp_path), model=str(tmp_path)))


def test_the_documents_recipe_has_its_numbers() -> None:
    align, instruct, highres = RECIPES["document"]()
    assert (align.learning_rates["projector"], align.batch_size, align.warmup_steps) == (1e-3, 256, 2000)
    assert "language_model" not in align.trainable and "vision_tower" not in instruct.trainable
    assert (instruct.learning_rates["language_model"], instruct.batch_size, instruct.warmup_ratio) == (2e-5, 128, 0.03)
    assert highres.trainable == {"vision_tower", "projector", "newline", "language_model"}
    released = RECIPES["llava_next"]()[-1]
    assert (released.learning_rates["vision_tower"], released.normalisation) == (2e-6, "device")


@pytest.mark.parametrize(
    ("loss", "norm", "message"),
    [
        (float("nan"), 1.0, "the loss is nan"),
        (2.0, float("inf"), "the norm of the gradients inf"),
        (21.0, 1.0, "the loss is 21, 10 times its running median 2"),
    ],
)
def test_a_loss_that_is_no_good_stops_with_the_samples(loss: float, norm: float, message: str) -> None:
    alarm = Alarm([2.0] * 20)
    alarm.check(1, 19.0, 1.0, ["a"], "out/checkpoints")
    with pytest.raises(TrainingStopped, match=rf"step 7: .*{message}.*samples u1, u2.*out/checkpoints"):
        alarm.check(7, loss, norm, ["u1", "u2"], "out/checkpoints")
    # too few steps to know what is usual
    Alarm([2.0] * 3).check(4, 50.0, 1.0, ["a"], "c")


def parts_moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.ray
def test_stages_under_ray_train(folder: Path, tmp_path: Path, ray_session: None) -> None:
    said: list[str] = []
    out = tmp_path / "out"
    job = config(folder, out, num_workers=2, stages=("align", "highres"))
    train(job, said.append)
    model = LlavaNextForConditionalGeneration.from_pretrained(out / "model")
    assert sum(p.numel() for p in model.parameters()) > 1e5
    start = load_file(folder / "untrained/model.safetensors")
    align, highres = (load_file(out / name / "model/model.safetensors") for name in ("align", "highres"))
    assert parts_moved(start, align) == {"projector", "image_newline"}
    assert parts_moved(align, highres) == {"projector", "image_newline", "image_processor", "language_model"}
    assert (out / "train_report.html").read_text().count("<h2>") == 2
    tags = scalars(out / "align/tensorboard")
    assert tags >= WATCHED, WATCHED - tags
    assert any(name.startswith("lr/") for name in tags), tags
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    train(job, said.append)
    assert said[-1].startswith("all stages are done")
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    # other settings, or other data, are another run
    with pytest.raises(ConfigError, match=r"other settings \(stages.align.max_steps was 2 and is 3\)"):
        check_record(settle(dataclasses.replace(job, limit_steps=3)))
    corpus = folder / "corpus/data.json"
    text = corpus.read_text()
    try:
        corpus.write_text(json.dumps(json.loads(text)[:-1]))
        with pytest.raises(ConfigError, match="has changed since the run"):
            check_record(settle(job))
    finally:
        corpus.write_text(text)


@pytest.mark.slow
@pytest.mark.ray
def test_a_plan_says_what_stages_take_and_writes_nothing(folder: Path, tmp_path: Path, ray_session: None) -> None:
    said: list[str] = []
    settings = {"limit_steps": None, "epochs": 10.0, "plan": True, "price_per_hour": 3.0}
    train(config(folder, tmp_path / "out", stages=("align", "highres"), **settings), said.append)
    assert not (tmp_path / "out").exists()
    assert (said[0], said[2]) == ("stage align", "stage highres")
    # 26 rows ten times over, of which a few are missing or cut, and for a frozen language model four have no image
    for page, (least, most) in ((said[1], (180, 220)), (said[3], (220, 260))):
        values = {name: value.strip() for name, value in (line.split("  ", 1) for line in page.splitlines())}
        assert list(values) == ["samples", "steps", "tokens", "tokens/s", "padding", "time", "device-hours", "cost"]
        samples = int(values["samples"])
        assert least <= samples < most
        assert values["steps"] == f"{math.ceil(samples / 6)}, known from 6"
        hours, cost = (float(values[name].split()[0].rstrip(",")) for name in ("device-hours", "cost"))
        assert cost == pytest.approx(3 * hours, rel=0.02)
    assert "nothing; leave out --plan to start" in said[-1]


def test_a_plan_measures_no_stage_that_lacks_only_its_export(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"seconds": 2.0, "tokens_per_s": 100.0, "non_padding": 0.75, "samples": 6, "rejected": 0}
    measured: list[str] = []

    def run_workers(_: Any, works: list[StageWork], *others: Any) -> list[dict[str, Any]]:
        measured.extend(work.stage.name for work in works)
        return [step | {"stage": work.stage.name} for work in works]

    monkeypatch.setattr("pipelines.training.plan.run_workers", run_workers)
    job = settle(config(folder, tmp_path, stages=("align", "highres"), layout="own", plan=True))
    align, highres = job.works
    model, processor = open_model(str(folder / "untrained"))
    workers = WorkerPlan(num_actors=2, num_cpus=1.0, num_gpus=0.0, threads=3)

    def planned() -> list[str]:
        said: list[str] = []
        measured.clear()
        say_plan(job.config, job.missing, ScalingConfig(num_workers=2), workers, said.append)
        return said

    write_model(model, processor, align.own_model, layout="own", marker={"identity": align.identity})
    assert planned()[0] == "stage highres" and measured == ["highres"]
    write_model(model, processor, highres.own_model, layout="own", marker={"identity": highres.identity})
    assert planned() == [f"stage highres is trained; only {tmp_path / 'model'} is to be written"] and measured == []
    # of other settings, it is to be trained
    write_model(model, processor, highres.own_model, layout="own", marker={"identity": "another"})
    assert planned()[0] == "stage highres" and measured == ["highres"]


def test_a_plan_by_hand() -> None:
    """Two inputs, the second half as often: 20 samples an epoch, one in five unusable; the first two steps are slow."""
    stage = cases.stage(batch_size=4, epochs=2.0, weights=(1.0, 0.5))
    slow = {"seconds": 90.0, "tokens_per_s": 1.0, "non_padding": 1.0, "samples": 4, "rejected": 1}
    steps = [slow, slow | {"samples": 8, "rejected": 2}]
    steps += [{"seconds": 2.0, "tokens_per_s": 100.0, "non_padding": 0.75, "samples": 12, "rejected": 3}]
    steps += [{"seconds": 4.0, "tokens_per_s": 100.0, "non_padding": 0.90, "samples": 16, "rejected": 4}]
    plan = plan_stage(stage, [(5, 5), (20,)], steps)
    assert (plan.samples, plan.steps, plan.measured) == (32, 8, 2)
    assert (plan.tokens, plan.tokens_per_s, plan.seconds) == (8 * 300.0, 100.0, 8 * 3.0)
    assert plan.padding == pytest.approx(1 - (150 + 360) / 600)
    short = plan_stage(dataclasses.replace(stage, max_steps=3), [(5, 5), (20,)], steps)
    assert (short.samples, short.steps, short.seconds) == (12, 3, 9.0)


@pytest.mark.ray
def test_a_job_that_is_asked_to_stop_saves_its_step(folder: Path, tmp_path: Path, ray_session: None) -> None:
    job = config(folder, tmp_path, limit_steps=400, epochs=400.0, num_workers=2, stages=("highres",))
    asker = threading.Thread(target=ask_to_stop, args=(tmp_path / "highres/metrics.jsonl",))
    asker.start()
    with pytest.raises(StoppedError, match="in stage highres, whose step") as found:
        train(job, lambda _: None)
    asker.join()
    (checkpoint,) = (tmp_path / "highres/checkpoints").iterdir()
    step = int(checkpoint.name.partition("-")[0])
    assert f"whose step {step} is saved" in str(found.value)
    assert (checkpoint / "COMPLETE.json").exists()
    assert step == len((tmp_path / "highres/metrics.jsonl").read_text().splitlines()) < 400
    assert json.loads((tmp_path / "_run/train.json").read_text())["status"] == "stopped"


def ask_to_stop(metrics: Path) -> None:
    """SIGTERM this process once a stage has made its third step."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        if metrics.is_file() and len(metrics.read_text().splitlines()) >= 3:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(0.05)


def kill_a_worker(metrics: Path, killed: list[int]) -> None:
    """Wait for a stage's third step, and kill -9 a worker of this process's own Ray."""
    end = time.monotonic() + 120
    while time.monotonic() < end and not killed:
        if metrics.is_file() and len(metrics.read_text().splitlines()) >= 3:
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in process.name() or "RayTrainWorker" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)
                    return
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.ray
def test_a_worker_that_is_killed_is_started_again_and_changes_nothing(
    folder: Path, tmp_path: Path, ray_session: None
) -> None:
    made = {}
    for name in ("whole", "killed"):
        settings = {"limit_steps": 12, "epochs": 4.0, "checkpoint_steps": 2, "num_workers": 2, "stages": ("highres",)}
        job = config(folder, tmp_path / name, **settings)
        killed: list[int] = []
        killer = threading.Thread(target=kill_a_worker, args=(tmp_path / name / "highres/metrics.jsonl", killed))
        if name == "killed":
            killer.start()
        train(job, lambda _: None)
        if name == "killed":
            killer.join()
            assert killed
        made[name] = load_file(tmp_path / name / "highres/model/model.safetensors")
    assert parts_moved(made["whole"], made["killed"]) == set()


def test_the_page_names_what_was_rejected_and_escapes_it() -> None:
    line = {"step": 1, "samples": 6, "loss": 2.0, "loss/text": 2.0, "lr/projector": 0.1, "grad_norm": 1.0}
    line |= {
        "tokens_per_s": 10.0,
        "images_per_s": 1.0,
        "non_padding": 1.0,
        "data_wait": 0.5,
        "tflops": 0.1,
        "seconds": 2,
    }
    page = stage_html("<align>", [line, line | {"step": 2}], [{"reason": "A<B"}], {})
    assert "&lt;align&gt;" in page and "1 A&lt;B" in page and "50.00 %" in page
