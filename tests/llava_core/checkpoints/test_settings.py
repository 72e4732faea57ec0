"""Config files of the released checkpoints, as far as this project reads them, and the settings they must give."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from llava_core.checkpoints import detect_layout, read_config
from llava_core.checkpoints.files import write_json
from llava_core.checkpoints.original import parse_pinpoints
from llava_core.checkpoints.standard import canonical, standard_config, template_for
from llava_core.checkpoints.towers import KNOWN_TOWERS, name_of_tower, tower_by_name
from llava_core.config import CLIP_MEAN, ModelConfig, plan_tiles
from llava_core.errors import CheckpointReason, CheckpointRefused
from llava_core.geometry import Size
from tests.tiny_models import siglip_config

FIVE = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32}
V15: dict[str, Any] = {
    **LLAMA,
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "vocab_size": 32000,
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "image_aspect_ratio": "pad",
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "pretraining_tp": 1,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0",
}
V16_MISTRAL: dict[str, Any] = {
    **V15,
    "architectures": ["LlavaMistralForCausalLM"],
    "model_type": "llava_mistral",
    "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": FIVE,
    "mm_patch_merge_type": "spatial_unpad",
    "num_key_value_heads": 8,
    "rope_theta": 1000000.0,
    "sliding_window": None,
}
ONEVISION: dict[str, Any] = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "rope_theta": 1000000.0,
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": "(1x1),...,(6x6)",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
}
HF_NEXT: dict[str, Any] = {
    "architectures": ["LlavaNextForConditionalGeneration"],
    "model_type": "llava_next",
    "image_token_index": 32000,
    "image_grid_pinpoints": FIVE,
    "projector_hidden_act": "gelu",
    "text_config": {"_name_or_path": "lmsys/vicuna-7b-v1.5", "model_type": "llama", "vocab_size": 32064},
    "vision_config": {"hidden_size": 1024, "image_size": 336, "model_type": "clip_vision_model", "patch_size": 14,
                      "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24},
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}  # fmt: skip


def read(folder: Path, raw: dict[str, Any], **options: Any) -> ModelConfig:
    write_json(folder / "config.json", raw)
    return read_config(folder, **options)


def refused(folder: Path, raw: dict[str, Any], **options: Any) -> CheckpointRefused:
    with pytest.raises(CheckpointRefused) as caught:
        read(folder, raw, **options)
    return caught.value


def test_original_1_5(tmp_path: Path) -> None:
    config = read(tmp_path, V15)
    assert detect_layout(tmp_path) == "original"
    assert (config.family, config.packing, config.template) == ("llava", "flat", "vicuna_v1")
    assert (config.tiles.policy, config.tiles.base_tile, config.tiles.tile_size) == ("single", "pad", 336)
    assert (config.vision.select_layer, config.vision.select_feature) == (-2, "patch")
    assert config.vision.tower["num_hidden_layers"] == 24
    assert config.vision.tower["hidden_act"] == "quick_gelu"
    assert (config.connector.num_layers, config.connector.image_newline) == (2, False)
    assert (config.image_token_id, config.video_token_id) == (32000, None)
    assert config.text is not None
    assert config.text["rms_norm_eps"] == 1e-05
    assert plan_tiles(Size(480, 640), config).num_image_tokens == 576


def test_original_1_0_is_linear_and_crops(tmp_path: Path) -> None:
    raw = {key: value for key, value in V15.items() if key not in ("image_aspect_ratio", "mm_projector_type")}
    config = read(tmp_path, {**raw, "mm_vision_tower": "openai/clip-vit-large-patch14"})
    assert (config.connector.num_layers, config.tiles.base_tile, config.tiles.tile_size) == (1, "crop", 224)


def test_original_1_6_mistral(tmp_path: Path) -> None:
    config = read(tmp_path, V16_MISTRAL)
    assert (config.family, config.packing, config.template) == ("llava_next", "spatial_unpad", "mistral_instruct")
    assert config.connector.image_newline
    assert (config.tiles.axis_order, config.tiles.rounding, config.tiles.base_tile) == (
        "original",
        "original",
        "squash",
    )
    assert [list(pair) for pair in config.tiles.pinpoints] == FIVE
    assert config.text is not None
    assert config.text["rope_parameters"]["rope_theta"] == 1000000.0
    assert config.text["sliding_window"] is None
    assert plan_tiles(Size(480, 640), config).num_image_tokens == 2340


def test_original_onevision(tmp_path: Path) -> None:
    config = read(tmp_path, ONEVISION)
    assert (config.family, config.template, config.tiles.anyres_max) == ("llava_onevision", "qwen_1_5", 9)
    assert (config.vision.select_layer, config.vision.select_feature) == (-1, "full")
    assert config.vision.tower["num_hidden_layers"] == 26
    assert config.vision.tower["vision_use_head"] is False
    assert config.tiles.image_mean == (0.5, 0.5, 0.5)
    assert config.tiles.multi_image == "single"
    assert len(config.tiles.pinpoints) == 36
    assert config.tiles.pinpoints[1] == (384, 768)
    assert (config.image_token_id, config.video_token_id) == (151646, 151647)
    assert config.text is not None
    assert config.text["tie_word_embeddings"] is True
    assert plan_tiles(Size(1080, 1920), config).num_image_tokens == 7269


@pytest.mark.parametrize(
    ("changes", "template", "image_token"),
    [
        ({"vocab_size": 64000}, "chatml_direct", 64000),
        ({"vocab_size": 128256}, "llava_llama_3", 128256),
        ({"architectures": ["LlavaQwenForCausalLM"], "vocab_size": 152064}, "qwen_1_5", 151646),
        ({"architectures": None, "model_type": "llava_qwen", "vocab_size": 152064}, "qwen_1_5", 151646),
        ({}, "vicuna_v1", 32000),
    ],
)
def test_template_follows_the_language_model(
    tmp_path: Path, changes: dict[str, Any], template: str, image_token: int
) -> None:
    config = read(tmp_path, {**V15, **changes})
    assert (config.template, config.image_token_id) == (template, image_token)
    assert read_config(tmp_path, template="plain").template == "plain"


def test_template_without_a_rule_must_be_given() -> None:
    with pytest.raises(CheckpointRefused, match="give template="):
        template_for({"model_type": "gpt2", "vocab_size": 50257})


def test_hf_next_as_published(tmp_path: Path) -> None:
    config = read(tmp_path, HF_NEXT)
    assert detect_layout(tmp_path) == "hf"
    assert config.text is not None
    assert (config.text_dim, config.text["num_hidden_layers"], config.text["vocab_size"]) == (4096, 32, 32064)
    assert (config.family, config.template, config.tiles.axis_order) == ("llava_next", "vicuna_v1", "hf")
    assert config.tiles.image_mean == CLIP_MEAN
    assert read_config(tmp_path, axis_order="original").tiles.axis_order == "original"


def test_hf_preprocessor_gives_mean_and_fit(tmp_path: Path) -> None:
    raw = {**HF_NEXT, "model_type": "llava"}
    assert read(tmp_path, raw).tiles.base_tile == "crop"
    write_json(tmp_path / "preprocessor_config.json", {"do_pad": True, "image_mean": [0.1, 0.2, 0.3]})
    assert read_config(tmp_path).tiles.base_tile == "pad"
    assert read_config(tmp_path).tiles.image_mean == (0.1, 0.2, 0.3)
    (tmp_path / "preprocessor_config.json").unlink()
    write_json(tmp_path / "processor_config.json", {"image_processor": {"do_center_crop": False}})
    assert read_config(tmp_path).tiles.base_tile == "squash"


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"mm_use_im_start_end": True}, CheckpointReason.NOT_EXPRESSIBLE, "mm_use_im_start_end"),
        ({"mm_resampler_type": "qformer"}, CheckpointReason.NOT_EXPRESSIBLE, "qformer"),
        ({"mm_projector_type": "identity"}, CheckpointReason.NOT_EXPRESSIBLE, "mlpNx_gelu"),
        ({"mm_projector_type": "mlp2x_res2x_gelu"}, CheckpointReason.NOT_EXPRESSIBLE, "mlpNx_gelu"),
        ({"mm_patch_merge_type": "maxpool"}, CheckpointReason.NOT_EXPRESSIBLE, "maxpool"),
        ({"mm_vision_select_feature": "cls"}, CheckpointReason.NOT_EXPRESSIBLE, "cls_patch"),
        ({"image_aspect_ratio": "highres"}, CheckpointReason.NOT_EXPRESSIBLE, "highres"),
        ({"image_aspect_ratio": "anyres"}, CheckpointReason.CORRUPT, "image_grid_pinpoints"),
        ({"mm_vision_tower": "somebody/vit"}, CheckpointReason.NOT_FOUND, "vision_tower="),
        ({"architectures": ["LlavaMptForCausalLM"], "model_type": "llava_mpt"}, CheckpointReason.UNKNOWN_LAYOUT, "mpt"),
        ({"model_type": "bert"}, CheckpointReason.UNKNOWN_LAYOUT, "bert"),
        ({"hidden_size": "wide"}, CheckpointReason.CORRUPT, "hidden_size"),
        ({"auto_map": {"AutoModel": "x.Y"}}, CheckpointReason.REMOTE_CODE, "auto_map"),
        ({"tessera": {"connector.num_layers": 3}}, CheckpointReason.CORRUPT, "connector.num_layers"),
        ({"tessera": {"tiles.rounding": "up"}}, CheckpointReason.CORRUPT, "up"),
    ],
)
def test_original_settings_that_are_refused(
    tmp_path: Path, changes: dict[str, Any], reason: CheckpointReason, says: str
) -> None:
    error = refused(tmp_path, {**V15, **changes})
    assert error.reason is reason
    assert says in error.detail


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"projector_hidden_act": "relu"}, CheckpointReason.NOT_EXPRESSIBLE, "relu"),
        ({"vision_feature_layer": [-2, -5]}, CheckpointReason.NOT_EXPRESSIBLE, "[-2, -5]"),
        (
            {
                "vision_config": siglip_config().to_dict(),
                "vision_feature_layer": -1,
                "vision_feature_select_strategy": "default",
            },
            CheckpointReason.NOT_EXPRESSIBLE,
            "drops the first patch",
        ),
        ({"text_config": {"model_type": "no_such_model"}}, CheckpointReason.CORRUPT, "no_such_model"),
        (
            {"model_type": "llava_onevision", "vision_aspect_ratio": "anyres"},
            CheckpointReason.NOT_EXPRESSIBLE,
            "anyres_max_N",
        ),
    ],
)
def test_hf_settings_that_are_refused(
    tmp_path: Path, changes: dict[str, Any], reason: CheckpointReason, says: str
) -> None:
    error = refused(tmp_path, {**HF_NEXT, **changes})
    assert error.reason is reason
    assert says in error.detail


def test_own_settings_that_are_refused(tmp_path: Path) -> None:
    own = {"model_type": "tessera", "format_version": 1, **read(tmp_path, V15).to_dict()}
    assert read(tmp_path, own) == read_config(tmp_path)
    assert detect_layout(tmp_path) == "own"
    assert refused(tmp_path, {**own, "format_version": 2}).reason is CheckpointReason.UNKNOWN_LAYOUT
    assert refused(tmp_path, {**own, "packing": "loose"}).reason is CheckpointReason.CORRUPT
    assert refused(tmp_path, {**own, "surprise": 1}).reason is CheckpointReason.CORRUPT


def test_no_config_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused) as caught:
        detect_layout(tmp_path)
    assert caught.value.reason is CheckpointReason.NOT_FOUND


def test_pinpoints_keep_the_files_spelling() -> None:
    assert parse_pinpoints([[672, 336]], 336) == (Size(672, 336),)
    assert parse_pinpoints("(1x2),...,(2x3)", 10) == (Size(10, 20), Size(10, 30), Size(20, 20), Size(20, 30))
    for wrong in (None, [], "none", [[1, 2, 3]], 5):
        with pytest.raises(CheckpointRefused):
            parse_pinpoints(wrong, 336)


def test_transposed_list_chooses_the_same_canvases(tmp_path: Path) -> None:
    """Not closed under transposition, ties included: small images tie on every canvas that holds them."""
    config = read(tmp_path, {**V16_MISTRAL, "image_grid_pinpoints": [[336, 672], [1344, 336], [672, 336], [672, 672]]})
    turned = canonical(config)
    assert turned.tiles.axis_order == "hf"
    assert turned.tiles.pinpoints[1] == (336, 1344)
    kept = dataclasses.replace(config.tiles, rounding="hf")
    config, turned = (
        dataclasses.replace(c, tiles=dataclasses.replace(c.tiles, rounding="hf")) for c in (config, turned)
    )
    assert kept.axis_order == "original"
    for height in range(7, 1500, 61):
        for width in range(7, 1500, 53):
            size = Size(height, width)
            assert plan_tiles(size, config) == plan_tiles(size, turned)
    untransposed = dataclasses.replace(config, tiles=dataclasses.replace(config.tiles, axis_order="hf"))
    assert plan_tiles(Size(300, 200), untransposed) != plan_tiles(Size(300, 200), turned)


def test_known_towers_by_name_and_by_config() -> None:
    for name in KNOWN_TOWERS:
        config = tower_by_name(f"/somewhere/{name}/")
        assert config is not None
        assert name_of_tower(config) == name
        assert name_of_tower({**config, "hidden_size": 8}) is None
    assert tower_by_name("openai/clip-vit-large-patch14-224") is None


def test_standard_config_is_stable_and_forgets_what_is_not_the_model() -> None:
    once = standard_config({"model_type": "qwen2", "hidden_size": 64, "torch_dtype": "float16", "rope_theta": 5.0})
    assert once == standard_config(once)
    assert not once.keys() & {"dtype", "torch_dtype", "transformers_version"}
    assert once["rope_parameters"]["rope_theta"] == 5.0
    with pytest.raises(CheckpointRefused) as caught:
        standard_config({"model_type": "no_such_model"})
    assert caught.value.reason is CheckpointReason.UNKNOWN_LAYOUT
