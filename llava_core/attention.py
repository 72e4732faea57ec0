"""Attention over one row that holds many sequences, none padded, each seeing only itself.

Registered with transformers as an attention implementation, so that decoder layers, their weights and their rotary
embedding stay transformers' own. Training runs whole sequences with gradients (`block_attention`); the engine, which
also has caches and shared prefixes, builds on the same parts (`engine.attention`).

Legend: T tokens in the row, S keys, H query heads, K key/value heads, D head width.

What this does *not* do: decide which sequences share a row (`pipelines/training/packing`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

BLOCKS = "tessera_blocks"
"""Name under which `block_attention` is registered."""


def block_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    borders: Sequence[int],
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each sequence of a row; differentiable.

    Args:
        module: the attention layer; unused.
        query: [1, H, T, D], rotary embedding applied.
        key: [1, K, T, D], rotary embedding applied.
        value: [1, K, T, D].
        attention_mask: unused; borders say who sees whom.
        borders: 0, then one past the last token of each sequence; the last is T.
        scaling: factor of the scores; None for 1/√D.
        sliding_window: how many tokens back a token sees, itself included; None for all.
        dropout: of attention weights.

    Returns:
        [1, T, H, D] and None, as transformers' attention functions return them.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # The gradient of a split is one concatenation; that of slices would be one tensor of zeros for each.
    lengths = [stop - start for start, stop in pairwise(borders)]
    queries, keys, values = (torch.split(tensor[0], lengths, dim=1) for tensor in (query, key, value))
    parts = [
        attend(*mine, scale, window=sliding_window, dropout=dropout) for mine in zip(queries, keys, values, strict=True)
    ]
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return out.transpose(0, 1)[None], None


def attend(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, *, window: int | None = None, dropout: float = 0.0
) -> Tensor:
    """Causal attention of the last T tokens over S.

    Args:
        query: [H, T, D].
        keys: [K, S, D], H a multiple of K, S ≥ T.
        values: [K, S, D].
        scale: factor of the scores.
        window: how many tokens back a token sees, itself included; None for all.
        dropout: of attention weights.

    Returns:
        [H, T, D].
    """
    num_tokens, total = query.shape[1], keys.shape[1]
    mask = None
    if window is not None and total > window:
        mask = causal_mask(num_tokens, total, keys.device).triu(total - num_tokens - window + 1)
    elif num_tokens != total:
        mask = causal_mask(num_tokens, total, keys.device)
    return scaled_dot_product_attention(
        query[None],
        keys[None],
        values[None],
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=query.shape[0] > keys.shape[0],
    )[0]


def causal_mask(num_tokens: int, total: int, device: torch.device) -> Tensor:
    """bool[T, S]: True where the last T of S tokens may look."""
    return torch.ones(num_tokens, total, dtype=torch.bool, device=device).tril(total - num_tokens)


def no_mask(*_: Any, **__: Any) -> None:
    """Borders say who sees whom, so transformers builds no mask."""


@contextmanager
def attention_by(language_model: nn.Module, implementation: str) -> Iterator[None]:
    """Run a transformers language model's layers with a registered attention implementation inside the block."""
    config = language_model.config.get_text_config()  # type: ignore[operator,union-attr]
    before = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before


def register(name: str, function: Any) -> None:
    """Give transformers an attention function that needs no mask."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, no_mask)


register(BLOCKS, block_attention)
