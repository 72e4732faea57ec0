"""Model FLOPs utilisation of stage 3 at 7B shapes on one GPU: CLIP-L and Mistral-7B, random weights, LoRA, bfloat16.

    python benchmarks/gpu_training.py [--rehearse]

A stage as `jobs/train.py` runs it: photos of five tiles, answers of about 200 tokens, rows of 8,192 tokens, decoding
included; the tower, projector and adapters train. Operations are counted by `watch.step_flops` (MFU = operations that
the forward and backward passes need, the tower's tiles among them and those that are repeated not, over seconds and the
device's dense 16-bit peak); the median of the steps after the first ones. What is measured is kept in
`benchmarks/results`. Without a GPU it says so; `--rehearse` runs the same on a CPU at small shapes, and claims nothing.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from models import REAL_TEXT, REAL_TOWER, five_tiles, write_model
from report import keep, report
from train_throughput import TEXT, TOWER

from pipelines.training.loop import StageWork, run_stage
from pipelines.training.sources import index_inputs
from pipelines.training.stages import LoraConfig, Stage

CLAIM, BAR = "model FLOPs utilisation of stage 3 at 7B shapes, LoRA, bfloat16", ">= 45"
BATCH, STEPS, WARM = 8, 12, 4
ANSWER = "It shows a photograph of something that a museum keeps. " * 4


def write_data(folder: Path, count: int, tile: int) -> str:
    """LLaVA JSON of photos that become five tiles."""
    rows = []
    for number, data in enumerate(five_tiles(count, tile)):
        (folder / f"{number}.jpg").write_bytes(data)
        turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": ANSWER.strip()}]
        rows.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(rows))
    return str(folder / "data.json")


def train(folder: Path, model: Path, data: str, device: torch.device) -> list[dict[str, Any]]:
    """Measure some steps; their metrics."""
    stage = Stage(
        name="highres",
        learning_rates={"vision_tower": 2e-6, "projector": 2e-5, "newline": 2e-5, "language_model": 2e-4},
        batch_size=BATCH,
        row_tokens=8192,
        lora=LoraConfig(),
    )
    work = StageWork(
        stage=stage,
        number=2,
        model=str(model),
        inputs=index_inputs([data]),
        output=str(folder / "out"),
        folder=str(folder / "out"),
        identity="benchmark",
        seed=0,
        measure=STEPS,
        checkpoint_steps=10_000,
    )
    run_stage(work, device)
    return [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]


def main() -> int:
    """Measure where there is a GPU, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="small shapes on the CPU; nothing is claimed")
    rehearse = parser.parse_args().rehearse
    if not rehearse and not torch.cuda.is_available():
        report(CLAIM, None, "%", BAR, "needs a CUDA device; torch sees none here")
        return 0
    device = "cpu" if rehearse else "cuda"
    tower, text, tile = (TOWER, TEXT, 112) if rehearse else (REAL_TOWER, REAL_TEXT, 336)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        written, _ = write_model(folder / "model", tower, text, tile, device=device, dtype=torch.bfloat16)
        del written
        data = write_data(folder, BATCH * STEPS, tile)
        steps = train(folder, folder / "model", data, torch.device(device))[WARM:]
    per_second = statistics.median(step["tflops"] for step in steps)
    wait = statistics.median(step["data_wait"] for step in steps)
    rate = statistics.median(step["images_per_s"] for step in steps)
    print(f"{per_second:.3f} TFLOP/s, {rate:.2f} images/s, {100 * wait:.1f} % of the step waits for data")
    if rehearse:
        return 0
    if "mfu" not in steps[0]:
        report(CLAIM, None, "%", BAR, f"the peak of {torch.cuda.get_device_name(0)} is not in watch.PEAK_FLOPS")
        return 0
    mfu = 100 * statistics.median(step["mfu"] for step in steps)
    holds = report(CLAIM, mfu, "%", BAR, "the device's dense 16-bit peak")
    print(f"kept in {keep('gpu_training')}")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
