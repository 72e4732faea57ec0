"""Linear layers over a few rows on a CPU, as decoding asks for them: one row for each request that is alive.

The CPU's product is written for many rows. With the operands in each other's places it reads the same weight once,
as before, and works on up to eight rows at a time; values are the same but for the order of their sums.

    rows[R, K] · weight[N, K]ᵀ    becomes    (weight[N, K] · rows[R, K]ᵀ)ᵀ

`benchmarks/few_rows.py` measures both. On two cores (AMD EPYC), all products of one token of a language model of
512 × 8 with its head of 32,064 take 31, 42, 49, 58 and 78 ms as usual for 2, 4, 8, 16 and 32 rows; with the operands
in each other's places 16, 17, 25, 39 and 61.

What this does *not* do: attention (`attention`); products of a tower, whose rows are many, and of quantised layers.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

MOST_ROWS = 64
"""From some hundred rows on, the usual product is as fast and leaves its result in the order that layers read."""
ROWS_AT_ONCE = 8
"""So many share one reading of the weight; between this and twice as many, two readings are faster (measured)."""


def speed_up_few_rows(model: nn.Module) -> None:
    """Let the float32 linear layers of a model on a CPU take few rows as above; changed in place, weights untouched.

    Args:
        model: a language model; on an accelerator, or in another precision, it stays as it is.
    """
    for module in model.modules():
        # A subclass, as of quantised weights, has a product of its own.
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _forward(layer: nn.Linear, hidden: Tensor) -> Tensor:
    """float[..., K] to float[..., N]."""
    count = hidden.numel() // layer.in_features
    if not 1 < count <= MOST_ROWS:  # one row alone is a product of another kind, and fast
        return linear(hidden, layer.weight, layer.bias)
    rows = hidden.reshape(count, -1)
    if ROWS_AT_ONCE < count < 2 * ROWS_AT_ONCE:
        out = torch.cat([_turned(layer.weight, part) for part in torch.split(rows, ROWS_AT_ONCE)])
    else:
        out = _turned(layer.weight, rows)
    if layer.bias is not None:
        out = out + layer.bias
    return out.reshape(*hidden.shape[:-1], -1)


def _turned(weight: Tensor, rows: Tensor) -> Tensor:
    """float[R, N] of weight[N, K] and rows[R, K], in the usual order in memory: layers that follow read it so."""
    return (weight @ rows.contiguous().t()).t().contiguous()
