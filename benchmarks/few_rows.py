"""All products of one decoding step for a few requests at once, against the same layers' usual product.

python benchmarks/few_rows.py

The language model of the engine's benchmarks; attention is left out, which both sides share. Which way is the faster
depends on the processor, so this is the first thing to run on a new one: `llava_core.engine.few_rows` chose its limits
by it.
"""

import statistics
import sys
import time

import torch
from models import TEXT
from report import report
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from llava_core.engine.few_rows import MOST_ROWS, speed_up_few_rows

ROWS = (1, 2, 4, 8, 12, 16, 32, MOST_ROWS)
SHOWN = 8
REPEATS = 9


def step_seconds(sides: tuple[list[nn.Linear], ...], rows: int) -> list[float]:
    """Median time of each side's products over so many rows; the sides take turns."""
    inputs: dict[int, Tensor] = {layer.in_features: torch.randn(1, rows, layer.in_features) for layer in sides[0]}
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(REPEATS):
        for layers, taken in zip(sides, times, strict=True):
            started = time.perf_counter()
            for layer in layers:
                layer(inputs[layer.in_features])
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in times]


def main() -> int:
    """Measure, print the milliseconds of each number of rows, and report."""
    usual, turned = (LlamaForCausalLM(LlamaConfig(**TEXT)) for _ in range(2))
    speed_up_few_rows(turned)
    sides = tuple([layer for layer in side.modules() if isinstance(layer, nn.Linear)] for side in (usual, turned))
    ratios = {}
    with torch.inference_mode():
        for rows in ROWS:
            theirs, ours = step_seconds(sides, rows)
            ratios[rows] = theirs / ours
            print(f"{rows:3} rows: {theirs * 1e3:6.1f} ms usual, {ours * 1e3:6.1f} ms turned, {ratios[rows]:.2f} x")
    peer = f"torch's product, {torch.get_num_threads()} threads"
    report(f"products of a decoding step of {SHOWN} requests", ratios[SHOWN], "x", "", peer)
    least = f"the same, least of {', '.join(map(str, ROWS[:-1]))} and {ROWS[-1]} requests"
    return 0 if report(least, min(ratios.values()), "x", ">= 0.9", peer) else 1


if __name__ == "__main__":
    sys.exit(main())
