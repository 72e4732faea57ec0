"""Attention over packed sequences: many requests in one row, none padded, each seeing only itself and its prefix.

Registered with transformers as an attention implementation, so that the decoder layers, their weights, their rotary
embedding and their quantisation stay transformers' own. What a step's rows belong to travels beside them in a
`Step`, through the keyword arguments that transformers' layers pass on.

A prefix that several sequences share (an image and its system prompt) is attended to once for all of them, and merged
with each one's own part through the log-sum-exp of both ("cascade attention").

Legend: T tokens in the row, H query heads, K key/value heads, G = H/K, D head width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from llava_core.attention import attend, attention_by, register
from llava_core.engine.kv import SequenceCache

IMPLEMENTATION = "tessera_packed"


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of one sequence in a step."""

    start: int
    """First row."""
    stop: int
    """Row after the last."""
    cache: SequenceCache
    """Its own keys and values, before this step."""
    prefix: SequenceCache | None = None
    """Keys and values that it shares with others, all before its own."""

    @property
    def num_tokens(self) -> int:
        """Rows in this step."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Step:
    """What the rows of one forward pass belong to."""

    spans: tuple[Span, ...]
    """In row order, without gaps."""
    asked_rows: tuple[int, ...]
    """Those whose logits are asked for: each the last of its span; at least one."""

    def position_ids(self, device: torch.device) -> Tensor:
        """int64[1, T]: each token's place in its own sequence, prefix counted."""
        parts = []
        for span in self.spans:
            first = span.cache.length + (span.prefix.length if span.prefix else 0)
            parts.append(torch.arange(first, first + span.num_tokens, device=device))
        return torch.cat(parts)[None]

    def advance(self) -> None:
        """Count this step's tokens in every cache."""
        for span in self.spans:
            span.cache.advance(span.num_tokens)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    step: Step,
    rows: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each span of a packed row.

    Args:
        module: the attention layer, for its `layer_idx`.
        query: [1, H, T, D], rotary embedding applied; in the last layer [1, H, R, D], of the rows asked for.
        key: [1, K, T, D], rotary embedding applied.
        value: [1, K, T, D].
        attention_mask: unused; spans say who sees whom.
        step: the spans, and the rows asked for.
        rows: given in the last layer, whose queries are those of `step.asked_rows`.
        scaling: factor of the scores; None for 1/√D.
        sliding_window: how many tokens back a token sees, itself included; None for all.

    Returns:
        [1, T, H, D], or [1, R, H, D], and None, as transformers' attention functions return them.
    """
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    asked = None if rows is None else {row: place for place, row in enumerate(step.asked_rows)}
    out = torch.empty_like(query[0])
    sharing: dict[int, list[_Shared]] = {}
    for span in step.spans:
        written = slice(span.start, span.stop)
        keys, values = span.cache.write(layer, key[0, :, written], value[0, :, written])
        at = written
        if asked is not None:
            if span.stop - 1 not in asked:
                continue
            at = slice(asked[span.stop - 1], asked[span.stop - 1] + 1)
        mine = query[0, :, at]
        total = keys.shape[1] + (span.prefix.length if span.prefix else 0)
        if sliding_window is not None and total > sliding_window:
            out[:, at] = _windowed(mine, keys, values, span.prefix, layer, scale, sliding_window)
        elif span.prefix is None:
            out[:, at] = _attend(mine, keys, values, scale)
        else:
            own = _attend_with_lse(mine, keys, values, scale)
            sharing.setdefault(id(span.prefix), []).append(_Shared(span.prefix, at, mine, own))
    for sharers in sharing.values():
        _merge_prefix(sharers, layer, scale, out)
    return out.transpose(0, 1)[None], None


@dataclass(frozen=True, slots=True)
class _Shared:
    """What one span of a shared prefix has seen of itself."""

    prefix: SequenceCache
    rows: slice
    query: Tensor
    own: tuple[Tensor, Tensor]


def _attend(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """[H, T, D] of the last T tokens over [K, S, D], causal."""
    heads, num_tokens, width = query.shape
    if num_tokens == 1:
        grouped = query.reshape(1, keys.shape[0], -1, width)
        attended = scaled_dot_product_attention(grouped, keys[None], values[None], scale=scale)
        return attended.reshape(heads, 1, width)
    if num_tokens < keys.shape[1]:
        return _attend_with_lse(query, keys, values, scale)[0]
    return attend(query, _to_query_heads(keys, heads), _to_query_heads(values, heads), scale)


def _attend_with_lse(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Like `_attend`, with the log-sum-exp float32[H, T] of its scores."""
    heads, num_tokens, _ = query.shape
    if num_tokens == 1:
        return _attend_all(query, keys, values, scale)
    past = keys.shape[1] - num_tokens
    own_keys, own_values = _to_query_heads(keys[:, past:], heads), _to_query_heads(values[:, past:], heads)
    own = _flash(query, own_keys, own_values, scale, causal=True)
    return own if past == 0 else merge_by_lse(*_attend_all(query, keys[:, :past], values[:, :past], scale), *own)


def _attend_all(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """[H, T, D] over all of [K, S, D], with the log-sum-exp float32[H, T].

    Every row sees every key, so the G query heads of a key/value head are just more rows of it.
    """
    out, lse = _flash(query.reshape(keys.shape[0], -1, query.shape[-1]), keys, values, scale, causal=False)
    return out.reshape(query.shape), lse.reshape(query.shape[:2])


def _to_query_heads(states: Tensor, num_heads: int) -> Tensor:
    """[H, S, D] of [K, S, D]: a copy for each query head, over which the causal kernel is a fifth faster (measured)."""
    return states.repeat_interleave(num_heads // states.shape[0], 0)


def _flash(query: Tensor, keys: Tensor, values: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention [H, T, D] and log-sum-exp [H, T] by the device's own fused kernel."""
    states = query[None], keys[None], values[None]
    if query.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*states, 0.0, causal, scale=scale)
    elif has_flash_kernel(query.dtype, torch.cuda.get_device_capability(query.device)):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(*states, 0.0, causal, scale=scale)[:2]
    else:
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        out, lse = efficient(*states, None, True, 0.0, causal, scale=scale)[:2]
        lse = lse[:, :, : query.shape[1]]  # that kernel fills its rows up
    return out[0], lse[0]


def has_flash_kernel(dtype: torch.dtype, capability: tuple[int, int]) -> bool:
    """Whether the flash kernel of CUDA takes a dtype on a GPU of a compute capability.

    Example:
        >>> has_flash_kernel(torch.bfloat16, (9, 0)), has_flash_kernel(torch.float16, (7, 5))
        (True, False)
    """
    return dtype in (torch.float16, torch.bfloat16) and capability >= (8, 0)


def _merge_prefix(sharers: Sequence[_Shared], layer: int, scale: float, out: Tensor) -> None:
    """Attend to a shared prefix once for all its spans, and merge with what each span saw of itself."""
    prefix = sharers[0].prefix
    keys, values = prefix.keys[layer, :, : prefix.length], prefix.values[layer, :, : prefix.length]
    seen, lse = _attend_all(torch.cat([one.query for one in sharers], dim=1), keys, values, scale)
    at = 0
    for one in sharers:
        part = slice(at, at := at + one.query.shape[1])
        out[:, one.rows] = merge_by_lse(seen[:, part], lse[:, part], *one.own)[0]


def merge_by_lse(first: Tensor, first_lse: Tensor, second: Tensor, second_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys, from the attention over each.

    Args:
        first: [H, T, D] over one set; `first_lse` float[H, T], the log-sum-exp of its scores.
        second: the same over the other set.

    Returns:
        [H, T, D] over both, and the log-sum-exp [H, T] of all scores.

    Source: the merge of partial softmaxes, as in FlashAttention (arXiv 2205.14135, section 3.1).
    """
    weight = torch.sigmoid(first_lse - second_lse)[..., None].to(first.dtype)
    return torch.lerp(second, first, weight), torch.logaddexp(first_lse, second_lse)


def _windowed(
    query: Tensor, keys: Tensor, values: Tensor, prefix: SequenceCache | None, layer: int, scale: float, window: int
) -> Tensor:
    """Attention of the last T tokens where each sees only `window` tokens back, itself included."""
    if prefix is not None:
        keys = torch.cat([prefix.keys[layer, :, : prefix.length], keys], dim=1)
        values = torch.cat([prefix.values[layer, :, : prefix.length], values], dim=1)
    return attend(query, keys, values, scale, window=window)


register(IMPLEMENTATION, packed_attention)


@contextmanager
def packed(language_model: nn.Module) -> Iterator[None]:
    """Run a transformers language model's layers with packed attention inside the block."""
    with attention_by(language_model, IMPLEMENTATION):
        yield
