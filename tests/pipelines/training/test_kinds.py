"""Stages of other kinds than the plain one: adapters, bfloat16, video and several images, an output that is a store."""

import dataclasses
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaNextForConditionalGeneration

from llava_core.checkpoints.load import load_model
from llava_core.losses import language_loss
from pipelines.models import local_model
from pipelines.storage import filesystem
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.errors import TrainingStopped
from pipelines.training.export import read_marker, unwritten
from pipelines.training.loader import encode
from pipelines.training.loop import StageWork, run_stage
from pipelines.training.stages import LoraConfig, Stage
from pipelines.training.watch import Alarm
from tests.pipelines.training import cases, workers
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_both(tmp_path_factory.mktemp("kinds"), 24, wrong=False)


def work_of(folder: Path, output: Path, one: Stage, **settings: Any) -> StageWork:
    return cases.work(folder / "untrained", [str(folder / "corpus/data.json")], output, one, **settings)


def run(work: StageWork) -> list[dict[str, Any]]:
    """Run a stage alone in this process; its steps' values."""
    run_stage(work, torch.device("cpu"))
    return [json.loads(line) for line in Path(work.folder, "metrics.jsonl").read_text().splitlines()]


def from_transformers(folder: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint that transformers has loaded, with nothing missing and nothing left."""
    model, said = LlavaNextForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"] and not said["mismatched_keys"], said
    return dict(model.state_dict())


def test_adapters_train_alone_and_are_merged_into_what_transformers_loads(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra [lora] is not installed")
    lora = LoraConfig(rank=3, alpha=12, dropout=0.1)
    rates: dict[Any, float] = {"projector": 2e-3, "language_model": 1e-2}
    one = cases.stage("instruct", learning_rates=rates, lora=lora, max_steps=4, warmup_ratio=0.0)
    work = work_of(folder, tmp_path, one, checkpoint_steps=2, export={str(tmp_path / "hf"): "hf"})
    assert len(run(work)) == 4
    before, after = (load_file(f"{place}/model.safetensors") for place in (folder / "untrained", work.own_model))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    language = {name for name in moved if name.startswith("language_model.")}
    assert {name.split(".")[0] for name in moved - language} == {"projector"}
    # two layers of seven matrices: neither norms, nor embeddings, nor the head
    assert len(language) == 14 and all(name.endswith("proj.weight") for name in language)
    for name in language:
        change = (after[name] - before[name]).double()
        values = torch.linalg.svdvals(change)
        # a product of two matrices of three columns, up to the rounding of the sum
        assert values[2] > 1e-5 and values[3] < 1e-6, (name, values[:5])
    newest = max((tmp_path / "instruct/checkpoints").iterdir())
    saved = workers.saved_tensors(newest)
    assert all("lora_" in name for name in saved if "language_model" in name)
    assert any("lora_B" in name and value.any() for name, value in saved.items())
    theirs = from_transformers(tmp_path / "hf")
    assert not any("lora_" in name for name in theirs)
    ours = load_model(tmp_path / "hf").state_dict()
    assert all(torch.equal(ours[name], after[name]) for name in after)
    merged = next(tensor for name, tensor in theirs.items() if name.endswith("layers.1.mlp.down_proj.weight"))
    assert torch.equal(merged, after["language_model.model.layers.1.mlp.down_proj.weight"])


@pytest.mark.parametrize("parts", [("projector",), ("vision_tower", "projector")])
def test_words_alone_are_left_out_where_the_language_model_is_frozen(
    folder: Path, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    rows = json.loads((folder / "corpus/data.json").read_text())
    pictures = [row for row in rows if isinstance(row.get("image"), str)][:6]
    # each of these would fill a row of its own
    words = [{"id": f"t{n}", "conversations": cases.turns("Who?", "so " * 120 + str(n))} for n in range(5)]
    data = folder / f"corpus/words-{len(parts)}.json"
    data.write_text(json.dumps([*words, *pictures]))
    one = cases.stage("align", learning_rates=dict.fromkeys(parts, 1e-3), batch_size=2)
    steps = run(cases.work(folder / "untrained", [str(data)], tmp_path, one))
    assert [step["samples"] for step in steps] == [2, 4, 6]
    marker = json.loads((tmp_path / "align/model/COMPLETE.json").read_text())
    assert marker["cursor"]["rejected"] == {"NO_IMAGE": 5} and marker["cursor"]["taken"] == 11


@pytest.mark.parametrize(
    ("max_steps", "factors"),
    [
        # 24 samples are four steps, of which the first rises from 0, whatever more would be allowed
        (None, [0.0, 1.0, 0.75, 0.25]),
        (1000, [0.0, 1.0, 0.75, 0.25]),
        # and these three, of which a quarter is none
        (3, [1.0, 0.75, 0.25]),
    ],
)
def test_rates_rise_and_fall_over_the_steps_that_there_are(
    folder: Path, tmp_path: Path, max_steps: int | None, factors: list[float]
) -> None:
    rates: dict[Any, float] = {"projector": 0.5, "language_model": 1e-3}
    one = cases.stage(learning_rates=rates, max_steps=max_steps, warmup_ratio=0.25)
    steps = run(work_of(folder, tmp_path, one))
    assert [step["lr/projector"] for step in steps] == pytest.approx([0.5 * factor for factor in factors])
    assert steps[-1]["done"] == 1.0 and steps[0]["done"] == pytest.approx(1 / len(steps))


def spoilt_by(uid: str, check: Any) -> Any:
    """The alarm, which hears NaN where a sample is in the step."""

    def checked(self: Alarm, step: int, loss: float, norm: float, uids: Any, checkpoints: str) -> None:
        check(self, step, math.nan if uid in uids else loss, norm, uids, checkpoints)

    return checked


def test_a_loss_that_is_no_good_leaves_the_checkpoint_that_is_on_its_way(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring, check = Checkpoints._bring, Alarm.check

    def slowly(self: Checkpoints, *args: Any) -> None:
        time.sleep(1)
        bring(self, *args)

    def checked(self: Alarm, step: int, loss: float, *rest: Any) -> None:
        check(self, step, math.nan if step == 4 else loss, *rest)

    monkeypatch.setattr(Checkpoints, "_bring", slowly)
    monkeypatch.setattr(Alarm, "check", checked)
    work = work_of(folder, tmp_path, cases.stage(), checkpoint_steps=3)
    with pytest.raises(TrainingStopped, match="step 4: the loss is nan") as stopped:
        run(work)
    uid = str(stopped.value).partition("samples ")[2].partition(",")[0]
    (saved,) = Path(work.output, "checkpoints").iterdir()
    assert saved.name.startswith("00000003-") and (saved / "COMPLETE.json").exists()
    # as it was, it stops again; without a sample that is named, it goes on from there
    monkeypatch.setattr(Alarm, "check", spoilt_by(uid, check))
    with pytest.raises(TrainingStopped, match=rf"step 4: .*{uid}.*--skip"):
        run(work)
    steps = run(dataclasses.replace(work, skip=(uid,)))
    assert [step["step"] for step in steps] == [1, 2, 3, 4] and steps[3]["samples"] == 23
    (line,) = Path(work.folder, "rejected.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 4, "uid": uid, "reason": "SKIPPED", "detail": "--skip names it"}


def test_an_export_that_lacks_is_written_from_the_stages_own_model(folder: Path, tmp_path: Path) -> None:
    exported = tmp_path / "model"
    work = work_of(folder, tmp_path, cases.stage(max_steps=1), export={str(exported): "hf"})
    steps = run(work)
    assert unwritten(work.targets, work.identity) == {}
    files = {path.name: path.read_bytes() for path in exported.iterdir()}
    marker = json.loads(files["COMPLETE.json"])
    assert (marker["layout"], marker["step"], marker["identity"]) == ("hf", 1, work.identity)
    shutil.rmtree(exported)
    assert unwritten(work.targets, work.identity) == {str(exported): "hf"}
    own = Path(work.own_model, "COMPLETE.json")
    before = own.stat().st_mtime_ns
    assert run(work) == steps
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == files
    # another layout is another folder, but not another model
    other = dataclasses.replace(work, export={str(exported): "own"})
    assert unwritten(other.targets, other.identity) == {str(exported): "own"}
    assert run(other) == steps and own.stat().st_mtime_ns == before
    assert unwritten(other.targets, other.identity) == {}
    assert load_file(exported / "model.safetensors").keys() == load_file(f"{work.own_model}/model.safetensors").keys()
    # a stage without its own model is trained, whatever is exported of it
    shutil.rmtree(work.own_model)
    assert unwritten(other.targets, other.identity) == {work.own_model: "own"}
    run(other)
    assert own.exists()


def test_bfloat16_follows_float32_and_keeps_its_weights(folder: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        one = cases.stage(precision=precision, max_steps=6, warmup_ratio=0.0)
        work = work_of(folder, tmp_path / precision, one)
        losses[precision] = [step["loss"] for step in run(work)]
        tensors = load_file(f"{work.own_model}/model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        # a master weight moves by less than bfloat16 can say
        name = "language_model.model.layers.0.self_attn.q_proj.weight"
        assert not torch.equal(tensors[name], tensors[name].bfloat16().float())
    plain, half = (torch.tensor(losses[name]) for name in ("float32", "bfloat16"))
    assert not torch.equal(plain, half)
    # measured: 0.2 % at most
    assert ((half - plain).abs() / plain).max() < 0.01, (plain, half)
    assert half[-1] < half[0] - 0.1


def test_video_frames_and_several_images_have_the_loss_of_samples_run_one_by_one(tmp_path: Path) -> None:
    model_folder = cases.write_video_model(tmp_path)
    one = cases.stage(batch_size=5, max_steps=3, epochs=3.0, warmup_ratio=0.0)
    first = {}
    for name, seed in (("plain", 0), ("other", 500)):
        inputs = cases.write_mixed(tmp_path / name, seed=seed)
        steps = run(cases.work(model_folder, [inputs], tmp_path / f"out-{name}", one))
        assert [step["samples"] for step in steps] == [5, 10, 15] and steps[-1]["rejected"] == 0
        assert steps[2]["loss"] < steps[0]["loss"]
        first[name] = steps[0]["loss"]
    samples, processor, _ = cases.samples_of(str(tmp_path / "plain/data.json"), model_folder, one)
    counts = [(sample.num_frames, len(sample.row.sizes)) for sample in samples]
    assert counts == [(3, 3), (5, 5), (0, 2), (0, 1), (0, 0)]
    model, total = load_model(model_folder).eval(), sum(sample.num_targets for sample in samples)
    alone = 0.0
    with torch.no_grad():
        for sample in samples:
            batch = processor.collate([encode(sample, processor, None)], with_labels=True)
            labels = batch.pop("labels")
            alone += float(language_loss(model(**batch).logits, labels, num_targets=total))
    assert first["plain"] == pytest.approx(alone, abs=1e-5)
    # the pixels matter
    assert abs(first["plain"] - first["other"]) > 1e-3


def test_an_output_in_a_store_is_that_of_a_disk_and_goes_on_from_there(
    folder: Path, tmp_path: Path, s3_bucket: S3Bucket
) -> None:
    one = cases.stage(max_steps=5, epochs=4.0, row_tokens=300)
    local = work_of(folder, tmp_path, one, checkpoint_steps=2, export={str(tmp_path / "hf"): "hf"})
    steps = run(local)
    exported = f"{s3_bucket.uri}/run/model"
    remote = dataclasses.replace(
        local,
        output=f"{s3_bucket.uri}/run/highres",
        folder=str(tmp_path / "scratch"),
        storage_options=s3_bucket.delta_options,
        export={exported: "hf"},
    )
    run(remote)
    store, root = filesystem(remote.output, s3_bucket.delta_options)
    names = {path.removeprefix(f"{root}/") for path in store.find(root)}
    assert {"metrics.jsonl", "model/COMPLETE.json", "model/model.safetensors"} <= names
    complete = sorted(name.split("/")[1] for name in names if name.endswith("COMPLETE.json") and "checkpoints" in name)
    assert [name.partition("-")[0] for name in complete] == ["00000002", "00000004"]
    lines = [json.loads(line) for line in store.cat(f"{root}/metrics.jsonl").decode().splitlines()]
    assert [line["loss"] for line in lines] == [step["loss"] for step in steps]
    wanted = load_file(f"{local.own_model}/model.safetensors")

    def check() -> None:
        with local_model(remote.own_model, s3_bucket.delta_options) as copy:
            tensors = load_file(f"{copy}/model.safetensors")
        assert tensors.keys() == wanted.keys() and all(torch.equal(tensors[name], wanted[name]) for name in wanted)

    check()
    with local_model(exported, s3_bucket.delta_options) as copy:
        theirs = from_transformers(copy)
    assert theirs.keys() == from_transformers(tmp_path / "hf").keys()
    # without its model, the stage goes on from its newest checkpoint, on a worker that has nothing of it
    store.rm(f"{root}/model", recursive=True)
    again = dataclasses.replace(remote, folder=str(tmp_path / "elsewhere"))
    assert [line["step"] for line in run(again)] == [1, 2, 3, 4, 5]
    # its curve is that of all five steps, there too
    lines = [json.loads(line) for line in store.cat(f"{root}/metrics.jsonl").decode().splitlines()]
    assert [line["loss"] for line in lines] == [step["loss"] for step in steps]
    assert store.cat(f"{root}/rejected.jsonl").decode() == Path(local.folder, "rejected.jsonl").read_text() != ""
    check()
    marker = read_marker(remote.own_model, s3_bucket.delta_options)
    assert marker is not None and marker["step"] == 5
