"""Which parameters move, how fast, and how the learning rate rises and falls.

    Stage.learning_rates ─ freeze ─▶ requires_grad ─ parameter_groups ─▶ AdamW, Muon
    rate_at(step) ─▶ lr of each group

What this does *not* do: decide the rates (`recipes`).
"""

import importlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llava_core.errors import ConfigError
from llava_core.model import LLaVANeXT
from pipelines.training.module import TrainModule
from pipelines.training.muon import Muon
from pipelines.training.stages import Part, Stage, part_of

_MODEL, _EXTRA = "model.", "extra."
ADAPTER = "lora_"
"""In the names of adapters' parameters."""


def part_in_module(name: str) -> Part:
    """The part of a parameter of `TrainModule`."""
    return "extra" if name.startswith(_EXTRA) else part_of(name.removeprefix(_MODEL))


def freeze(module: TrainModule, stage: Stage) -> None:
    """Let the stage's parts train, and nothing else.

    Parameters that no loss depends on (the tower's unused layers) stay frozen. With adapters, the language model's own
    weights do.

    Args:
        module: changed in place.
        stage: names the parts.

    Raises:
        ConfigError: a part of the stage has no parameter in this model.
    """
    unused = {id(parameter) for _, parameter in module.model.image_processor.unused_parameters()}
    found: set[Part] = set()
    for name, parameter in module.named_parameters():
        part = part_in_module(name)
        trains = part in stage.trainable and id(parameter) not in unused
        if part == "language_model" and stage.lora is not None:
            trains = trains and ADAPTER in name
        parameter.requires_grad_(trains)
        found |= {part} if trains else set()
    lacking = stage.trainable - found - {"newline"}
    if lacking:
        raise ConfigError(f"stage {stage.name} trains {', '.join(sorted(lacking))}, which this model has not")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices, not to biases, norms or single vectors."""
    return parameter.ndim > 1 and not name.endswith(("bias", "image_start_token", "image_end_token", "image_newline"))


def parameter_groups(module: TrainModule, stage: Stage) -> list[dict[str, Any]]:
    """One group for each part, decay and way of moving, in a fixed order.

    Args:
        module: frozen by `freeze`.
        stage: rates, decay and optimiser.

    Returns:
        As `torch.optim.AdamW` takes them, each with "part", "peak", "orthogonal" and the "names" of its parameters.
    """
    groups: dict[tuple[Part, bool, bool], dict[str, Any]] = {}
    matrices = inner_matrices(module) if stage.optimizer == "muon" else frozenset()
    for name, parameter in trainable(module):
        part, decay, orthogonal = part_in_module(name), decays(name, parameter), id(parameter) in matrices
        group = groups.setdefault(
            (part, decay, orthogonal),
            {
                "params": [],
                "names": [],
                "part": part,
                "orthogonal": orthogonal,
                "peak": stage.learning_rates[part],
                "lr": 0.0,
                "weight_decay": stage.weight_decay if decay else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that train, by name; a tied one once."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def inner_matrices(module: TrainModule) -> frozenset[int]:
    """Ids of the weights of the model's linear layers and convolutions, but for its head.

    What Muon is for; embeddings, places, single vectors and the heads of extra losses stay with AdamW.
    """
    head = module.model.language_model.get_output_embeddings()
    layers = (layer for layer in module.model.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    return frozenset(id(layer.weight) for layer in layers if layer is not head)


def make_optimizer(module: TrainModule, stage: Stage) -> torch.optim.AdamW:
    """The stage's optimiser over its parameters."""
    kind = Muon if stage.optimizer == "muon" else torch.optim.AdamW
    return kind(parameter_groups(module, stage), betas=stage.betas, eps=stage.eps, fused=True)


def moments(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """What an optimiser remembers, as "{parameter}.{moment}"; what it has not made yet is made here, as zeros."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            state = optimizer.state[parameter]
            if not state:
                state["exp_avg"] = torch.zeros_like(parameter.detach())
                if not group["orthogonal"]:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    state["exp_avg_sq"] = torch.zeros_like(parameter.detach())
            yield from ((f"{name}.{key}", value) for key, value in state.items())


def rate_at(step: int, progress: float, stage: Stage, total_steps: float) -> float:
    """Factor of the peak learning rate in a step: linear from 0, then a cosine to 0.

    Args:
        step: steps before this one.
        progress: part of the stage that lies before this step, 0..1; where samples end a stage, of its samples.
        stage: says how long it rises.
        total_steps: steps of the stage, or the best guess.

    Source: the document's `get_lr_schedule`, which is transformers' cosine schedule: the first step has rate 0.

    Example:
        >>> stage = Stage(name="s", learning_rates={"projector": 1.0}, batch_size=1, warmup_steps=2)
        >>> [round(rate_at(n, n / 6, stage, 6), 3) for n in range(7)]
        [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    warmup = float(stage.warmup_steps) if stage.warmup_steps is not None else int(stage.warmup_ratio * total_steps)
    if step < warmup:
        return step / max(1.0, warmup)
    start = min(warmup / total_steps, 1.0) if total_steps else 0.0
    through = (progress - start) / max(1e-9, 1 - start)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * min(max(through, 0.0), 1.0))))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set each group's rate to its peak times a factor, and return the rate of each part."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return {group["part"]: group["lr"] for group in optimizer.param_groups}


def require_peft() -> None:
    """Raise `ConfigError` unless the package that makes adapters is installed."""
    try:
        importlib.import_module("peft")
    except ImportError as error:
        raise ConfigError(f"a stage with lora needs peft ({error}); install 'tessera[lora]'") from error


def add_adapters(model: LLaVANeXT, stage: Stage) -> None:
    """Put adapters into every linear layer of the language model but its head, where the stage asks for them.

    Raises:
        ConfigError: peft is not installed.
    """
    if stage.lora is None:
        return
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    head = model.language_model.get_output_embeddings()
    names = [
        name
        for name, child in model.language_model.named_modules()
        if isinstance(child, nn.Linear) and child is not head
    ]
    lora = stage.lora
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
    inject_adapter_in_model(config, model.language_model)


def merge_adapters(model: LLaVANeXT) -> None:
    """Add adapters into the weights they belong to, and take them out; nothing happens where there are none."""
    for parent in list(model.language_model.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "get_base_layer") and hasattr(child, "merge"):
                child.merge(safe_merge=True)
                setattr(parent, name, child.get_base_layer())
