"""Tiny random models of transformers' own LLaVA classes, and the `ModelConfig` that describes each of them.

The settings are asymmetrical on purpose: an odd number of patches along a tile, pinpoints that are not closed under
transposition, text and vision of different widths, fewer key heads than query heads.

    P = 7 patches along a tile of 28 pixels, vision width 32, text width 48, vocabulary 96
"""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)

from llava_core.checkpoints.untrained import write_untrained
from llava_core.config import ConnectorConfig, ModelConfig, TileConfig, VisionConfig
from llava_core.geometry import Size

TILE = 28
PATCHES = 7
IMAGE_TOKEN, VIDEO_TOKEN = 90, 91
PINPOINTS = ((28, 56), (56, 28), (56, 56), (84, 28), (28, 112))
"""As (height, width) for "hf"; 84×28 and 28×112 have no transposed partner."""

TextFamily = Literal["llama", "mistral", "qwen2"]
_FOLDER = tempfile.TemporaryDirectory(prefix="tessera-untrained-")


@functools.cache
def untrained_folder() -> Path:
    """A checkpoint that is the same whatever model is embedded; made once."""
    write_untrained(Path(_FOLDER.name))
    return Path(_FOLDER.name)


def clip_config(**overrides: Any) -> CLIPVisionConfig:
    """A CLIP tower of 3 layers that sees 28-pixel tiles as 7×7 patches and a class token."""
    values = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
    return CLIPVisionConfig(**{**values, "image_size": TILE, "patch_size": 4, "projection_dim": 16, **overrides})


def siglip_config(**overrides: Any) -> SiglipVisionConfig:
    """A SigLIP tower of 3 layers without head that sees 28-pixel tiles as 7×7 patches."""
    values = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
    return SiglipVisionConfig(**{**values, "image_size": TILE, "patch_size": 4, "vision_use_head": False, **overrides})


def text_config(family: TextFamily = "llama", **overrides: Any) -> LlamaConfig | MistralConfig | Qwen2Config:
    """A language model of 2 layers, 4 query heads and 2 key heads, with a vocabulary of 96."""
    values = {
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    match family:
        case "llama":
            return LlamaConfig(**{**values, **overrides})
        case "mistral":
            return MistralConfig(**{**values, "sliding_window": None, **overrides})
        case "qwen2":
            return Qwen2Config(**{**values, **overrides})


def hf_llava(text: TextFamily = "llama", seed: int = 0, linear: bool = False, **overrides: Any) -> PreTrainedModel:
    """LLaVA 1.5, or with `linear` LLaVA 1.0: transformers has no class for it, so its projector is swapped."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=clip_config(), text_config=text_config(text), image_token_index=IMAGE_TOKEN, **overrides
    )
    model = LlavaForConditionalGeneration(config)
    if linear:
        model.model.multi_modal_projector = torch.nn.Linear(32, 48)
    return _randomise(model)


def hf_next(text: TextFamily = "llama", seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """LLaVA-NeXT: CLIP and a Llama or Mistral text model, pinpoints not closed under transposition."""
    torch.manual_seed(seed)
    values = {"image_token_index": IMAGE_TOKEN, "image_grid_pinpoints": [list(p) for p in PINPOINTS]}
    config = LlavaNextConfig(vision_config=clip_config(), text_config=text_config(text), **{**values, **overrides})
    return _randomise(LlavaNextForConditionalGeneration(config))


def hf_onevision(text: TextFamily = "qwen2", seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """LLaVA-OneVision: SigLIP and Qwen2; `anyres_max_2`, so that the bilinear shrink happens."""
    torch.manual_seed(seed)
    values = {
        "image_token_index": IMAGE_TOKEN,
        "video_token_index": VIDEO_TOKEN,
        "image_grid_pinpoints": [[28, 28], [28, 56], [56, 28], [56, 56], [84, 56], [56, 112]],
        "vision_aspect_ratio": "anyres_max_2",
    }
    values |= {"vision_config": siglip_config(), "text_config": text_config(text)}
    config = LlavaOnevisionConfig(**{**values, **overrides})
    return _randomise(LlavaOnevisionForConditionalGeneration(config))


def config_for(model: PreTrainedModel, **overrides: Any) -> ModelConfig:
    """The `ModelConfig` of one of the models above; `overrides` replace its fields."""
    hf = model.config
    tower = {k: v for k, v in hf.vision_config.to_dict().items() if v is not None}
    strategy: Literal["patch", "full"] = "patch" if hf.vision_feature_select_strategy == "default" else "full"
    linear = isinstance(model.model.multi_modal_projector, torch.nn.Linear)
    config = ModelConfig(
        family=hf.model_type,
        vision=VisionConfig(tower=tower, select_layer=hf.vision_feature_layer, select_feature=strategy),
        text=hf.text_config.to_dict(),
        text_dim=hf.text_config.hidden_size,
        connector=ConnectorConfig(
            num_layers=1 if linear else 2,
            bias=hf.multimodal_projector_bias,
            image_newline=hf.model_type != "llava",
        ),
        tiles=_tiles_for(hf),
        image_token_id=hf.image_token_id,
        packing="flat" if hf.model_type == "llava" else "spatial_unpad",
        video_token_id=hf.video_token_id if hf.model_type == "llava_onevision" else None,
        trained=False,
    )
    return dataclasses.replace(config, **overrides)


def _tiles_for(hf: Any) -> TileConfig:
    if hf.model_type == "llava":
        return TileConfig(policy="single", tile_size=TILE, base_tile="crop")
    pinpoints = tuple(Size(*pinpoint) for pinpoint in hf.image_grid_pinpoints)
    common = {"tile_size": TILE, "pinpoints": pinpoints, "axis_order": "hf", "rounding": "hf"}
    if hf.model_type == "llava_next":
        return TileConfig(**common)
    half = (0.5, 0.5, 0.5)
    shrink = int(hf.vision_aspect_ratio.removeprefix("anyres_max_"))
    return TileConfig(**common, multi_image="single", anyres_max=shrink, image_mean=half, image_std=half)


def _randomise(model: PreTrainedModel) -> PreTrainedModel:
    """Give every parameter values that matter: biases are zero and norms one otherwise, which hides mistakes."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim == 1:
                parameter.add_(noise, alpha=0.1)
            else:
                parameter.copy_(noise * (0.6 if "embed" in name else parameter.shape[-1] ** -0.5))
    return model.eval()
