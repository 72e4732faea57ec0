"""Watching a stage: what each step came to, as scalars and lines; and the alarm for losses that are no good.

    metrics.jsonl  one object for each step      tensorboard/  the same as scalars      rejected.jsonl  unusable samples

What this does *not* do: draw curves (`report`), show a bar (`progress`).
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pipelines.training.errors import TrainingStopped
from pipelines.training.packing import Cost
from pipelines.training.samples import Sample, Unusable
from pipelines.training.stages import Stage

log = logging.getLogger(__name__)

SPIKE = 10.0
"""A loss of so many times the running median is a spike."""
_MEDIAN_OF, _LEAST = 64, 16
METRICS, REJECTED = "metrics.jsonl", "rejected.jsonl"
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12, "V100": 125e12}
"""Dense 16-bit operations a second, from NVIDIA's data sheets, by a word of the device's name."""


class Alarm:
    """Tells losses that are no good from others; the same on every worker, because the loss is.

    Args:
        recent: losses of the steps before, from a checkpoint.
    """

    def __init__(self, recent: Sequence[float] = ()) -> None:
        self.recent = list(recent)

    def check(self, step: int, loss: float, norm: float, uids: Sequence[str], checkpoints: str) -> None:
        """Note a loss, or stop.

        Args:
            step: number of the step.
            loss: of the whole step.
            norm: of its gradients.
            uids: of its samples.
            checkpoints: where the last good one is.

        Raises:
            TrainingStopped: the loss or the norm is no number, or the loss is a spike; the step was not taken.
        """
        usual = median(self.recent) if len(self.recent) >= _LEAST else None
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = f"the loss is {loss} and the norm of the gradients {norm}"
        elif usual is not None and loss > SPIKE * usual:
            what = f"the loss is {loss:.4g}, {loss / usual:.0f} times its running median {usual:.4g}"
        else:
            self.recent = [*self.recent, loss][-_MEDIAN_OF:]
            return
        raise TrainingStopped(
            f"step {step}: {what}; samples {', '.join(uids)}. The step was not taken; the last good checkpoint is in "
            f"{checkpoints}. Look at these samples; to go on without those that are wrong, run the command again with "
            "--skip and their ids. For another learning rate give another --output"
        )


class Meter:
    """Writes what the first worker sees of a stage.

    Args:
        folder: local.
        step: step that training goes on from; later lines, of an attempt that was lost, are taken out.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        for name in (METRICS, REJECTED):
            _cut(folder / name, step)
        self._lines = (folder / METRICS).open("a", encoding="utf-8")
        self._rejected = (folder / REJECTED).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step if step else None)

    def write(self, values: Mapping[str, Any]) -> None:
        """Write one step's values; "step" is among them."""
        self._lines.write(json.dumps(dict(values)) + "\n")
        self._lines.flush()
        for name, value in values.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(name, value, values["step"])

    def reject(self, step: int, lost: Sequence[Unusable]) -> None:
        """Write the samples that could not be used in a step, with their reasons."""
        for one in lost:
            log.warning("sample %s is not used: %s (%s)", one.uid, one.reason, one.detail)
            line = {"step": step, "uid": one.uid, "reason": one.reason, "detail": one.detail}
            self._rejected.write(json.dumps(line) + "\n")
        self._rejected.flush()

    def close(self) -> None:
        """Write what is left."""
        for file in (self._lines, self._rejected, self._board):
            file.close()


def _cut(path: Path, step: int) -> None:
    """Keep the lines of steps up to the one that training goes on from."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def step_flops(samples: Sequence[Sample], cost: Cost, stage: Stage) -> float:
    """Operations that a step's forward and backward passes need, without those that checkpointing repeats.

    Args:
        samples: of the step.
        cost: of the forward pass.
        stage: a part that trains costs three forward passes (activations' and weights' gradients); a frozen one that
            gradients go through two; a frozen tower one, because nothing before it trains.

    Returns:
        Floating-point operations.
    """
    tower = 3.0 if "vision_tower" in stage.trainable else 1.0
    text = 3.0 if "language_model" in stage.trainable and stage.lora is None else 2.0
    return sum(tower * cost.per_tile * sample.num_tiles + text * cost.text(sample) for sample in samples)


def peak_flops(device: torch.device) -> float | None:
    """Operations a second that the device can do at most; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for word, peak in PEAK_FLOPS.items() if word in name), None)
