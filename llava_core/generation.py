"""Many questions about one image: encode once, prefill once, decode each question on top of that cache.

    prefix (system, image) ─ prefill ─▶ cache ─ copy for each question ─ question ─▶ answer

Legend: Q questions, T tokens, D text width. Tokens are those of a plain `generate` on prefix + question.

What this does *not* do: schedule many different images (`engine`).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

if TYPE_CHECKING:
    from llava_core.model import LLaVANeXT


@dataclass(frozen=True, slots=True)
class Prefix:
    """The prefilled beginning of a prompt."""

    cache: Cache
    """Keys and values of the prefix; never changed, each question gets a copy."""
    length: int
    """Tokens of the prefix, image tokens included."""


@torch.no_grad()
def prefill(model: "LLaVANeXT", **inputs: Any) -> Prefix:
    """Run the beginning of one prompt through the model and keep its cache.

    Args:
        model: with a language model.
        **inputs: a processor's outputs for one sample without padding, up to where the questions differ.

    Returns:
        The prefix, for `generate_with_cache`.

    Raises:
        ValueError: more than one sample, or padding.
    """
    embeds, mask, options = model.prompt_embeds(inputs)
    if embeds.shape[0] != 1 or not bool(mask.all()):
        raise ValueError(f"a prefix is one sample without padding; got a mask of {mask.tolist()}")
    out = model.language_model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1, **options)
    return Prefix(out.past_key_values, embeds.shape[1])


@torch.no_grad()
def generate_with_cache(
    model: "LLaVANeXT", prefix: Prefix, questions: Sequence[Tensor], *, batch_size: int = 8, **options: Any
) -> list[Tensor]:
    """Answer questions that follow one prefix.

    Args:
        model: the one that prefilled.
        prefix: from `prefill`; unchanged afterwards.
        questions: int64[T_i] of each question: the rest of its prompt, at least one token.
        batch_size: questions decoded at once.
        **options: of transformers' `generate`.

    Returns:
        int64[T_new] for each question, in order: the new tokens, padded as `generate` pads within a batch.

    Raises:
        ValueError: an empty question.

    Source: the document's `generate_with_cache`, which never feeds the prompt (decision 10).
    """
    if any(question.numel() == 0 for question in questions):
        raise ValueError("a question has no tokens; at least one must follow the prefix")
    answers: list[Tensor] = []
    for start in range(0, len(questions), batch_size):
        answers += _answer(model, prefix, questions[start : start + batch_size], options)
    return answers


def _answer(model: "LLaVANeXT", prefix: Prefix, questions: Sequence[Tensor], options: dict[str, Any]) -> list[Tensor]:
    count, longest = len(questions), max(question.numel() for question in questions)
    ids = torch.zeros(count, longest, dtype=torch.long, device=model.device)
    mask = torch.zeros(count, prefix.length + longest, dtype=torch.long, device=model.device)
    mask[:, : prefix.length] = 1
    for row, question in enumerate(questions):
        # Padding stands between prefix and question, so that every question ends where decoding begins.
        ids[row, longest - question.numel() :] = question
        mask[row, prefix.length + longest - question.numel() :] = 1
    embeds = model.language_model.get_input_embeddings()(ids)
    cache = copy.deepcopy(prefix.cache)
    cache.batch_repeat_interleave(count)
    # `generate` wants embeddings of the whole prompt and looks only at those that the cache does not hold.
    whole = torch.cat([embeds.new_zeros(count, prefix.length, embeds.shape[-1]), embeds], dim=1)
    generated = model.language_model.generate(
        inputs_embeds=whole, attention_mask=mask, past_key_values=cache, **options
    )
    return list(generated)
