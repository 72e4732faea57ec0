"""Loading strictly: one tensor too many, too few, misshapen or not finite is refused; what fits is not copied twice."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BitsAndBytesConfig, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from llava_core.checkpoints import load as load_module
from llava_core.checkpoints import load_model, read_config, resolve_model, revision, save_model
from llava_core.checkpoints.files import write_json
from llava_core.errors import CheckpointReason, CheckpointRefused, ConfigError
from llava_core.model import LLaVANeXT, LLaVAOneVision
from tests.llava_core.checkpoints.cases import assert_same, edit_config, edit_tensors, ours, saved
from tests.tiny_models import clip_config, hf_llava, hf_next, hf_onevision, siglip_config, text_config

HEAD = "language_model.lm_head.weight"
EMBED = "language_model.model.embed_tokens.weight"
TOWER = "image_processor.encoder."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny LLaVA-NeXT in transformers' layout."""
    return saved(hf_next(), tmp_path / "next")


def refused(folder: Path, **options: object) -> CheckpointRefused:
    with pytest.raises(CheckpointRefused) as caught:
        load_model(folder, **options)  # type: ignore[arg-type]
    return caught.value


def test_class_mode_and_buffers(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    assert type(model) is LLaVANeXT
    assert not model.training
    assert not [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    positions = model.image_processor.encoder.embeddings.position_ids
    assert positions.tolist() == [list(range(50))]
    assert type(load_model(saved(hf_onevision(), tmp_path / "ov"))) is LLaVAOneVision


def test_missing_tensor(folder: Path) -> None:
    edit_tensors(folder, lambda t: {name: v for name, v in t.items() if not name.endswith("linear_2.bias")})
    error = refused(folder)
    assert error.reason is CheckpointReason.MISSING_TENSORS
    assert "projector.projector.2.bias" in error.detail


@pytest.mark.parametrize("name", ["language_model.model.layers.2.mlp.up_proj.weight", "somewhere.weight"])
def test_unexpected_tensor(folder: Path, name: str) -> None:
    edit_tensors(folder, lambda t: {**t, name: torch.zeros(3)})
    error = refused(folder)
    assert error.reason is CheckpointReason.UNEXPECTED_TENSORS
    assert name in error.detail


def test_wrong_shape_and_dtype(folder: Path) -> None:
    edit_tensors(folder, lambda t: {**t, "image_newline": torch.zeros(47)})
    error = refused(folder)
    assert error.reason is CheckpointReason.WRONG_SHAPE
    assert "[47]" in error.detail
    assert "[48]" in error.detail
    edit_tensors(folder, lambda t: {**t, "image_newline": torch.zeros(48, dtype=torch.int8)})
    error = refused(folder)
    assert error.reason is CheckpointReason.WRONG_SHAPE
    assert "int8" in error.detail


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(folder: Path, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["language_model.model.layers.1.mlp.down_proj.weight"][5, 3] = value
        return tensors

    edit_tensors(folder, spoil)
    error = refused(folder)
    assert error.reason is CheckpointReason.NOT_FINITE
    assert "layers.1.mlp.down_proj" in error.detail


def test_derived_buffers_are_ignored(folder: Path) -> None:
    before = load_model(folder)
    derived = {
        "vision_tower.embeddings.position_ids": torch.arange(50)[None],
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6),
    }
    edit_tensors(folder, lambda t: {**t, **derived})
    assert_same(before, load_model(folder))


def test_remote_code_and_vocabulary_are_refused_by_load(folder: Path) -> None:
    write_json(folder / "tokenizer.json", {"model": {"vocab": {"a": 0, "<image>": 90}}})
    load_model(folder)
    write_json(folder / "tokenizer.json", {"model": {"vocab": {"a": 96, "<image>": 90}}})
    assert refused(folder).reason is CheckpointReason.VOCABULARY
    write_json(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    assert refused(folder).reason is CheckpointReason.REMOTE_CODE


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_dtype_is_kept_or_cast(folder: Path, stored: torch.dtype) -> None:
    edit_tensors(folder, lambda t: {name: tensor.to(stored) for name, tensor in t.items()})
    kept = load_model(folder)
    assert {tensor.dtype for tensor in kept.state_dict().values()} == {stored}
    cast = load_model(folder, dtype=torch.float32)
    assert {tensor.dtype for tensor in cast.state_dict().values()} == {torch.float32}
    assert torch.equal(cast.image_newline.to(stored), kept.image_newline)  # type: ignore[union-attr, arg-type]


def test_nothing_is_initialised_nor_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until tensors are read the model takes no memory, and the tensors read become its parameters."""
    seen: dict[str, object] = {}
    assign = load_module._assign

    def watched(model: LLaVANeXT, *rest: object) -> None:
        seen["on meta"] = all(parameter.is_meta for parameter in model.parameters())
        assign(model, *rest)  # type: ignore[arg-type]

    reads: dict[str, int] = {}
    read = load_module._Stored.read

    def noted(place: object) -> torch.Tensor:
        tensor = read(place)  # type: ignore[arg-type]
        reads[place.name] = tensor.data_ptr()  # type: ignore[attr-defined]
        return tensor

    monkeypatch.setattr(load_module, "_assign", watched)
    monkeypatch.setattr(load_module._Stored, "read", noted)
    model = load_model(folder)
    assert seen == {"on meta": True}
    assert model.image_newline is not None
    assert model.image_newline.data_ptr() == reads["image_newline"]
    assert model.language_model.lm_head.weight.data_ptr() == reads["language_model.lm_head.weight"]
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu", "the patch of register_parameter was left behind"


def test_tied_embeddings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tied = hf_onevision(text_config=text_config("qwen2", tie_word_embeddings=True))
    path = saved(tied, tmp_path / "tied")
    model = load_model(path)
    assert model.language_model.lm_head.weight is model.language_model.get_input_embeddings().weight
    # A copy of the embedding as head says the same.
    edit_tensors(path, lambda t: {**t, HEAD: t[EMBED].clone()})
    again = load_model(path)
    assert again.language_model.lm_head.weight is again.language_model.get_input_embeddings().weight
    # A head that differs was trained apart: both are kept, as transformers does.
    edit_tensors(path, lambda t: {**t, HEAD: t[EMBED] + 1})
    with caplog.at_level(logging.WARNING):
        apart = load_model(path)
    assert "both are kept" in caplog.text
    head, embedding = apart.language_model.lm_head.weight, apart.language_model.get_input_embeddings().weight
    assert torch.equal(head, embedding + 1)
    assert apart.config.text is not None
    assert apart.config.text["tie_word_embeddings"] is False


def original_without_tower(model: LLaVANeXT, path: Path, **changes: object) -> Path:
    save_model(model, path, "original")
    edit_tensors(path, lambda t: {name: v for name, v in t.items() if "vision_tower" not in name})
    edit_config(path, mm_vision_config=None, mm_vision_tower="somebody/clip", tessera=None, **changes)
    return path


def test_tower_is_supplied_to_an_original_without_one(tmp_path: Path) -> None:
    model = ours(hf_llava(), tmp_path / "hf")
    path = original_without_tower(model, tmp_path / "original")
    assert refused(path).reason is CheckpointReason.NOT_FOUND, "the tower's shape is unknown"
    torch.manual_seed(3)
    whole = CLIPModel(
        CLIPConfig(vision_config=clip_config().to_dict(), text_config={"hidden_size": 16, "num_hidden_layers": 1})
    )
    tower = saved(whole, tmp_path / "clip")
    loaded = load_model(path, vision_tower=tower)
    expected = {f"{TOWER}{name}": tensor for name, tensor in whole.vision_model.state_dict().items()}
    for name, tensor in loaded.state_dict().items():
        wanted = expected.pop(name) if name.startswith(TOWER) else model.state_dict()[name]
        assert torch.equal(tensor, wanted), name
    assert not expected
    edit_config(path, mm_vision_config=clip_config().to_dict())
    error = refused(path)
    assert error.reason is CheckpointReason.MISSING_TENSORS
    assert "vision_tower=" in error.detail


def test_supplied_tower_takes_on_the_checkpoints_dtype(tmp_path: Path) -> None:
    path = original_without_tower(ours(hf_llava(), tmp_path / "hf"), tmp_path / "original")
    edit_tensors(path, lambda t: {name: tensor.half() for name, tensor in t.items()})
    tower = saved(AutoModel.from_config(clip_config()), tmp_path / "clip")
    loaded = load_model(path, vision_tower=tower)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float16}


def test_supplied_siglip_loses_its_last_layer_and_head(tmp_path: Path) -> None:
    model = ours(hf_onevision(), tmp_path / "hf")
    path = original_without_tower(model, tmp_path / "original")
    vision = siglip_config(num_hidden_layers=4, vision_use_head=True).to_dict()
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50000}
    whole = SiglipModel(SiglipConfig(vision_config=vision, text_config=text))
    loaded = load_model(path, vision_tower=saved(whole, tmp_path / "siglip"))
    encoder = loaded.image_processor.encoder
    assert encoder.config.num_hidden_layers == 3
    assert torch.equal(encoder.encoder.layers[2].mlp.fc1.weight, whole.vision_model.encoder.layers[2].mlp.fc1.weight)
    assert torch.equal(encoder.post_layernorm.weight, whole.vision_model.post_layernorm.weight)


def test_tuned_tower_is_not_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = ours(hf_next(), tmp_path / "hf")
    save_model(model, tmp_path / "original", "original")
    with caplog.at_level(logging.WARNING):
        loaded = load_model(
            tmp_path / "original", vision_tower=saved(AutoModel.from_config(clip_config()), tmp_path / "t")
        )
    assert "is not used" in caplog.text
    assert_same(model, loaded)


def test_bin_checkpoint(folder: Path) -> None:
    before = load_model(folder)
    edited: dict[str, torch.Tensor] = {}
    edit_tensors(folder, lambda t: edited.update(t) or t)
    (folder / "model.safetensors").unlink()
    torch.save(edited, folder / "pytorch_model.bin")
    assert refused(folder).reason is CheckpointReason.UNSAFE_FORMAT
    assert_same(before, load_model(folder, allow_bin=True))


def test_revision_follows_content_alone(folder: Path, tmp_path: Path) -> None:
    before = revision(folder)
    assert len(before) == 16
    moved = folder.rename(tmp_path / "moved")
    (moved / "README.md").write_text("not part of the model")
    assert revision(moved) == before
    edit_tensors(moved, lambda t: {**t, "image_newline": t["image_newline"] + 1e-6})
    assert revision(moved) != before
    with pytest.raises(CheckpointRefused):
        revision(tmp_path / "absent")


def test_options_reach_the_config(folder: Path) -> None:
    model = load_model(folder, axis_order="original", template="plain")
    assert (model.config.tiles.axis_order, model.config.template) == ("original", "plain")
    assert dataclasses.replace(model.config, template="vicuna_v1") == read_config(folder, axis_order="original")


def test_quantising_without_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("llava_core.checkpoints.quantise.importlib.import_module", absent)
    with pytest.raises(ConfigError, match=r"tessera\[quantize\]"):
        load_model(folder, quantization_config=object())


@pytest.mark.parametrize(("bits", "error"), [(8, 0.05), (4, 0.3)])
def test_language_model_in_8_and_4_bits(bits: int, error: float) -> None:
    """Measured on random weights of width 64: relative error of the logits 0.017 in 8 bits, 0.16 in 4."""
    pytest.importorskip("bitsandbytes", reason="the [quantize] extra is not installed")
    pytest.importorskip("accelerate", reason="the [quantize] extra is not installed")
    settings = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    whole, small = load_model("tiny"), load_model("tiny", quantization_config=settings)
    assert small.language_model.model.layers[0].mlp.up_proj.weight.dtype in (torch.int8, torch.uint8)
    assert small.image_processor.encoder.encoder.layers[0].mlp.fc1.weight.dtype == torch.float32
    assert not any(tensor.is_meta for tensor in (*small.parameters(), *small.buffers()))
    ids = torch.arange(1, 60)[None]
    ids = ids[ids != whole.config.image_token_id][None]
    with torch.no_grad():
        expected, found = whole(input_ids=ids).logits, small(input_ids=ids).logits
    assert 0 < float((found - expected).norm() / expected.norm()) < error


@pytest.mark.parametrize("name", ["no/such/folder/here", "nothing", "../up", "/absent"])
def test_names_that_lead_nowhere(name: str) -> None:
    with pytest.raises(CheckpointRefused) as caught:
        resolve_model(name)
    assert caught.value.reason is CheckpointReason.NOT_FOUND


def test_hub_download_takes_no_code_and_the_revision_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple[str, dict[str, object]]] = []

    def download(name: str, **options: object) -> str:
        calls.append((name, options))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_model("owner/model@abc") == tmp_path
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        resolve_model("owner/model", allow_bin=True)
    assert "not pinned" in caplog.text
    assert [(name, options["revision"]) for name, options in calls] == [("owner/model", "abc"), ("owner/model", None)]
    patterns = [options["allow_patterns"] for _, options in calls]
    assert not any(pattern.endswith((".py", ".bin", ".pt")) for pattern in patterns[0])  # type: ignore[attr-defined]
    assert "pytorch_model*.bin" in patterns[1]  # type: ignore[operator]
    with pytest.raises(CheckpointRefused):
        resolve_model(Path("owner/model"))
