"""Writing: what a layout cannot say is refused before anything is written, and nothing else is lost."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoProcessor

from llava_core.checkpoints import check_layout, export_checkpoint, load_model, read_config, save_model
from llava_core.checkpoints.standard import canonical, standard_config
from llava_core.checkpoints.untrained import byte_tokenizer, fill, untrained_config
from llava_core.config import CLIP_STD, ModelConfig, VideoConfig, VisionConfig, plan_tiles
from llava_core.errors import CheckpointReason, CheckpointRefused, ConfigError
from llava_core.geometry import Size
from llava_core.model import LLaVANeXT
from tests.llava_core.checkpoints.cases import WEIGHTS, assert_same, edit_config, edit_tensors, ours
from tests.tiny_models import hf_llava, hf_next, hf_onevision, siglip_config, untrained_folder

BASE = untrained_config()


def changed(part: str, **changes: Any) -> ModelConfig:
    """The untrained config with one part's settings changed."""
    return dataclasses.replace(BASE, **{part: dataclasses.replace(getattr(BASE, part), **changes)})


def built(config: ModelConfig) -> LLaVANeXT:
    model = LLaVANeXT(config)
    fill(model, seed=5)
    return model


ONEVISION = dataclasses.replace(
    changed("tiles", anyres_max=2, multi_image="single"), family="llava_onevision", video_token_id=5
)
UNBOUNDED = dataclasses.replace(ONEVISION, tiles=dataclasses.replace(ONEVISION.tiles, anyres_max=None))
BOTH = ("hf", "original")
INEXPRESSIBLE = [
    ("position_embedding", changed("connector", position_embedding=True), BOTH),
    ("cross_image_attention", changed("connector", cross_image_attention=True), BOTH),
    ("compression_ratio", changed("connector", compression_ratio=2), BOTH),
    ("temporal_encoder", changed("video", temporal_encoder=True), BOTH),
    ("policy", changed("tiles", policy="grid", pinpoints=()), BOTH),
    ("base_tile", changed("tiles", base_tile="pad"), BOTH),
    ("multi_image", changed("tiles", multi_image="single"), BOTH),
    ("placement", dataclasses.replace(BASE, placement="concatenate"), BOTH),
    ("packing", dataclasses.replace(changed("connector", image_newline=False), packing="flat"), BOTH[:1]),
    ("image_newline", changed("connector", image_newline=False), BOTH),
    ("num_layers", changed("connector", num_layers=3), BOTH[:1]),
    ("num_layers", changed("connector", num_layers=1), BOTH[:1]),
    ("bias", changed("connector", bias=False), BOTH[1:]),
    ("anyres_max|multi_image", UNBOUNDED, BOTH),
    ("newline_position", dataclasses.replace(ONEVISION, video=VideoConfig(newline_position="grid")), BOTH[:1]),
    ("pool_stride", dataclasses.replace(ONEVISION, video=VideoConfig(pool_stride=3)), BOTH[:1]),
    ("policy", changed("tiles", policy="single"), BOTH),
]


@pytest.mark.parametrize(("says", "config", "layouts"), INEXPRESSIBLE)
def test_what_a_layout_cannot_say_is_refused_and_kept_by_ours(
    tmp_path: Path, says: str, config: ModelConfig, layouts: tuple[str, ...]
) -> None:
    model = built(config)
    for layout in layouts:
        with pytest.raises(CheckpointRefused) as caught:
            save_model(model, tmp_path / layout, layout)  # type: ignore[arg-type]
        assert caught.value.reason is CheckpointReason.NOT_EXPRESSIBLE
        with pytest.raises(CheckpointRefused) as beforehand:
            check_layout(config, layout)  # type: ignore[arg-type]
        assert str(beforehand.value) == str(caught.value)
        assert re.search(says, caught.value.detail)
        assert not (tmp_path / layout).exists()
    for layout in {"own", *BOTH} - set(layouts):
        save_model(model, tmp_path / layout, layout)
        again = load_model(tmp_path / layout)
        assert canonical(again.config) == canonical(config)
        assert_same(model, again)


def test_a_tower_without_a_class_token_is_written_as_one_whose_features_are_all_kept(tmp_path: Path) -> None:
    tower = siglip_config(image_size=56, patch_size=14).to_dict()
    config = dataclasses.replace(BASE, vision=VisionConfig(tower=tower, select_layer=-1, select_feature="patch"))
    save_model(built(config), tmp_path, "hf")
    assert json.loads((tmp_path / "config.json").read_text())["vision_feature_select_strategy"] == "full"


def test_other_language_models_go_into_ours_alone(tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2}
    text = standard_config({"model_type": "gpt2", **sizes})
    model = built(dataclasses.replace(BASE, text={**text, "hidden_size": 32}, text_dim=32))
    for layout in BOTH:
        with pytest.raises(CheckpointRefused) as caught:
            save_model(model, tmp_path / layout, layout)  # type: ignore[arg-type]
        assert caught.value.reason is CheckpointReason.NOT_EXPRESSIBLE
        assert "gpt2" in caught.value.detail
    save_model(model, tmp_path / "own")
    assert_same(model, load_model(tmp_path / "own"))


def test_model_without_a_language_model(tmp_path: Path) -> None:
    model = LLaVANeXT(dataclasses.replace(BASE, text=None))
    save_model(model, tmp_path / "own")
    assert_same(model, load_model(tmp_path / "own"))
    with pytest.raises(CheckpointRefused):
        save_model(model, tmp_path / "hf", "hf")


@pytest.mark.parametrize("layout", BOTH)
def test_harmless_settings_are_carried(tmp_path: Path, layout: Any) -> None:
    config = changed("tiles", image_mean=(0.1, 0.2, 0.3), rounding="hf" if layout == "original" else "original")
    config = dataclasses.replace(config, template="plain", trained=False, image_token_id=7)
    save_model(built(config), tmp_path / layout, layout)
    again = read_config(tmp_path / layout)
    assert canonical(again) == canonical(config)
    assert (again.template, again.trained, again.image_token_id) == ("plain", False, 7)


def test_unknown_layout_and_quantised_model(tmp_path: Path) -> None:
    model = built(BASE)
    with pytest.raises(ConfigError, match="'own', 'hf', 'original'"):
        save_model(model, tmp_path, "onnx")  # type: ignore[arg-type]
    model.language_model.is_quantized = True
    with pytest.raises(ConfigError, match="4 or 8 bits"):
        save_model(model, tmp_path)


def test_resized_embedding_needs_its_config(tmp_path: Path) -> None:
    model = built(BASE)
    model.language_model.resize_token_embeddings(333, mean_resizing=False)
    with pytest.raises(CheckpointRefused, match="333 rows") as caught:
        save_model(model, tmp_path / "own")
    assert caught.value.reason is CheckpointReason.WRONG_SHAPE


def test_original_linear_projector(tmp_path: Path) -> None:
    config = changed("connector", num_layers=1)
    model = built(config)
    save_model(model, tmp_path, "original")
    stored = load_file(tmp_path / WEIGHTS)
    assert torch.equal(stored["model.mm_projector.weight"], model.projector.projector[0].weight)
    assert json.loads((tmp_path / "config.json").read_text())["mm_projector_type"] == "linear"
    assert_same(model, load_model(tmp_path))


def test_placeholder_beyond_the_table_gets_rows_in_hf_alone(tmp_path: Path) -> None:
    text = {**(BASE.text or {}), "vocab_size": 100}
    model = built(dataclasses.replace(BASE, text=text, image_token_id=130))
    save_model(model, tmp_path / "hf", "hf")
    stored = load_file(tmp_path / "hf" / WEIGHTS)
    table = model.language_model.get_input_embeddings().weight
    for name, whole in (
        ("language_model.model.embed_tokens.weight", table),
        ("language_model.lm_head.weight", model.language_model.lm_head.weight),
    ):
        assert stored[name].shape == (192, 64)
        assert torch.equal(stored[name][:100], whole)
        torch.testing.assert_close(stored[name][100:], whole.mean(dim=0).expand(92, 64))
    again = load_model(tmp_path / "hf")
    assert_same(model, again)
    assert canonical(again.config) == canonical(model.config)
    save_model(model, tmp_path / "original", "original")
    assert load_file(tmp_path / "original" / WEIGHTS)["model.embed_tokens.weight"].shape == (100, 64)


def test_pinpoints_are_transposed_for_readers_of_the_other_order(tmp_path: Path) -> None:
    config = changed("tiles", pinpoints=(Size(56, 168), Size(112, 56)))
    assert config.tiles.axis_order == "original"
    model = built(config)
    for layout in BOTH:
        save_model(model, tmp_path / layout, layout)  # type: ignore[arg-type]
    written = {name: json.loads((tmp_path / name / "config.json").read_text())["image_grid_pinpoints"] for name in BOTH}
    assert written == {"original": [[56, 168], [112, 56]], "hf": [[168, 56], [56, 112]]}
    preprocessor = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert preprocessor["image_grid_pinpoints"] == written["hf"]


def test_a_folder_is_replaced_and_a_mapped_model_survives_it(tmp_path: Path) -> None:
    save_model(built(BASE), tmp_path, "hf", max_shard_bytes=300_000)
    model = load_model(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.image_newline.add_(1)  # type: ignore[union-attr]
    save_model(model, tmp_path, "own")
    assert not list(tmp_path.glob("*-of-*"))
    assert not (tmp_path / "preprocessor_config.json").exists()
    again = load_model(tmp_path)
    assert_same(model, again)
    assert torch.equal(again.image_newline, before["image_newline"] + 1)  # type: ignore[arg-type]
    assert torch.equal(model.language_model.lm_head.weight, before["language_model.lm_head.weight"])


def test_an_interrupted_folder_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(built(BASE), tmp_path)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llava_core.checkpoints.weights.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_model(built(BASE), tmp_path)
    with pytest.raises(CheckpointRefused) as caught:
        load_model(tmp_path)
    assert caught.value.reason is CheckpointReason.NOT_FOUND


def test_generation_settings_travel(tmp_path: Path) -> None:
    model = built(BASE)
    model.language_model.generation_config.eos_token_id = [2, 9]
    for layout in ("own", *BOTH):
        save_model(model, tmp_path / layout, layout)  # type: ignore[arg-type]
        assert load_model(tmp_path / layout).language_model.generation_config.eos_token_id == [2, 9]


def recoloured(model: LLaVANeXT) -> LLaVANeXT:
    tiles = dataclasses.replace(model.config.tiles, image_mean=(0.2, 0.4, 0.6))
    model.config = dataclasses.replace(model.config, tiles=tiles)
    return model


@pytest.mark.parametrize(
    ("make", "fit"), [(hf_llava, "crop"), (hf_llava, "pad"), (hf_llava, "squash"), (hf_next, None)]
)
def test_auto_processor_reads_the_hf_folder(tmp_path: Path, make: Any, fit: Any) -> None:
    """Tokens are counted as this project counts them, and the image is made square as the config says."""
    model = recoloured(ours(make(), tmp_path / "in"))
    if fit is not None:
        tiles = dataclasses.replace(model.config.tiles, base_tile=fit)
        model.config = dataclasses.replace(model.config, tiles=tiles)
    save_model(model, tmp_path / "hf", "hf", tokenizer=byte_tokenizer())
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    assert list(processor.image_processor.image_mean) == [0.2, 0.4, 0.6]
    image = np.full((40, 90, 3), 255, dtype=np.uint8)
    image[:, :20], image[:, -20:] = 0, 0
    out = processor(images=[image], text=["<image> x"], return_tensors="pt")
    side, image_token = model.config.tiles.tile_size, processor.tokenizer.convert_tokens_to_ids("<image>")
    assert out["pixel_values"].shape[-3:] == (3, side, side)
    expected = plan_tiles(Size(40, 90), model.config).num_image_tokens
    assert int((out["input_ids"] == image_token).sum()) == expected
    # The middle row of the (base) tile, red: black borders are there unless cropped; padding shows in the first row.
    base = out["pixel_values"].reshape(-1, 3, side, side)[0, 0] * CLIP_STD[0] + 0.2
    assert (float(base[side // 2, 0]) < 0.5) == (fit != "crop")
    assert (abs(float(base[0, side // 2]) - 0.2) < 0.01) == (fit == "pad")
    assert canonical(read_config(tmp_path / "hf")) == canonical(model.config)


def test_auto_image_processor_reads_the_hf_folder_of_onevision(tmp_path: Path) -> None:
    """Its whole processor needs torchvision, for video; its images do not."""
    model = recoloured(ours(hf_onevision(), tmp_path / "in"))
    save_model(model, tmp_path / "hf", "hf", tokenizer=byte_tokenizer())
    processor = AutoImageProcessor.from_pretrained(tmp_path / "hf")
    assert type(processor).__name__.startswith("LlavaOnevisionImageProcessor")
    assert list(processor.image_mean) == [0.2, 0.4, 0.6]
    assert processor.size["height"] == model.config.tiles.tile_size
    out = processor(images=[np.zeros((40, 90, 3), dtype=np.uint8)], return_tensors="pt")
    plan = plan_tiles(Size(40, 90), model.config)
    assert out["pixel_values"].shape[1:] == (plan.num_tiles, 3, 28, 28)
    assert json.loads((tmp_path / "hf" / "processor_config.json").read_text())["num_image_tokens"] == 49


@pytest.mark.parametrize("layout", ["own", *BOTH])
def test_export_in_half_precision(tmp_path: Path, layout: Any) -> None:
    model = export_checkpoint(untrained_folder(), tmp_path / layout, layout, dtype="bfloat16")
    again = load_model(tmp_path / layout)
    assert {tensor.dtype for tensor in again.state_dict().values()} == {torch.bfloat16}
    assert_same(model, again)
    assert canonical(again.config) == canonical(model.config)
    assert (tmp_path / layout / "tokenizer.json").is_file()
    with pytest.raises(ConfigError, match="the checkpoint itself"):
        export_checkpoint(tmp_path / layout, tmp_path / layout, "own")


def test_export_gives_an_original_tokenizer_its_image_token(tmp_path: Path) -> None:
    export_checkpoint(untrained_folder(), tmp_path / "original", "original")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = tmp_path / "original" / name
        path.write_text(path.read_text().replace("<image>", "<other>"))
    # Without carried settings, as a released folder is: <image> comes after the last token.
    edit_config(tmp_path / "original", tessera=None)
    assert read_config(tmp_path / "original").image_token_id == 261
    export_checkpoint(tmp_path / "original", tmp_path / "hf", "hf")
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == 261
    assert load_model(tmp_path / "hf").config.image_token_id == 261


def test_carried_rows_do_not_excuse_a_short_table(tmp_path: Path) -> None:
    save_model(built(dataclasses.replace(BASE, image_token_id=330)), tmp_path, "hf")
    edit_tensors(tmp_path, lambda t: {n: v[:300].clone() if v.shape[0] == 384 else v for n, v in t.items()})
    with pytest.raises(CheckpointRefused) as caught:
        load_model(tmp_path)
    assert caught.value.reason is CheckpointReason.WRONG_SHAPE
