"""One pass of packed rows through the layers of a transformers language model, to the logits of the rows asked for.

The layers, their weights, their rotary embedding and their quantisation are transformers' own; the loop over them is
ours, because only the last token of a prompt is ever asked for: of the last layer, the rows of all others need their
keys and values and nothing more (`last_layer`).

    embeds [1, T, D] ─ layers ─▶ keys and values of all rows, the rest of the last layer for R ─ norm, head ─▶ [R, V]

Legend: T rows in the pass, D width, R rows asked for, V vocabulary.

What this does *not* do: attention (`attention`), scheduling (`packed`).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_core.engine.attention import Step
from llava_core.last_layer import forward_asked_rows


def asked_logits(language_model: PreTrainedModel, embeds: Tensor, step: Step) -> Tensor:
    """Run packed rows through a language model inside `attention.packed`.

    Keys and values are written, and counted in their caches once the step is advanced: by the caller, when nothing more
    of it can fail.

    Args:
        language_model: Llama, Mistral or Qwen2, whose layers are built alike.
        embeds: float[1, T, D] of the rows of all spans.
        step: whose rows they are, and which are asked for.

    Returns:
        float[R, V], of the rows that are asked for, in order.
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
    asked = torch.tensor(step.asked_rows, dtype=torch.long, device=embeds.device)
    hidden = forward_asked_rows(last, hidden, asked, **options)
    logits: Tensor = model.lm_head(model.model.norm(hidden[0]))
    return logits
