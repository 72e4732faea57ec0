"""One pass of packed rows through the layers of a transformers language model, to the logits of the rows asked for.

The layers, their weights, their rotary embedding and their quantisation are transformers' own; the loop over them is
ours, because only the last token of a prompt is ever asked for: of the last layer, the rows of all others need their
keys and values and nothing more.

    embeds [1, T, D] ─ layers ─▶ last layer's attention ─ rows kept ─▶ its MLP ─ norm, head ─▶ logits [R, V]

Legend: T rows in the pass, D width, R rows kept, V vocabulary.

What this does *not* do: attention (`attention`), scheduling (`packed`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_core.engine.attention import Step


def last_token_logits(language_model: PreTrainedModel, embeds: Tensor, step: Step, wanted: Sequence[bool]) -> Tensor:
    """Run packed rows through a language model inside `attention.packed`, and count them in their caches.

    Args:
        language_model: Llama, Mistral or Qwen2, whose layers are built alike.
        embeds: float[1, T, D] of the rows of all spans.
        step: whose rows they are.
        wanted: for each span, whether the logits of its last row are asked for.

    Returns:
        float[R, V], for the spans that are asked for, in order.
    """
    model: Any = language_model
    positions = step.position_ids(embeds.device)
    options: dict[str, Any] = {
        "attention_mask": None,
        "position_ids": positions,
        "position_embeddings": model.model.rotary_emb(embeds, positions),
        "step": step,
    }
    *layers, last = model.model.layers
    hidden = embeds
    for layer in layers:
        hidden = layer(hidden, **options)
    attended, _ = last.self_attn(hidden_states=last.input_layernorm(hidden), **options)
    step.advance()
    rows = [span.stop - 1 for span, want in zip(step.spans, wanted, strict=True) if want]
    kept = torch.tensor(rows, dtype=torch.long, device=embeds.device)
    hidden = hidden[0, kept] + attended[0, kept]
    hidden = hidden + last.mlp(last.post_attention_layernorm(hidden))
    logits: Tensor = model.lm_head(model.model.norm(hidden))
    return logits
