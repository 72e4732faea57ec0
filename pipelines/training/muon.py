"""Muon: the matrices within a network move by their momentum made orthogonal, everything else by AdamW.

    gradient ─ momentum ─▶ M [rows, columns] ─ Newton-Schulz ─▶ U Vᵀ about, of M = U S Vᵀ ─ × 0.2 √max(rows, columns) ─▶

The factor gives an update the size of AdamW's, so that a stage's learning rates and decay stay as they are. Matrices
are shared out: each worker makes some orthogonal, and all get all of them.

`torch.optim.Muon` works in bfloat16, which most CPUs emulate, on matrices that no sharding has cut, and every worker
does all the work. What this does *not* do: say which parameters are such matrices (`optimizer`).
Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the factor from Liu et al.,
arXiv 2502.16982.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from pipelines.training.distributed import whole, world

MOMENTUM = 0.95
"""Share of the momentum that a step keeps."""
NUM_ITERATIONS = 5
"""Of Newton-Schulz."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of a singular value, of its third and of its fifth power: any in 0..1 is brought near 1."""
UPDATE_RMS = 0.2
"""Root mean square of an update at rate 1, about that of AdamW's."""


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors and all singular values near 1, by Newton-Schulz.

    Args:
        matrices: float[n, rows, columns].

    Returns:
        As many; singular values lie in 0.68..1.21, but for those below a two-hundredth of their matrix's norm, which
        are less.

    Example:
        >>> given = torch.diag(torch.tensor([3.0, -1.0, 0.3]))
        >>> [round(value, 1) for value in orthogonal(given[None])[0].diagonal().tolist()]
        [0.8, -1.1, 0.7]
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    first, third, fifth = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return x.mT if tall else x


def shared_out(shapes: Sequence[torch.Size], num_workers: int) -> list[int]:
    """Which worker makes which matrix orthogonal: the costliest first, each to whom has the least.

    Args:
        shapes: [rows, columns] of each.
        num_workers: there are.

    Example:
        >>> shared_out([torch.Size((4, 4)), torch.Size((4, 8)), torch.Size((4, 4))], 2)
        [1, 0, 1]
    """
    costs = [min(shape) * math.prod(shape) for shape in shapes]
    loads = [0] * num_workers
    owners = [0] * len(shapes)
    for place in sorted(range(len(shapes)), key=lambda place: -costs[place]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += costs[place]
    return owners


class Muon(torch.optim.AdamW):
    """Muon for the groups that say "orthogonal", AdamW for the others.

    The state of a parameter of such a group is its momentum, "exp_avg"; convolutions are matrices of all that one
    output channel sees.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient.

        Args:
            closure: there is none; gradients are there already.
        """
        moving = [
            (group, parameter)
            for group in self.param_groups
            if group["orthogonal"]
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        updates = _all_orthogonal([self._direction(parameter).flatten(1) for _, parameter in moving])
        for (group, parameter), update in zip(moving, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            size = UPDATE_RMS * math.sqrt(max(update.shape))
            parameter.add_(_as_sharded(update.view(parameter.shape), parameter), alpha=-group["lr"] * size)
            # Done; AdamW leaves parameters without a gradient as they are.
            parameter.grad = None
        super().step()

    def _direction(self, parameter: Tensor) -> Tensor:
        """Momentum as it will be after one more such step (Nesterov), on all of a parameter; the state moves on."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        momentum: Tensor = state["exp_avg"].lerp_(parameter.grad, 1 - MOMENTUM)
        return whole(parameter.grad.lerp(momentum, MOMENTUM))


def _all_orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """All of some matrices made orthogonal, on every worker, each by one."""
    rank, num_workers = world()
    owners = shared_out([matrix.shape for matrix in matrices], num_workers)
    found = [torch.zeros_like(matrix) for matrix in matrices]
    own: dict[torch.Size, list[int]] = {}
    for place, owner in enumerate(owners):
        if owner == rank:
            own.setdefault(matrices[place].shape, []).append(place)
    for places in own.values():
        for place, made in zip(places, orthogonal(torch.stack([matrices[place] for place in places])), strict=True):
            found[place] = made
    if num_workers == 1 or not found:
        return found
    # Each is zero on all workers but one.
    flat = torch.cat([matrix.flatten() for matrix in found])
    dist.all_reduce(flat)
    parts = torch.split(flat, [matrix.numel() for matrix in found])
    return [part.view(matrix.shape) for part, matrix in zip(parts, found, strict=True)]


def _as_sharded(update: Tensor, parameter: Tensor) -> Tensor:
    """This worker's part of a whole update, where the parameter is sharded."""
    if not isinstance(parameter, DTensor):
        return update
    mesh = parameter.device_mesh
    return DTensor.from_local(update, mesh, [Replicate()] * mesh.ndim, run_check=False).redistribute(
        mesh, parameter.placements
    )
