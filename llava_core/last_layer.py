"""The last layer of a language model, run for the rows that are asked for: of others it makes keys and values alone.

    hidden [1, T, D] ─ keys, values of all rows ─┐
                     ─ rows asked for ───────────┴▶ attention ─▶ MLP ─▶ [1, R, D] ─ norm, head ─▶ logits of R rows

Training asks for the rows before targets, a tenth of an image's conversation, and the engine for the last of a prompt;
no result changes, nor any gradient. The layer's parts, and its attention with all its settings, stay transformers' own.
Legend: T tokens in the row, R rows asked for, D width.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import rotate_half

from llava_core.engine.choice import PROVEN


def runs_asked_rows(model_type: str) -> bool:
    """Whether the last layer of a language model is built as `run_asked_rows` takes it."""
    return model_type in PROVEN


def run_asked_rows(language_model: nn.Module) -> None:
    """Let a language model take `asked_rows` in its forward pass, int64[R] in order: it returns their logits alone.

    Without them it does what it did. Its attention implementation must take `rows` (`attention.block_attention`).

    Args:
        language_model: transformers' Llama, Mistral or Qwen2, whose layers are built alike; changed in place.
    """
    last: Any = language_model.model.layers[-1]  # type: ignore[union-attr,index]
    # Not the class's: a layer that is sharded or checkpointed calls the instance's own.
    last.forward = partial(_forward, last, last.forward)


def _forward(
    layer: Any, whole: Any, hidden_states: Tensor, *, asked_rows: Tensor | None = None, **options: Any
) -> Tensor:
    """The layer on float[1, T, D]: all of it, or float[1, R, D] of some rows."""
    if asked_rows is not None:
        return forward_asked_rows(layer, hidden_states, asked_rows, **options)
    result: Tensor = whole(hidden_states, **options)
    return result


def forward_asked_rows(
    layer: Any, hidden: Tensor, asked_rows: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **options: Any
) -> Tensor:
    """Run a layer for some rows, which see the keys and values of all.

    Args:
        layer: of transformers' Llama, Mistral or Qwen2. Its attention implementation is told of `rows`.
        hidden: float[1, T, D].
        asked_rows: int64[R], in order; at least one.
        position_embeddings: cosines and sines float[1, T, head width] of all rows.
        options: the layer's other arguments.

    Returns:
        float[1, R, D].
    """
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    shape = (1, normed.shape[1], -1, attention.head_dim)
    key, value = (project(normed).view(shape).transpose(1, 2) for project in (attention.k_proj, attention.v_proj))
    cos, sin = position_embeddings
    turned = key * cos[:, None] + rotate_half(key) * sin[:, None]  # type: ignore[no-untyped-call]
    attended, _ = attention(
        hidden_states=normed.index_select(1, asked_rows),
        position_embeddings=(cos.index_select(1, asked_rows), sin.index_select(1, asked_rows)),
        rows=asked_rows,
        **{**options, "past_key_values": _Known(turned, value)},
    )
    asked: Tensor = hidden.index_select(1, asked_rows) + attended
    return asked + layer.mlp(layer.post_attention_layernorm(asked))  # type: ignore[no-any-return]


class _Known:
    """What transformers' attention takes for a cache: it returns the keys and values of all rows, known already."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.states = key, value

    def update(self, _key: Tensor, _value: Tensor, _layer: int) -> tuple[Tensor, Tensor]:
        return self.states
