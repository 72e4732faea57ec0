"""Attention over one row that holds many sequences, none padded, each seeing only itself.

Registered with transformers as an attention implementation, so that decoder layers, their weights and their rotary
embedding stay transformers' own. Training runs whole sequences with gradients (`block_attention`); the engine, which
also has caches and shared prefixes, builds on the same parts (`engine.attention`).

Legend: T tokens in the row, S keys, H query heads, K key/value heads, D head width.

What this does *not* do: decide which sequences share a row (`pipelines/training/packing`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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
    rows: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each sequence of a row; differentiable.

    Args:
        module: the attention layer; unused.
        query: [1, H, R, D], rotary embedding applied; R is T where all rows ask.
        key: [1, K, T, D], rotary embedding applied.
        value: [1, K, T, D].
        attention_mask: unused; borders say who sees whom.
        borders: 0, then one past the last token of each sequence; the last is T.
        rows: int64[R], in order, the rows that ask, of a query shorter than the keys; None for all.
        scaling: factor of the scores; None for 1/√D.
        sliding_window: how many tokens back a token sees, itself included; None for all.
        dropout: of attention weights.

    Returns:
        [1, R, H, D] and None, as transformers' attention functions return them.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # The gradient of a split is one concatenation; that of slices would be one tensor of zeros for each.
    lengths = [stop - start for start, stop in pairwise(borders)]
    keys, values = (torch.split(tensor[0], lengths, dim=1) for tensor in (key, value))
    attending = partial(attend, scale=scale, window=sliding_window, dropout=dropout)
    if rows is None:
        queries = torch.split(query[0], lengths, dim=1)
        parts = [attending(*mine) for mine in zip(queries, keys, values, strict=True)]
    else:
        places = _by_sequence(rows, borders)
        queries = torch.split(query[0], [len(own) for own in places], dim=1)
        asking = [mine for mine in zip(queries, keys, values, places, strict=True) if len(mine[3])]
        parts = [attending(mine, seen, held, places=own) for mine, seen, held, own in asking]
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return out.transpose(0, 1)[None], None


def _by_sequence(rows: Tensor, borders: Sequence[int]) -> list[Tensor]:
    """Rows int64[R] as places within each sequence, counted from its first token."""
    ends = torch.searchsorted(rows, torch.tensor(borders, device=rows.device)).tolist()
    return [rows[first:last] - start for (first, last), start in zip(pairwise(ends), borders, strict=False)]


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    *,
    places: Tensor | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Causal attention of T tokens over S.

    Args:
        query: [H, T, D].
        keys: [K, S, D], H a multiple of K, S ≥ T.
        values: [K, S, D].
        scale: factor of the scores.
        places: int64[T], where these tokens are among the S; None for the last T.
        window: how many tokens back a token sees, itself included; None for all.
        dropout: of attention weights.

    Returns:
        [H, T, D].
    """
    num_tokens, total = query.shape[1], keys.shape[1]
    windowed = window is not None and total > window
    mask = None
    if windowed or num_tokens != total:
        at = torch.arange(total - num_tokens, total, device=keys.device) if places is None else places
        mask = seen_mask(at, total, window if windowed else None)
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


def seen_mask(places: Tensor, total: int, window: int | None = None) -> Tensor:
    """bool[T, S]: True where tokens at some of S places may look.

    Example:
        >>> seen_mask(torch.tensor([0, 3]), 4, window=2).int().tolist()
        [[1, 0, 0, 0], [0, 0, 1, 1]]
    """
    back = places[:, None] - torch.arange(total, device=places.device)
    return (back >= 0) if window is None else (back >= 0) & (back < window)


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
