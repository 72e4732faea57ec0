"""Checkpoints against transformers: folders that it writes load here exactly, folders written here load there exactly.

Layouts that no installed version writes (before 4.52, 4.52, 5.6, original) are made by renaming keys in the test, from
the tables in the facts and not from ours. Logits, fp32: measured error 0.0 between transformers' model and ours, and
between transformers' model before and after a round trip.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from llava_core.checkpoints import load_model, read_config, save_model
from llava_core.checkpoints.standard import canonical
from llava_core.config import plan_tiles
from llava_core.geometry import Size
from llava_core.model import LLaVANeXT
from tests.llava_core.checkpoints.cases import WEIGHTS, assert_same, rename, saved
from tests.tiny_models import IMAGE_TOKEN, TILE, config_for, hf_llava, hf_next, hf_onevision, text_config

LOGITS_ATOL = 1e-5
"""Measured: 0.0, of logits up to 16; another processor may add in another order."""
SIZES = (Size(41, 90), Size(97, 30))


def next_with_rope(**rope: Any) -> PreTrainedModel:
    """LLaVA-NeXT whose language model turns its positions differently."""
    plain = hf_next()
    config = type(plain.config).from_dict(plain.config.to_dict())
    config.text_config.rope_parameters = rope
    model = type(plain)(config).eval()
    model.load_state_dict(plain.state_dict())
    return model


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "1.5-llama": hf_llava,
    "next-llama": lambda: next_with_rope(rope_type="default", rope_theta=5e5),
    "next-scaled-rope": lambda: next_with_rope(rope_type="linear", factor=2.0, rope_theta=1e4),
    "next-mistral": lambda: hf_next("mistral", seed=1),
    "onevision": hf_onevision,
    "onevision-tied": lambda: hf_onevision(text_config=text_config("qwen2", tie_word_embeddings=True)),
}


@pytest.fixture(params=MODELS, scope="module")
def theirs(request: pytest.FixtureRequest) -> PreTrainedModel:
    """One of transformers' models."""
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def folder(theirs: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What transformers saves of it: the hybrid spelling."""
    return saved(theirs, tmp_path_factory.mktemp("theirs"))


def inputs_for(model: PreTrainedModel) -> dict[str, Any]:
    """Two samples, one image each, of different sizes; pixels, text and padding on the left are asymmetrical."""
    config = config_for(model)
    plans = [plan_tiles(size, config) for size in SIZES]
    generator = torch.Generator().manual_seed(7)
    tiles = max(plan.num_tiles for plan in plans)
    pixels = torch.randn(2, tiles, 3, TILE, TILE, generator=generator)
    rows = [[3, 5] + [IMAGE_TOKEN] * plan.num_image_tokens + [7, 9, 11 + i] for i, plan in enumerate(plans)]
    longest = max(map(len, rows))
    inputs = {
        "input_ids": torch.tensor([[0] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }
    if config.family == "llava":
        return {**inputs, "pixel_values": pixels[:, 0]}
    return {**inputs, "pixel_values": pixels, "image_sizes": torch.tensor(SIZES)}


def logits(model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        found = model(**inputs).logits
    kept: torch.Tensor = found[inputs["attention_mask"].bool()]
    return kept


def our_logits(model: LLaVANeXT, inputs: dict[str, Any]) -> torch.Tensor:
    extra = {} if "image_sizes" in inputs else {"image_sizes": torch.tensor(SIZES)}
    return logits(model, {**inputs, **extra})


def to_hub(name: str) -> str:
    """Before 4.52, and files on the hub: only the tower differs from the hybrid."""
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


def to_56(name: str) -> str:
    """In memory since 5.6."""
    if name.startswith("language_model.lm_head"):
        return name.removeprefix("language_model.")
    return "model." + name.replace("language_model.model.", "language_model.", 1)


def to_452(name: str) -> str:
    """In memory from 4.52 to 5.5."""
    return to_56(name).replace("vision_tower.", "vision_tower.vision_model.", 1)


def to_original(name: str) -> str:
    """What LLaVA itself saved."""
    for before, after in (
        ("vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("multi_modal_projector.linear_1", "model.mm_projector.0"),
        ("multi_modal_projector.linear_2", "model.mm_projector.2"),
        ("image_newline", "model.image_newline"),
        ("language_model.model.", "model."),
        ("language_model.lm_head", "lm_head"),
    ):
        if name.startswith(before):
            return name.replace(before, after, 1)
    raise AssertionError(name)


def test_config_is_read_as_described(theirs: PreTrainedModel, folder: Path) -> None:
    expected = config_for(theirs)
    found = read_config(folder)
    assert canonical(found) == canonical(config_for(theirs, template=found.template, trained=True))
    assert found.template in ("vicuna_v1", "mistral_instruct", "qwen_1_5")
    assert found.tiles.pinpoints == expected.tiles.pinpoints


def test_their_folder_gives_their_logits(theirs: PreTrainedModel, folder: Path) -> None:
    inputs = inputs_for(theirs)
    error = (our_logits(load_model(folder), inputs) - logits(theirs, inputs)).abs().max()
    assert error <= LOGITS_ATOL


@pytest.mark.parametrize("spelling", [to_hub, to_452, to_56])
def test_every_spelling_of_hf_is_the_same_model(
    theirs: PreTrainedModel, folder: Path, tmp_path: Path, spelling: Callable[[str], str]
) -> None:
    again = saved(theirs, tmp_path)
    rename(again, spelling)
    assert load_file(again / WEIGHTS).keys() != load_file(folder / WEIGHTS).keys()
    assert_same(load_model(folder), load_model(again))


def test_written_hf_loads_in_transformers_exactly(theirs: PreTrainedModel, folder: Path, tmp_path: Path) -> None:
    save_model(load_model(folder), tmp_path, "hf")
    again, info = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert_same(theirs, again)
    inputs = inputs_for(theirs)
    assert torch.equal(logits(again, inputs), logits(theirs, inputs))
    # The hub's spelling, which transformers 4 and other engines map; and their rotary setting.
    stored = load_file(tmp_path / WEIGHTS)
    assert stored.keys() == {to_hub(name) for name in load_file(folder / WEIGHTS)}
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert text["rope_theta"] == theirs.config.text_config.rope_parameters["rope_theta"]


def test_written_original_has_their_names_and_tensors(theirs: PreTrainedModel, folder: Path, tmp_path: Path) -> None:
    save_model(load_model(folder), tmp_path, "original")
    stored, before = load_file(tmp_path / WEIGHTS), load_file(folder / WEIGHTS)
    assert stored.keys() == {to_original(name) for name in before}
    assert all(torch.equal(stored[to_original(name)], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("first", ["own", "hf", "original"])
def test_each_layout_to_each_layout(folder: Path, tmp_path: Path, first: Any) -> None:
    """hf → ours → first → ours → second → ours: same tensors and settings, same file as going straight there."""
    model = load_model(folder)
    save_model(model, tmp_path / "first", first)
    through = load_model(tmp_path / "first")
    for second in ("own", "hf", "original"):
        save_model(through, tmp_path / second, second)  # type: ignore[arg-type]
        again = load_model(tmp_path / second)
        assert_same(model, again)
        assert canonical(again.config) == canonical(model.config)
        save_model(model, tmp_path / "straight", second)  # type: ignore[arg-type]
        assert (tmp_path / second / WEIGHTS).read_bytes() == (tmp_path / "straight" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_survives_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = hf_next().to(dtype)
    model = load_model(saved(theirs, tmp_path / "in"))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
    save_model(model, tmp_path / "out", "hf", max_shard_bytes=60_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    again = type(theirs).from_pretrained(tmp_path / "out")
    assert again.dtype == dtype
    assert_same(theirs, again)
