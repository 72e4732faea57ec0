"""Settings of transformers' LLaVA layout, translated both ways: `llava`, `llava_next`, `llava_onevision`.

The preprocessing half lies in `preprocessor_config.json` (or, from transformers 5, inside `processor_config.json`).
Pinpoints mean (height, width) here, always: a model trained with the original (width, height) reading is written with
its entries transposed, so that transformers chooses the canvases it was trained with. The published `llava-hf`
conversions did not do that; read them with `axis_order="original"` to get the behaviour they were trained with.

What this does *not* do: read tensors, or decide what to do about settings it cannot say (`standard`).
Source: `configuration_llava*.py` and the processors of transformers 5.23.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from transformers import CONFIG_MAPPING

from llava_core.checkpoints.standard import TEXT_MODELS, TOWERS, legacy_rope, standard_config, template_for
from llava_core.checkpoints.towers import HALF
from llava_core.config import (
    CLIP_MEAN,
    CLIP_STD,
    ConnectorConfig,
    ModelConfig,
    SquareFit,
    TileConfig,
    VideoConfig,
    VisionConfig,
)
from llava_core.errors import CheckpointReason, CheckpointRefused
from llava_core.geometry import AxisOrder, Size

CLASSES = {
    "llava": ("LlavaForConditionalGeneration", "LlavaProcessor", "LlavaImageProcessor"),
    "llava_next": ("LlavaNextForConditionalGeneration", "LlavaNextProcessor", "LlavaNextImageProcessor"),
    "llava_onevision": (
        "LlavaOnevisionForConditionalGeneration",
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessor",
    ),
}
"""model_type → names of transformers' model, processor and image processor."""


def read(
    raw: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    *,
    axis_order: AxisOrder | None = None,
    template: str | None = None,
) -> ModelConfig:
    """Translate a transformers config.

    Args:
        raw: config.json, `model_type` one of `CLASSES`.
        preprocessor: preprocessor_config.json, or {}: then what transformers' own classes default to.
        axis_order: how pinpoints are read; default "hf".
        template: prompt template; default by `template_for`.

    Returns:
        The model's config.

    Raises:
        CheckpointRefused: NOT_EXPRESSIBLE or CORRUPT for settings that this project's model does not have.
    """
    family = raw["model_type"]
    try:
        full = CONFIG_MAPPING[family].from_dict({key: value for key, value in raw.items() if key != "tessera"})
    except Exception as error:  # transformers validates with several unrelated types of error
        raise CheckpointRefused(CheckpointReason.CORRUPT, f"config.json of a {family} is wrong: {error}") from error
    if full.projector_hidden_act != "gelu" or not isinstance(full.vision_feature_layer, int):
        detail = (
            f"projector_hidden_act {full.projector_hidden_act!r}, vision_feature_layer {full.vision_feature_layer!r}; "
            "this model has GELU and one layer"
        )
        raise CheckpointRefused(CheckpointReason.NOT_EXPRESSIBLE, detail)
    text = standard_config(full.text_config.to_dict())
    text["tie_word_embeddings"] = bool(full.tie_word_embeddings)
    tower = standard_config(full.vision_config.to_dict())
    if tower["model_type"] != "clip_vision_model" and full.vision_feature_select_strategy == "default":
        detail = f'vision_feature_select_strategy "default" drops the first patch of a {tower["model_type"]}'
        raise CheckpointRefused(CheckpointReason.NOT_EXPRESSIBLE, detail)
    strategy: Literal["patch", "full"] = "patch" if full.vision_feature_select_strategy == "default" else "full"
    return ModelConfig(
        family=family,
        vision=VisionConfig(tower=tower, select_layer=full.vision_feature_layer, select_feature=strategy),
        text=text,
        text_dim=text["hidden_size"],
        connector=ConnectorConfig(bias=full.multimodal_projector_bias, image_newline=family != "llava"),
        tiles=_read_tiles(full, tower, preprocessor, axis_order or "hf"),
        video=VideoConfig(),
        packing="flat" if family == "llava" else "spatial_unpad",
        image_token_id=full.image_token_id,
        video_token_id=full.video_token_id if family == "llava_onevision" else None,
        template=template or template_for(text),
    )


def _read_tiles(full: Any, tower: Mapping[str, Any], preprocessor: Mapping[str, Any], order: AxisOrder) -> TileConfig:
    siglip = tower["model_type"] == "siglip_vision_model"
    common: dict[str, Any] = {
        "tile_size": tower["image_size"],
        "rounding": "hf",
        "image_mean": tuple(preprocessor.get("image_mean") or (HALF if siglip else CLIP_MEAN)),
        "image_std": tuple(preprocessor.get("image_std") or (HALF if siglip else CLIP_STD)),
    }
    if full.model_type == "llava":
        return TileConfig(policy="single", base_tile=_read_fit(preprocessor), axis_order=order, **common)
    common |= {"pinpoints": tuple(Size(*pair) for pair in full.image_grid_pinpoints), "axis_order": order}
    if full.model_type == "llava_next":
        return TileConfig(**common)
    bound = re.fullmatch(r"anyres_max_(\d+)", full.vision_aspect_ratio)
    if not bound:
        detail = f'vision_aspect_ratio is {full.vision_aspect_ratio!r}; expected "anyres_max_N", as transformers packs'
        raise CheckpointRefused(CheckpointReason.NOT_EXPRESSIBLE, detail)
    return TileConfig(**common, anyres_max=int(bound[1]), multi_image="single")


def _read_fit(preprocessor: Mapping[str, Any]) -> SquareFit:
    """How LLaVA 1.x makes an image square; transformers crops unless told otherwise."""
    if preprocessor.get("do_pad"):
        return "pad"
    return "crop" if preprocessor.get("do_center_crop", True) else "squash"


def write(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Translate a canonical config to transformers' config.json.

    Args:
        config: as `canonical` returns it, with a language model.
        dtype: of the tensors, e.g. "bfloat16".

    Returns:
        The file's content; settings it has no word for are simply absent, which the caller checks by reading it back.

    Raises:
        CheckpointRefused: NOT_EXPRESSIBLE for a tower or language model that the layout cannot hold.
    """
    text, tower = config.text, config.vision.tower
    if text is None or text["model_type"] not in TEXT_MODELS or tower.get("model_type") not in TOWERS:
        raise CheckpointRefused(
            CheckpointReason.NOT_EXPRESSIBLE,
            f'layout "hf" is written for language models {TEXT_MODELS} and towers {TOWERS}, not for '
            f'{text and text["model_type"]!r} and {tower.get("model_type")!r}; write layout "own"',
        )
    raw = {
        "architectures": [CLASSES[config.family][0]],
        "model_type": config.family,
        "torch_dtype": dtype,
        "image_token_index": config.image_token_id,
        "image_seq_length": config.vision.patches_per_side**2 + config.vision.num_class_tokens,
        "multimodal_projector_bias": config.connector.bias,
        "projector_hidden_act": "gelu",
        "text_config": {**legacy_rope(text), "torch_dtype": dtype},
        "tie_word_embeddings": text["tie_word_embeddings"],
        "vision_config": {**tower, "torch_dtype": dtype},
        "vision_feature_layer": config.vision.select_layer,
        "vision_feature_select_strategy": "default" if config.vision.select_feature == "patch" else "full",
    }
    if config.family != "llava":
        raw["image_grid_pinpoints"] = [list(pair) for pair in config.tiles.pinpoints]
    if config.family == "llava_onevision":
        raw["vision_aspect_ratio"] = f"anyres_max_{config.tiles.anyres_max}"
        raw["video_token_index"] = config.video_token_id
    return raw


def write_preprocessors(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """The files that transformers' `AutoProcessor` needs beside the tokenizer.

    Returns:
        File name → content.
    """
    _, processor, image_processor = CLASSES[config.family]
    side, fit = config.tiles.tile_size, config.tiles.base_tile
    square = {"height": side, "width": side}
    clip = config.vision.tower["model_type"] == "clip_vision_model"
    pixels: dict[str, Any] = {
        "processor_class": processor,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(config.tiles.image_mean),
        "image_std": list(config.tiles.image_std),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": square if config.family == "llava_onevision" or fit != "crop" else {"shortest_edge": side},
    }
    images = {**pixels, "image_processor_type": image_processor}
    if config.family == "llava_onevision":
        images |= {"do_pad": True, "image_grid_pinpoints": [list(pair) for pair in config.tiles.pinpoints]}
    elif config.family == "llava_next":
        images |= {"do_center_crop": True, "do_pad": True, "crop_size": square, "size": {"shortest_edge": side}}
        images["image_grid_pinpoints"] = [list(pair) for pair in config.tiles.pinpoints]
    else:
        images |= {"do_center_crop": fit == "crop", "crop_size": square, "do_pad": fit == "pad"}
    whole: dict[str, Any] = {
        "processor_class": processor,
        "image_token": "<image>",
        "vision_feature_select_strategy": "default" if config.vision.select_feature == "patch" else "full",
    }
    if config.family != "llava_onevision":
        whole |= {"patch_size": config.vision.tower["patch_size"], "num_additional_image_tokens": int(clip)}
        return {"preprocessor_config.json": images, "processor_config.json": whole}
    whole |= {"num_image_tokens": config.vision.patches_per_side**2, "video_token": "<video>"}
    whole["vision_aspect_ratio"] = f"anyres_max_{config.tiles.anyres_max}"
    videos = {**pixels, "video_processor_type": "LlavaOnevisionVideoProcessor"}
    return {
        "preprocessor_config.json": images,
        "processor_config.json": whole,
        "video_preprocessor_config.json": videos,
    }
