"""Muon against singular values, torch's own and a hand computation; work shared out; what it is used for."""

from pathlib import Path

import pytest
import torch

from llava_core.checkpoints.load import load_model
from pipelines.training.module import TrainModule
from pipelines.training.muon import Muon, orthogonal, shared_out
from pipelines.training.optimizer import freeze, make_optimizer, moments
from tests.pipelines.training import cases


def groups(*parameters: torch.Tensor, orthogonal: bool = True) -> list[dict[str, object]]:
    names = [str(place) for place in range(len(parameters))]
    return [{"params": list(parameters), "names": names, "orthogonal": orthogonal, "lr": 0.5, "weight_decay": 0.1}]


@pytest.mark.parametrize("shape", [(3, 6, 20), (2, 20, 6), (1, 8, 8)])
def test_singular_vectors_stay_and_values_come_near_one(shape: tuple[int, int, int]) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(given, full_matrices=False)
    made = orthogonal(given)
    # seen from the same singular vectors it is diagonal, with values near 1
    seen = left.mT @ made @ right.mT
    diagonal = seen.diagonal(dim1=-2, dim2=-1)
    far = values > 0.02 * values.amax(-1, keepdim=True)
    assert far.float().mean() > 0.8
    assert diagonal[far].min() > 0.68 and diagonal[far].max() < 1.21
    assert (seen - torch.diag_embed(diagonal)).abs().max() < 1e-4


def test_steps_are_those_of_torchs_muon_but_for_its_bfloat16() -> None:
    draw = torch.Generator().manual_seed(2)
    start = torch.randn(6, 11, generator=draw)
    gradients = [torch.randn(6, 11, generator=draw) for _ in range(4)]
    own, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    mine = Muon(groups(own), lr=0.5, weight_decay=0.1)
    other = torch.optim.Muon(
        [theirs], lr=0.5, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw", nesterov=True
    )
    for gradient in gradients:
        own.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        other.step()
    assert (own - start).abs().max() > 0.5
    assert (own - theirs).abs().max() < 0.03


def test_a_convolution_is_a_matrix_of_all_that_a_channel_sees_and_the_rest_is_adamws() -> None:
    draw = torch.Generator().manual_seed(3)
    kernel = torch.randn(4, 2, 3, 3, generator=draw)
    flat = kernel.reshape(4, 18).clone()
    one, other = torch.nn.Parameter(kernel.clone()), torch.nn.Parameter(flat)
    bias, twin = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    gradient = torch.randn(4, 18, generator=draw)
    one.grad, other.grad = gradient.view_as(kernel).clone(), gradient.clone()
    bias.grad, twin.grad = torch.tensor([0.3, 0.1]), torch.tensor([0.3, 0.1])
    Muon(groups(one) + groups(bias, orthogonal=False), betas=(0.9, 0.98), fused=True).step()
    Muon(groups(other)).step()
    torch.optim.AdamW([twin], lr=0.5, betas=(0.9, 0.98), weight_decay=0.1, fused=True).step()
    assert torch.equal(one.view(4, 18), other) and not torch.equal(one, kernel)
    assert torch.equal(bias, twin)
    assert one.grad is None and bias.grad is not None


def test_work_is_shared_out_by_cost() -> None:
    shapes = [torch.Size(shape) for shape in ((256, 512), (8, 8), (256, 256), (512, 256), (256, 256))]
    owners = shared_out(shapes, 2)
    costs = [min(shape) * shape.numel() for shape in shapes]
    loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(2)]
    assert sum(loads) == sum(costs) and max(loads) - min(loads) == 8**3
    assert shared_out(shapes, 1) == [0] * 5
    assert shared_out([torch.Size((4, 4)), torch.Size((4, 4)), torch.Size((4, 8))], 2) == [1, 1, 0]


def test_it_moves_linear_layers_and_convolutions_and_remembers_one_moment_of_them(tmp_path: Path) -> None:
    one = cases.stage(optimizer="muon")
    module = TrainModule(load_model(cases.write_model(tmp_path)), one.losses)
    freeze(module, one)
    optimizer = make_optimizer(module, one)
    within = {name for group in optimizer.param_groups if group["orthogonal"] for name in group["names"]}
    layer = "model.language_model.model.layers.0."
    assert {f"{layer}self_attn.q_proj.weight", f"{layer}mlp.down_proj.weight"} <= within
    assert {f"model.projector.projector.{n}.weight" for n in (0, 2)} <= within
    assert any(name.startswith("model.image_processor.") for name in within)
    apart = {name for group in optimizer.param_groups if not group["orthogonal"] for name in group["names"]}
    assert {"model.image_newline", "model.language_model.model.embed_tokens.weight"} <= apart
    assert not any("embed_tokens" in name or "lm_head" in name or name.endswith("bias") for name in within)
    kinds: dict[str, set[str]] = {}
    for name, _ in moments(optimizer):
        parameter, _, moment = name.rpartition(".")
        kinds.setdefault(parameter, set()).add(moment)
    assert {name: kinds[name] for name in within} == {name: {"exp_avg"} for name in within}
    assert {name: kinds[name] for name in apart} == {name: {"exp_avg", "exp_avg_sq", "step"} for name in apart}
