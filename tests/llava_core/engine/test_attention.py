"""Packed attention against transformers' own `generate` and full forward passes, one sequence at a time."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llava_core.engine.attention import IMPLEMENTATION, Span, Step, merge_by_lse, packed
from llava_core.engine.decoder import asked_logits
from llava_core.engine.kv import KVBudget, KVShape, SequenceCache

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
CPU = torch.device("cpu")


def build(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    models = {
        "llama_gqa": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
        "llama_mha": lambda: LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 4})),
        "mistral_window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=9)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    }
    return models[kind]().eval()


def forward(model: PreTrainedModel, ids: Tensor, step: Step) -> Tensor:
    """Logits float32[S, V] of the last token of each span of one packed row."""
    embeds = model.get_input_embeddings()(ids)[None]
    logits = asked_logits(model, embeds, step)
    step.advance()
    return logits


def spans(lengths: Sequence[int], caches: Sequence[SequenceCache], prefixes: Sequence[SequenceCache | None]) -> Step:
    at, made = 0, []
    for length, cache, prefix in zip(lengths, caches, prefixes, strict=True):
        made.append(Span(at, at := at + length, cache, prefix))
    return Step(tuple(made), tuple(span.stop - 1 for span in made))


@pytest.mark.parametrize("kind", ["llama_gqa", "llama_mha", "mistral_window", "qwen2"])
@torch.no_grad()
def test_packed_decoding_equals_transformers_one_by_one(kind: str) -> None:
    model = build(kind)
    generator = torch.Generator().manual_seed(1)
    own = [torch.randint(0, 97, (length,), generator=generator) for length in (5, 17, 11)]
    shared = torch.randint(0, 97, (13,), generator=generator)
    budget = KVBudget(KVShape.of(model), 10**9)
    *caches, prefix = budget.allocate((40, 40, 40, 13), CPU)
    prefixes = [None, prefix, prefix]
    with packed(model):
        forward(model, shared, spans([13], [prefix], [None]))
        step = spans([len(ids) for ids in own], caches, prefixes)
        logits = forward(model, torch.cat(own), step)
        tokens = [[token] for token in logits.argmax(-1).tolist()]
        for _ in range(6):
            logits = forward(model, torch.tensor([t[-1] for t in tokens]), spans([1, 1, 1], caches, prefixes))
            for row, token in enumerate(logits.argmax(-1).tolist()):
                tokens[row].append(token)
    assert model.config._attn_implementation != IMPLEMENTATION
    for row, ids in enumerate(own):
        whole = ids if prefixes[row] is None else torch.cat([shared, ids])
        expected = model.generate(whole[None], max_new_tokens=7, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert tokens[row] == expected[0, len(whole) :].tolist()
        reference = model(torch.cat([whole, torch.tensor(tokens[row][:-1])])[None]).logits[0, -1]
        torch.testing.assert_close(logits[row], reference, atol=1e-6, rtol=0)  # measured 1.8e-7


@torch.no_grad()
def test_sequences_in_one_row_do_not_see_each_other() -> None:
    model = build("llama_gqa")
    budget = KVBudget(KVShape.of(model), 10**9)
    first, second, other = torch.arange(7), torch.arange(20, 31), torch.arange(50, 57)
    with packed(model):
        step = spans([7, 11], budget.allocate((7, 11), CPU), [None, None])
        beside_first = forward(model, torch.cat([first, second]), step)[1]
        step = spans([7, 11], budget.allocate((7, 11), CPU), [None, None])
        beside_other = forward(model, torch.cat([other, second]), step)[1]
    torch.testing.assert_close(beside_first, beside_other, atol=0, rtol=0)


def test_merge_by_lse_equals_one_softmax() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 3, 9, generator=generator, dtype=torch.float64) * 4
    values = torch.randn(2, 9, 5, generator=generator, dtype=torch.float64)
    parts = [
        (torch.softmax(s, -1) @ v, torch.logsumexp(s, -1))
        for s, v in ((scores[..., :4], values[:, :4]), (scores[..., 4:], values[:, 4:]))
    ]
    expected = torch.softmax(scores, -1) @ values
    merged, lse = merge_by_lse(*parts[0], *parts[1])
    torch.testing.assert_close(merged, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(lse, torch.logsumexp(scores, -1), atol=1e-12, rtol=0)


def test_budget_counts_bytes_and_caches_refuse_to_overflow() -> None:
    shape = KVShape(num_layers=3, num_heads=2, head_dim=16, dtype=torch.float32)
    assert shape.bytes_per_token == 2 * 3 * 2 * 16 * 4
    budget = KVBudget(shape, 10 * shape.bytes_per_token)
    (cache,) = budget.allocate([7], CPU)
    assert budget.fits(3) and not budget.fits(4) and budget.ever_fits(10) and not budget.ever_fits(11)
    cache.write(0, torch.zeros(2, 7, 16), torch.zeros(2, 7, 16))
    cache.advance(7)
    with pytest.raises(RuntimeError, match="8 tokens does not fit its 7"):
        cache.write(0, torch.zeros(2, 1, 16), torch.zeros(2, 1, 16))
    budget.release(cache)
    assert budget.used_bytes == 0
