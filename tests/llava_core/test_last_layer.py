"""The last layer for asked rows alone, against transformers' eager attention over whole sequences, one at a time."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from llava_core.attention import BLOCKS
from llava_core.last_layer import run_asked_rows, runs_asked_rows
from tests.tiny_models import text_config

KINDS = ("llama", "llama_head_dim", "mistral_window", "qwen2", "qwen2_window_in_the_last_layer")
BORDERS = (0, 17, 20, 33)
ASKED = (4, 5, 16, 21, 30, 32)
"""Two runs in the first sequence, none in the second, apart in the third; of both, the very last row."""
TOLERANCE = 2e-6
"""Measured: 1.5e-7 of logits, 1.8e-7 of gradients."""


def build(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    configs = {
        "llama": text_config(),
        "llama_head_dim": text_config(head_dim=24, attention_bias=True),
        "mistral_window": text_config("mistral", sliding_window=5),
        "qwen2": text_config("qwen2"),
        "qwen2_window_in_the_last_layer": text_config(
            "qwen2",
            use_sliding_window=True,
            sliding_window=5,
            layer_types=["full_attention", "sliding_attention"],
        ),
    }
    return AutoModelForCausalLM.from_config(configs[kind]).train()


def learn(model: PreTrainedModel, logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and gradients of a loss of them."""
    model.zero_grad()
    wanted = torch.arange(len(logits)) * 5 % 96
    F.cross_entropy(logits, wanted).backward()
    return logits.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def apart(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits of the rows asked for, each sequence run alone and whole."""
    model.config._attn_implementation = "eager"
    parts = [model(input_ids=ids[None, start:stop], use_cache=False).logits[0] for start, stop in pairwise(BORDERS)]
    return torch.cat(parts)[list(ASKED)]


def together(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The same from one packed row."""
    model.config._attn_implementation = BLOCKS
    places = torch.cat([torch.arange(stop - start) for start, stop in pairwise(BORDERS)])
    logits: Tensor = model(
        input_ids=ids[None],
        position_ids=places[None],
        borders=BORDERS,
        asked_rows=torch.tensor(ASKED),
        use_cache=False,
    ).logits
    return logits[0]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_whole_sequences(kind: str, checkpointing: bool) -> None:
    model = build(kind)
    assert runs_asked_rows(model.config.model_type)
    ids = torch.randint(0, 96, (BORDERS[-1],), generator=torch.Generator().manual_seed(1))
    expected, gradients = learn(model, apart(model, ids))
    run_asked_rows(model)
    if checkpointing:
        # Newer transformers warn about the old name, older ones lack the new one.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)({"use_reentrant": False})
    logits, own = learn(model, together(model, ids))
    assert logits.shape == (len(ASKED), 96)
    assert (logits - expected).abs().max().item() < TOLERANCE
    assert own.keys() == gradients.keys()
    worst = max((own[name] - gradients[name]).abs().max().item() for name in own)
    assert worst < TOLERANCE, worst


def test_the_last_layer_works_on_the_rows_asked_for_and_no_others() -> None:
    model = build("llama")
    last = model.model.layers[-1]
    seen: dict[str, int] = {}
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        last.get_submodule(name).register_forward_hook(
            lambda _, given, __, name=name: seen.__setitem__(name, given[0].shape[1])
        )
    run_asked_rows(model)
    together(model, torch.arange(BORDERS[-1]))
    assert set(seen.values()) == {len(ASKED)} and len(seen) == 4


def test_without_asked_rows_the_model_does_what_it_did() -> None:
    model = build("qwen2").eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        run_asked_rows(model)
        assert torch.equal(model(input_ids=ids).logits, before)
        assert model.generate(input_ids=ids, max_new_tokens=3, do_sample=False).shape == (1, 15)


def test_other_language_models_are_not_taken() -> None:
    assert not runs_asked_rows("gemma2")
