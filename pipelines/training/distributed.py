"""One module on several workers: FSDP2's sharding, and the few numbers that workers tell one another.

A small module stays whole on every worker, and only its gradients are summed: gathering it layer by layer took longer
than running it (the step of the small model on two CPU cores: 0.65 s sharded, 0.41 s whole). With one worker nothing is
sharded, and nothing is sent. What this does *not* do: start processes or process groups (Ray Train does, or a test).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from pipelines.training.module import TrainModule

WHOLE_BELOW = 100_000_000
"""Modules with fewer parameters stay whole on every worker: weights, gradients and AdamW take 1.6 GB at most."""


def world() -> tuple[int, int]:
    """Rank of this worker, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def shard(module: TrainModule, device: torch.device, *, precision: str) -> None:
    """Move a module to its device in float32, and shard it over the workers, a layer at a time; small ones stay whole.

    Args:
        module: changed in place.
        device: of this worker.
        precision: "bfloat16" gathers and multiplies in it on a GPU; gradients are reduced in float32.
    """
    if world()[1] == 1:
        module.to(device=device, dtype=torch.float32)
        return
    layers: list[nn.Module] = []
    if sum(parameter.numel() for parameter in module.parameters()) < WHOLE_BELOW:
        # FSDP2's hybrid sharding, with shards of one worker.
        mesh = init_device_mesh(device.type, (world()[1], 1), mesh_dim_names=("replicate", "shard"))
    else:
        mesh, layers = init_device_mesh(device.type, (world()[1],)), _layers(module)
    half = precision == "bfloat16" and device.type == "cuda"
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if half else None
    options: dict[str, Any] = {"mesh": mesh, **({"mp_policy": policy} if policy else {})}
    for layer in layers:
        # One at a time: a large model is never whole in float32.
        layer.to(torch.float32)
        fully_shard(layer, **options)
    module.to(torch.float32)
    fully_shard(module, reshard_after_forward=bool(layers), **options)
    # Buffers stay whole on every worker.
    for buffer_owner in module.modules():
        for name, buffer in buffer_owner.named_buffers(recurse=False):
            setattr(buffer_owner, name, buffer.to(device))


def _layers(module: TrainModule) -> list[nn.Module]:
    """Layers of the tower and the language model: what is gathered and freed one after the other."""
    model = module.model
    parts = (model.image_processor, model.language_model)
    lists = [one for part in parts for one in part.modules() if isinstance(one, nn.ModuleList) and len(one)]
    inner = {id(below) for one in lists for below in one.modules() if below is not one}
    return [layer for one in lists if id(one) not in inner for layer in one]


def total_of(values: Tensor, device: torch.device) -> Tensor:
    """Sum a small tensor over all workers; on the CPU, in float64."""
    if world()[1] == 1:
        return values.double().cpu()
    summed = values.double().to(device)
    dist.all_reduce(summed)
    return summed.cpu()


def everyone(value: Any) -> list[Any]:
    """Every worker's value, by rank."""
    size = world()[1]
    if size == 1:
        return [value]
    found: list[Any] = [None] * size
    dist.all_gather_object(found, value)
    return found


def from_first(value: Any) -> Any:
    """The first worker's value."""
    if world()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait for all workers."""
    if world()[1] > 1:
        dist.barrier()


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shards, on every worker; all have to ask for it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def grad_norm(parameters: Sequence[nn.Parameter], most: float | None) -> float:
    """Norm of all gradients over all workers, which are scaled down to `most` where they exceed it.

    Args:
        parameters: that train.
        most: the bound; None scales nothing.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    norm = nn.utils.get_total_norm(gradients)
    full = whole(norm)
    if most is not None:
        nn.utils.clip_grads_with_norm_(list(parameters), most, full)
    return float(full)
