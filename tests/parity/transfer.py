"""Weights from transformers' LLaVA classes into ours, name by name, and prompts that fit given images.

The map is written out here, apart from the checkpoint converter, so that one checks the other.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_core.config import ModelConfig, plan_tiles
from llava_core.geometry import Size, TilePlan
from llava_core.model import LLaVANeXT, model_class
from tests.tiny_models import IMAGE_TOKEN, TILE, config_for

OWN_NAMES = (
    (r"model\.vision_tower\.", "image_processor.encoder."),
    (r"model\.multi_modal_projector\.linear_1\.", "projector.projector.0."),
    (r"model\.multi_modal_projector\.linear_2\.", "projector.projector.2."),
    (r"model\.multi_modal_projector\.", "projector.projector.0."),
    (r"model\.image_newline$", "image_newline"),
    (r"model\.language_model\.", "language_model.model."),
    (r"lm_head\.", "language_model.lm_head."),
)


def own_name(name: str) -> str:
    """Our name of a tensor that transformers names so."""
    for pattern, replacement in OWN_NAMES:
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", replacement, name)
    raise KeyError(name)


def twin_of(hf: PreTrainedModel, config: ModelConfig | None = None) -> LLaVANeXT:
    """Our model with a transformers model's weights; nothing missing, nothing left over."""
    config = config or config_for(hf)
    ours = model_class(config)(config).eval()
    ours.load_state_dict({own_name(name): tensor for name, tensor in hf.state_dict().items()}, strict=True)
    return ours


def padded_pixels(plans: Sequence[TilePlan], seed: int = 0) -> Tensor:
    """Random normalised tiles in transformers' padded form, [num_images, max N, 3, S, S], padding far from zero."""
    torch.manual_seed(seed)
    pixels = torch.randn(len(plans), max(plan.num_tiles for plan in plans), 3, TILE, TILE)
    for image, plan in zip(pixels, plans, strict=True):
        image[plan.num_tiles :] = 7.0  # a dead tile that reached the tower would show
    return pixels


def plans_of(sizes: Sequence[Sequence[int]], config: ModelConfig, num_images: int = 1) -> list[TilePlan]:
    """A plan for each image."""
    return [plan_tiles(Size(*size), config, num_images=num_images) for size in sizes]


def prompts(rows: Sequence[Sequence[int]], left: bool = True, placeholder: int = IMAGE_TOKEN) -> dict[str, Tensor]:
    """Batched prompts: for each row, the token counts of its images, some text before, between and after them.

    Labels are the last four tokens and a few in the middle; padding is on the left or on the right.
    """
    sequences = []
    for index, counts in enumerate(rows):
        ids = [1, 5 + index]
        for count in counts:
            ids += [placeholder] * count + [11, 12 + index]
        sequences.append([*ids, 20, 21 + index, 30 + index, 2])
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, sequence in enumerate(sequences):
        place = slice(longest - len(sequence), longest) if left else slice(0, len(sequence))
        ids[row, place] = torch.tensor(sequence)
        mask[row, place] = 1
        wanted = torch.tensor([-100] * (len(sequence) - 4) + sequence[-4:])
        labels[row, place] = wanted
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
