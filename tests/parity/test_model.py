"""Our models against transformers' own classes with the same weights: tower, packed features, logits, loss, gradients.

fp32, random weights. Errors as measured with torch 2.13 and transformers 5.23 on one and two threads; the tolerances
leave room for another processor's order of summation.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_core.config import ModelConfig
from llava_core.model import LLaVANeXT
from tests.parity.transfer import own_name, padded_pixels, plans_of, prompts, twin_of
from tests.tiny_models import TILE, VIDEO_TOKEN, config_for, hf_llava, hf_next, hf_onevision

FEATURE_TOLERANCE = 1e-5  # measured 0.0 on values up to 17.6
LOGIT_TOLERANCE = 1e-5  # measured 0.0 on values up to 4.5
LOSS_TOLERANCE = 2e-6  # measured 4.8e-7 on 5.5: a sum divided once, where transformers takes the mean
GRADIENT_TOLERANCE = 1e-6  # measured 0.0 on values up to 0.55

ANY_RES_SIZES = ((40, 33), (90, 20), (31, 77), (20, 90), (27, 27), (56, 55))
"""Height, width: 2×2 tiles, a 3×1 and a 1×4 canvas without transposed partner, odd remainders, ties of small images."""


@dataclass(frozen=True)
class Case:
    """One batch: our inputs and transformers', equal unless transformers spells them differently."""

    hf: PreTrainedModel
    inputs: dict[str, Any]
    hf_inputs: dict[str, Any]


def any_res(hf: PreTrainedModel, left: bool = True) -> Case:
    """One image a row, of different tile counts; a row with two images; a row without."""
    config = config_for(hf)
    plans = plans_of(ANY_RES_SIZES, config)
    assert len({plan.num_tiles for plan in plans}) > 1
    tokens = [plan.num_image_tokens for plan in plans]
    inputs = prompts([tokens[:1], tokens[1:3], [], *([t] for t in tokens[3:])], left)
    inputs |= {"pixel_values": padded_pixels(plans), "image_sizes": torch.tensor(ANY_RES_SIZES)}
    return Case(hf, inputs, inputs)


def squares(hf: PreTrainedModel, left: bool = True) -> Case:
    """LLaVA 1.0 and 1.5: one tile an image; a row with two images; a row without."""
    torch.manual_seed(3)
    tokens = config_for(hf).vision.num_class_tokens + 49
    inputs = prompts([[tokens], [tokens, tokens], []], left) | {"pixel_values": torch.randn(3, 3, TILE, TILE)}
    return Case(hf, inputs, inputs)


def several_images(hf: PreTrainedModel) -> Case:
    """OneVision: a row of one any-res image, one of three square ones, one without."""
    config = config_for(hf)
    sizes = [(90, 61), (20, 30), (50, 23), (28, 28)]
    plans = plans_of(sizes[:1], config) + plans_of(sizes[1:], config, num_images=3)
    assert [plan.num_tiles for plan in plans] == [7, 1, 1, 1]
    tokens = [plan.num_image_tokens for plan in plans]
    inputs = prompts([tokens[:1], tokens[1:], []])
    inputs |= {"pixel_values": padded_pixels(plans), "image_sizes": torch.tensor(sizes)}
    return Case(
        hf,
        inputs | {"num_images_per_sample": [1, 3, 0]},
        # transformers counts rows with images only: a zero in its list changes nothing.
        inputs | {"batch_num_images": torch.tensor([1, 3, 0])},
    )


def videos(hf: PreTrainedModel) -> Case:
    """OneVision: two videos of three frames in two rows, and a row without."""
    torch.manual_seed(5)
    inputs = prompts([[3 * 16 + 1], [], [3 * 16 + 1]], placeholder=VIDEO_TOKEN)
    inputs |= {"pixel_values_videos": torch.randn(2, 3, 3, TILE, TILE)}
    return Case(hf, inputs, inputs)


CASES = {
    "1.0 linear": lambda: squares(hf_llava(linear=True)),
    "1.5": lambda: squares(hf_llava()),
    "1.5 padded right": lambda: squares(hf_llava(), left=False),
    "1.5 with the class token": lambda: squares(hf_llava(vision_feature_select_strategy="full")),
    "next llama": lambda: any_res(hf_next()),
    "next mistral": lambda: any_res(hf_next("mistral")),
    "next padded right": lambda: any_res(hf_next(), left=False),
    "onevision": lambda: any_res(hf_onevision()),
    "onevision images": lambda: several_images(hf_onevision()),
    "onevision video": lambda: videos(hf_onevision()),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def hf_features(hf: PreTrainedModel, inputs: dict[str, Any]) -> list[Tensor]:
    """Packed features as transformers makes them, one entry for each image or video."""
    if "pixel_values_videos" in inputs:
        return list(hf.get_video_features(inputs["pixel_values_videos"]).pooler_output)
    names = ("pixel_values", "image_sizes", "batch_num_images")
    return list(hf.get_image_features(**{name: inputs[name] for name in names if name in inputs}).pooler_output)


def test_tower_features(case: Case) -> None:
    ours = twin_of(case.hf)
    torch.manual_seed(9)
    tiles = torch.randn(5, 3, TILE, TILE)
    config = case.hf.config
    with torch.no_grad():
        hidden = case.hf.model.vision_tower(tiles, output_hidden_states=True).hidden_states[config.vision_feature_layer]
        theirs = hidden[:, 1:] if config.vision_feature_select_strategy == "default" else hidden
        assert error(ours.image_processor(tiles), theirs) <= FEATURE_TOLERANCE


def test_packed_features(case: Case) -> None:
    ours = twin_of(case.hf)
    with torch.no_grad():
        theirs = hf_features(case.hf, case.hf_inputs)
        packed = ours(**case.inputs).visual_features
    assert len(packed) == len(theirs) > 0
    for one, other in zip(packed, theirs, strict=True):
        assert error(one, other) <= FEATURE_TOLERANCE


def test_logits_and_loss(case: Case) -> None:
    ours = twin_of(case.hf)
    with torch.no_grad():
        mine, theirs = ours(**case.inputs), case.hf(**case.hf_inputs)
    assert error(mine.logits, theirs.logits) <= LOGIT_TOLERANCE
    assert error(mine.loss, theirs.loss) <= LOSS_TOLERANCE
    assert theirs.logits.std() > 0.1, "logits that hardly vary would hide errors"


def test_gradients_of_every_parameter(case: Case) -> None:
    ours = twin_of(case.hf)
    case.hf.zero_grad()
    case.hf(**case.hf_inputs).loss.backward()
    ours(**case.inputs).loss.backward()
    mine = dict(ours.named_parameters())
    unused = {f"image_processor.{name}" for name, _ in ours.image_processor.unused_parameters()}
    seen = 0
    for name, theirs in case.hf.named_parameters():
        parameter = mine.pop(own_name(name))
        if theirs.grad is None or not theirs.grad.any():
            assert parameter.grad is None or not parameter.grad.any(), name
            # A key's bias moves all scores of a query alike; softmax takes that off again.
            assert own_name(name) in unused or name.endswith("k_proj.bias"), f"{name} should have a gradient"
        else:
            assert parameter.grad is not None, name
            assert error(parameter.grad, theirs.grad) <= GRADIENT_TOLERANCE, name
            seen += 1
    assert not mine, f"no counterpart: {sorted(mine)}"
    assert seen > 50


@pytest.mark.parametrize("name", [name for name in CASES if "right" not in name])
def test_generated_tokens(name: str) -> None:
    case = CASES[name]()
    ours = twin_of(case.hf)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    mine = ours.generate(**{k: v for k, v in case.inputs.items() if k != "labels"}, **options)
    theirs = case.hf.generate(**{k: v for k, v in case.hf_inputs.items() if k != "labels"}, **options)
    assert torch.equal(mine, theirs[:, case.inputs["input_ids"].shape[1] :])


def flat(case: Case, ours: LLaVANeXT) -> Tensor:
    """Our own form of the tiles: no padding between images."""
    plans = ours.plan_images(case.inputs["image_sizes"], None, case.inputs.get("num_images_per_sample"))
    return torch.cat([tiles[: plan.num_tiles] for tiles, plan in zip(case.inputs["pixel_values"], plans, strict=True)])


@pytest.mark.parametrize("name", ["next llama", "onevision images"])
def test_flat_tiles_give_what_padded_tiles_give(name: str) -> None:
    case = CASES[name]()
    ours = twin_of(case.hf)
    tiles = flat(case, ours)
    assert tiles.shape[0] < case.inputs["pixel_values"].shape[:2].numel()
    with torch.no_grad():
        padded, compact = ours(**case.inputs), ours(**(case.inputs | {"pixel_values": tiles}))
    assert torch.equal(padded.logits, compact.logits)


@pytest.mark.parametrize("name", [name for name in CASES if "video" not in name])
def test_uint8_tiles_are_normalised_as_transformers_normalises(name: str) -> None:
    case = CASES[name]()
    config: ModelConfig = config_for(case.hf)
    shape = case.inputs["pixel_values"].shape
    raw = (torch.arange(shape.numel()).view(shape) * 37 % 256).to(torch.uint8)
    mean, std = torch.tensor(config.tiles.image_mean), torch.tensor(config.tiles.image_std)
    normalised = (raw.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        mine = twin_of(case.hf)(**(case.inputs | {"pixel_values": raw})).logits
        theirs = case.hf(**(case.hf_inputs | {"pixel_values": normalised})).logits
    assert error(mine, theirs) <= LOGIT_TOLERANCE
