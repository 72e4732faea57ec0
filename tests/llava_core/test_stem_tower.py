"""The small tower: its shapes, its independence of other tiles, its checkpoints, and the packed engine on top of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llava_core.checkpoints import load_model
from llava_core.checkpoints.fresh import fresh_config, new_model, word_tokenizer
from llava_core.engine import PackedEngine, ReferenceEngine, Request, SamplingConfig
from llava_core.errors import CheckpointRefused, ConfigError
from llava_core.model import LLaVANeXT
from llava_core.processor import LLaVAProcessor
from llava_core.stem_tower import StemNorm, StemVisionConfig


def tiles(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 112, 112), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def model() -> LLaVANeXT:
    return new_model(3)


def test_a_tile_becomes_49_features_that_begin_at_a_sensible_size(model: LLaVANeXT) -> None:
    features = model.image_processor(tiles(3))
    assert features.shape == (3, 49, 256)
    assert 0.05 < float(features.detach().std()) < 20


def test_a_patch_sees_its_own_pixels_and_neighbours_but_starts_without_attention_to_far_ones() -> None:
    """At first layers add little: changing the last patch's pixels changes the first one far less than the last."""
    model = new_model(3).eval()
    before = tiles(1)
    after = before.clone()
    after[:, :, 96:, 96:] = 255 - after[:, :, 96:, 96:]
    change = (model.image_processor(after) - model.image_processor(before))[0].norm(dim=-1)
    assert change[48] > 10 * change[0] and int(change.argmax()) == 48


def test_features_never_depend_on_other_tiles_unless_statistics_are_learned(model: LLaVANeXT) -> None:
    model.train()
    together, alone = model.image_processor(tiles(4)), model.image_processor(tiles(4)[:1])
    assert torch.allclose(together[:1], alone, atol=1e-5)
    norms = [part for part in model.modules() if isinstance(part, StemNorm)]
    kept = [norm.running_mean.clone() for norm in norms]
    for norm in norms:
        norm.learn_statistics = True
    mixed = model.image_processor(tiles(4))
    assert not torch.allclose(mixed[:1], alone, atol=1e-2)
    assert all(not torch.equal(norm.running_mean, before) for norm, before in zip(norms, kept, strict=True))
    model.eval()
    assert torch.allclose(model.image_processor(tiles(4))[:1], model.image_processor(tiles(1)), atol=1e-5)
    for norm, before in zip(norms, kept, strict=True):
        norm.learn_statistics = False
        norm.running_mean.copy_(before)
        norm.running_var.fill_(1.0)


def test_equal_seeds_give_equal_models_that_fit_the_size() -> None:
    one, other = new_model(1).state_dict(), new_model(1).state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in new_model(2).state_dict().items())
    assert sum(p.numel() * p.element_size() for p in new_model(1).parameters()) < 20e6


def test_our_layout_keeps_everything_and_the_hf_layout_refuses(model: LLaVANeXT, tmp_path: Path) -> None:
    with torch.no_grad():
        next(part for part in model.modules() if isinstance(part, StemNorm)).running_var.mul_(1.5)
    model.save_pretrained(tmp_path / "own", tokenizer=word_tokenizer())
    again = load_model(tmp_path / "own")
    assert again.config.to_dict() == model.config.to_dict() and not again.config.trained
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    for layout in ("hf", "original"):
        with pytest.raises(CheckpointRefused, match="tower"):
            model.save_pretrained(tmp_path / layout, layout=layout)


def test_the_packed_engine_answers_as_one_request_at_a_time() -> None:
    model = new_model(3)
    # New weights are small, and so are their differences: at larger ones answers differ.
    torch.manual_seed(0)
    for parameter in model.language_model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    processor = LLaVAProcessor(word_tokenizer(), model.eval().config)
    sizes = [(224, 200, 3), (100, 300, 3)]
    pixels = [np.random.default_rng(n).integers(0, 256, size, np.uint8) for n, size in enumerate(sizes)]
    asked = [
        Request(request_id=f"{n}{q}", prompt=q, images=(one,), sampling=SamplingConfig(max_new_tokens=3))
        for n, one in enumerate(pixels)
        for q in ("What is the total?", "How many?")
    ]
    packed = [result.text for result in PackedEngine(model, processor).generate(asked)]
    single = [result.text for result in ReferenceEngine(model, processor, batch_size=1).generate(asked)]
    assert packed == single and len(set(packed)) > 1


def test_text_of_any_kind_survives_the_small_vocabulary() -> None:
    tokenizer = word_tokenizer()
    for text in ("A large red circle.", "né 你好\n🙂", "TOTAL: 12.34", "a b  c", "Is isolated?"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer.tokenize("AB 12") == ["A", "B", "Ġ", "1", "2"]
    assert len(tokenizer.tokenize("ASSISTANT:")) == 1
    assert len(tokenizer) == fresh_config().text["vocab_size"]  # type: ignore[index]


@pytest.mark.parametrize("settings", [{"patch_size": 8}, {"image_size": 120}, {"stem_widths": (8, 8)}])
def test_shapes_that_the_stem_cannot_have_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="stem tower"):
        StemVisionConfig(**settings)  # type: ignore[arg-type]
