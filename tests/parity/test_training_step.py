"""One optimiser step: ours on a packed row against transformers' own model and loss on the padded batch; fp32.

Same weights, samples and AdamW. `eps` is far above rounding, because AdamW divides by it where a gradient is nearly
nothing, and would blow rounding up to a whole step.
"""

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_core.labels import IGNORE_INDEX
from pipelines.training.loader import MicroBatch
from pipelines.training.module import TrainModule
from pipelines.training.optimizer import freeze, make_optimizer
from pipelines.training.stages import Stage
from tests.parity.test_model import any_res, several_images
from tests.parity.transfer import own_name, twin_of
from tests.tiny_models import hf_next, hf_onevision

RATE, EPS, MOST_NORM = 1e-2, 1e-3, 0.5
TOLERANCE = 1e-6
"""Measured: 1.2e-7."""
PARTS = ("vision_tower", "projector", "newline", "language_model")


def packed(inputs: dict[str, Any]) -> MicroBatch:
    """A padded batch as one row."""
    mask = inputs["attention_mask"].bool()
    lengths = mask.sum(dim=1).tolist()
    labels = [row[keep].clone() for row, keep in zip(inputs["labels"], mask, strict=True)]
    for row in labels:
        row[0] = IGNORE_INDEX
    visual = {name: inputs[name] for name in ("pixel_values", "image_sizes", "num_images_per_sample") if name in inputs}
    visual.setdefault("num_images_per_sample", None)
    return MicroBatch(
        samples=(),
        input_ids=inputs["input_ids"][mask][None],
        labels=torch.cat(labels)[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        borders=(0, *accumulate(lengths)),
        visual=visual,
        tower=True,
    )


def step_of_theirs(hf: PreTrainedModel, inputs: dict[str, Any]) -> tuple[float, dict[str, Tensor]]:
    hf.train()
    optimizer = torch.optim.AdamW(hf.parameters(), lr=RATE, eps=EPS, weight_decay=0.0)
    loss = hf(**inputs).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(hf.parameters(), MOST_NORM)
    optimizer.step()
    return loss.item(), {own_name(name): tensor for name, tensor in hf.state_dict().items()}


@pytest.mark.parametrize(
    "make", [lambda: any_res(hf_next()), lambda: any_res(hf_next("mistral")), lambda: several_images(hf_onevision())]
)
def test_one_step_gives_the_parameters_that_transformers_gets(make: Any) -> None:
    case = make()
    model = twin_of(case.hf).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stage = Stage(name="s", learning_rates=dict.fromkeys(PARTS, RATE), batch_size=1, precision="float32", eps=EPS)
    module = TrainModule(model, stage.losses)
    freeze(module, stage)
    optimizer = make_optimizer(module, stage)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]
    sums, counts = module(packed(case.inputs))
    loss = sums[0] / counts[0]
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), MOST_NORM)
    optimizer.step()
    their_loss, theirs = step_of_theirs(
        case.hf, {k: v for k, v in case.hf_inputs.items() if k != "num_images_per_sample"}
    )
    assert loss.item() == pytest.approx(their_loss, abs=2e-6)  # measured 8e-7
    ours = dict(model.state_dict())
    assert ours.keys() == theirs.keys()
    moved = max((ours[name] - before[name]).abs().max().item() for name in ours)
    worst = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
    assert moved > RATE / 2
    assert worst < TOLERANCE, worst
