"""Training throughput: packed rows of `pipelines.training` against transformers' `Trainer` on padded batches.

Same weights (LlavaNext of about 6 M parameters, tiles of 112 pixels), same samples in every step, same precision
(bfloat16 autocast where the CPU multiplies it, else float32, since emulated it takes four times as long), AdamW, all
parts training; photos of mixed resolutions and aspect ratios, answers of mixed lengths. The vocabulary is small, so
that logits, of which we make only those of targets, have the share that they have in a 7B. Rates are image and answer
tokens a second over whole steps, data loading included; the first step of each run is left out. Ours runs a worker of
one thread on each core. transformers runs its `LlavaNextProcessor` with the PIL image processor: in one process on all
cores, with and without a loader process, and in a process of one thread on each core (DDP); the best of them counts.
Also: the share of non-padding tokens, and how fast loading alone would feed the step.
"""

import io
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from models import photos, size_in_millions, write_model
from PIL import Image
from report import keep_cores, report
from transformers import (
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from llava_core.processor import LLaVAProcessor
from pipelines.training.data import Cursor, StepStream
from pipelines.training.loader import Loader
from pipelines.training.loop import StageWork, run_stage
from pipelines.training.packing import cost_of
from pipelines.training.samples import Sample, Sampler
from pipelines.training.sources import index_inputs, open_source
from pipelines.training.stages import Part, Stage

TILE, SAMPLES, BATCH, ROUNDS = 112, 64, 8, 2
CORES = 2
"""That both sides have, whatever the machine has."""
TOWER = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 3}
TEXT = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 320,
}
NATIVE_BF16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
PRECISION: Literal["float32", "bfloat16"] = "bfloat16" if NATIVE_BF16 else "float32"
PARTS: tuple[Part, ...] = ("vision_tower", "projector", "newline", "language_model")


def write_data(folder: Path) -> str:
    """LLaVA JSON of photos between 100 and 530 pixels, with answers of 10 to 300 characters."""
    rng = np.random.default_rng(1)
    rows = []
    for number, data in enumerate(photos(SAMPLES)):
        image = Image.open(io.BytesIO(data))
        image.resize((max(image.width // 3, 1), max(image.height // 3, 1))).save(folder / f"{number}.jpg", quality=90)
        answer = "It shows a photograph. " * int(rng.integers(1, 14))
        turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": answer.strip()}]
        rows.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(rows))
    return str(folder / "data.json")


def stage() -> Stage:
    """What both sides train."""
    return Stage(
        name="all", learning_rates=dict.fromkeys(PARTS, 1e-4), batch_size=BATCH, row_tokens=4096, precision=PRECISION
    )


def stream(model: Path, data: str) -> tuple[StepStream, LLaVAProcessor]:
    """The samples in their order, which transformers' side follows too."""
    processor = LLaVAProcessor.from_pretrained(model)
    sources = [open_source(index_inputs([data])[0])]
    sampler = Sampler(processor, stage())
    return StepStream(sources, (), sampler, batch_size=BATCH, epochs=1.0, seed=0), processor


def on_each_core(run: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a process of one thread on each core, as one gloo group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_of_group, args=(rank, port, run, *arguments)) for rank in range(CORES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"exit codes of {run.__name__}: {[process.exitcode for process in processes]}")


def _of_group(rank: int, port: int, run: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": CORES, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    dist.init_process_group("gloo")
    run(*arguments)
    dist.destroy_process_group()


def ours(model: Path, data: str, output: Path) -> list[dict[str, Any]]:
    """Train a stage as a worker on each core does; the metrics of each step but the first."""
    on_each_core(_train, model, data, output)
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()][1:]


def _train(model: Path, data: str, output: Path) -> None:
    work = StageWork(
        stage=stage(),
        number=0,
        model=str(model),
        inputs=index_inputs([data]),
        output=str(output),
        folder=str(output),
        identity="benchmark",
        seed=0,
        checkpoint_steps=10_000,
    )
    run_stage(work, torch.device("cpu"))


class StepClock(TrainerCallback):
    """Notes when each step of a `Trainer` ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def theirs_on_each_core(model: Path, data: str, output: Path) -> None:
    """Train the same samples with `Trainer` under DDP; the first process writes what its steps took."""
    steps, _ = stream(model, data)
    samples = [sample for chosen, _, _ in steps.steps(Cursor()) for sample in chosen]
    seconds, share = theirs(model, samples, 0, output)
    if dist.get_rank() == 0:
        (output / "seconds.json").write_text(json.dumps([seconds, share]))


def theirs(model: Path, samples: list[Sample], workers: int, output: Path) -> tuple[list[float], float]:
    """Train the same samples with `Trainer`: seconds of each step but the first, and the share that is no padding."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    processor = LlavaNextProcessor.from_pretrained(model, backend="pil")
    tokens = [0, 0]

    def collate(chosen: list[Sample]) -> dict[str, torch.Tensor]:
        images = [Image.open(io.BytesIO(sample.row.load()[0])).convert("RGB") for sample in chosen]
        texts = [
            processor.tokenizer.decode(_collapsed(sample, processor), skip_special_tokens=False) for sample in chosen
        ]
        inputs = processor(
            images=images, text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        )
        labels = torch.full_like(inputs["input_ids"], -100)
        for row, sample in zip(labels, chosen, strict=True):
            row[: sample.num_tokens] = torch.tensor(sample.labels)
        for row, sample in zip(inputs["input_ids"], chosen, strict=True):
            if row[: sample.num_tokens].tolist() != list(sample.input_ids):
                raise RuntimeError(f"sample {sample.row.uid} has other ids on transformers' side")
        tokens[0] += int(inputs["attention_mask"].sum())
        tokens[1] += inputs["attention_mask"].numel()
        return {**inputs, "labels": labels}

    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=BATCH // size,
        num_train_epochs=1,
        learning_rate=1e-4,
        use_cpu=True,
        bf16=NATIVE_BF16,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=workers,
        train_sampling_strategy="sequential",
        disable_tqdm=True,
        weight_decay=0.0,
        ddp_backend="gloo" if size > 1 else None,
    )
    clock = StepClock()
    hf = LlavaNextForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    Trainer(model=hf, args=arguments, train_dataset=samples, data_collator=collate, callbacks=[clock]).train()
    return np.diff(clock.ends).tolist(), tokens[0] / max(tokens[1], 1)


def _collapsed(sample: Sample, processor: LlavaNextProcessor) -> list[int]:
    """Ids with one placeholder for each image, as transformers' processor wants them."""
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    ids = list(sample.input_ids)
    return [token for at, token in enumerate(ids) if token != image or at == 0 or ids[at - 1] != image]


def main() -> int:
    """Measure both sides in turn, and report."""
    keep_cores(CORES)
    torch.set_num_threads(CORES)
    ddp = f"Trainer, {CORES} processes"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = folder / "model"
        built, _ = write_model(model, TOWER, TEXT, TILE)
        print(f"{size_in_millions(built):.1f} M parameters, {torch.get_num_threads()} threads")
        data = write_data(folder)
        steps, processor = stream(model, data)
        samples = [sample for chosen, _, _ in steps.steps(Cursor()) for sample in chosen]
        assert len(samples) == SAMPLES
        image = processor.config.image_token_id
        counted = sum(s.input_ids.count(image) + s.num_targets for s in samples[BATCH:])
        times: dict[str, list[float]] = {"ours": [], "Trainer": [], "Trainer, a loader process": [], ddp: []}
        lines: list[dict[str, Any]] = []
        shares: dict[str, float] = {}
        for number in range(ROUNDS):
            mine = ours(model, data, folder / f"ours{number}")
            lines += mine
            times["ours"].append(sum(line["seconds"] for line in mine))
            for workers, name in ((0, "Trainer"), (1, "Trainer, a loader process")):
                seconds, share = theirs(model, samples, workers, folder / f"theirs{number}")
                times[name].append(sum(seconds))
                # a loader process keeps its counts; it makes the same batches
                shares[name] = share or shares["Trainer"]
            output = folder / f"ddp{number}"
            output.mkdir()
            on_each_core(theirs_on_each_core, model, data, output)
            seconds, shares[ddp] = json.loads((output / "seconds.json").read_text())
            times[ddp].append(sum(seconds))
            print({name: f"{counted / seconds[-1]:.0f} tokens/s" for name, seconds in times.items()}, flush=True)
        began = time.perf_counter()
        layers = 5
        loader = Loader(steps, processor, cost_of(processor.config, layers), rank=0, world_size=1)
        loaded = sum(len(step.uids) for step in loader.steps(Cursor()))
        loading = loaded / (time.perf_counter() - began)
    best = min((name for name in times if name != "ours"), key=lambda name: min(times[name]))
    consumed = (SAMPLES - BATCH) / min(times["ours"])
    wait = sum(line["data_wait"] * line["seconds"] for line in lines) / sum(line["seconds"] for line in lines)
    filled = sum(line["non_padding"] for line in lines) / len(lines)
    peer = f"transformers {best}, {PRECISION}, {100 * shares[best]:.0f} % non-padding"
    claim = "training, image and answer tokens/s on mixed resolutions"
    holds = [
        report(claim, min(times[best]) / min(times["ours"]), "x", ">= 2", peer),
        report("tokens of training rows that are no padding", 100 * filled, "%", ">= 95", "all tokens of the rows"),
        report("loading alone against what the training step consumes", loading / consumed, "x", ">= 10", "the step"),
        report("training step's time spent waiting for data", 100 * wait, "%", "<= 2", "the whole step"),
    ]
    return int(not all(holds))


if __name__ == "__main__":
    sys.exit(main())
