"""Tensor names: each table is its own inverse, and each spelling is told apart."""

import pytest

from llava_core.checkpoints.layouts import Naming, name_all, name_written, naming_of, table_for, to_ours, to_theirs
from llava_core.errors import CheckpointReason, CheckpointRefused

OURS = (
    "image_processor.encoder.encoder.layers.1.mlp.fc1.weight",
    "image_processor.encoder.embeddings.class_embedding",
    "projector.projector.0.weight",
    "projector.projector.2.bias",
    "image_newline",
    "language_model.model.embed_tokens.weight",
    "language_model.model.layers.0.self_attn.q_proj.weight",
    "language_model.lm_head.weight",
)
STORED: dict[Naming, tuple[str, ...]] = {
    "original": (
        "model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight",
        "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
        "model.mm_projector.0.weight",
        "model.mm_projector.2.bias",
        "model.image_newline",
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "lm_head.weight",
    ),
    "hf_hub": (
        "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight",
        "vision_tower.vision_model.embeddings.class_embedding",
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_2.bias",
        "image_newline",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
    ),
    "hf_hybrid": (
        "vision_tower.encoder.layers.1.mlp.fc1.weight",
        "vision_tower.embeddings.class_embedding",
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_2.bias",
        "image_newline",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
    ),
    "hf_452": (
        "model.vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight",
        "model.vision_tower.vision_model.embeddings.class_embedding",
        "model.multi_modal_projector.linear_1.weight",
        "model.multi_modal_projector.linear_2.bias",
        "model.image_newline",
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.0.self_attn.q_proj.weight",
        "lm_head.weight",
    ),
    "hf_56": (
        "model.vision_tower.encoder.layers.1.mlp.fc1.weight",
        "model.vision_tower.embeddings.class_embedding",
        "model.multi_modal_projector.linear_1.weight",
        "model.multi_modal_projector.linear_2.bias",
        "model.image_newline",
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.0.self_attn.q_proj.weight",
        "lm_head.weight",
    ),
    "own": OURS,
}


@pytest.mark.parametrize("naming", STORED)
def test_every_name_both_ways(naming: Naming) -> None:
    table = table_for(naming)
    assert tuple(to_theirs(name, table) for name in OURS) == STORED[naming]
    assert tuple(to_ours(name, table) for name in STORED[naming]) == OURS
    assert name_all(STORED[naming], naming) == dict(zip(OURS, STORED[naming], strict=True))


@pytest.mark.parametrize("naming", [naming for naming in STORED if naming.startswith("hf")])
def test_spellings_of_hf_are_told_apart(naming: Naming) -> None:
    assert naming_of("hf", STORED[naming]) == naming


def test_linear_projector_has_no_index_in_the_original() -> None:
    assert name_all(["model.mm_projector.weight"], "original") == {
        "projector.projector.0.weight": "model.mm_projector.weight"
    }
    written = name_written(["projector.projector.0.bias"], "original", linear=True)
    assert written == {"projector.projector.0.bias": "model.mm_projector.bias"}
    # mlp1x_gelu is a Sequential of one layer, which does have an index.
    assert name_all(["model.mm_projector.0.weight"], "original") == {
        "projector.projector.0.weight": "model.mm_projector.0.weight"
    }


def test_derived_buffers_are_left_out() -> None:
    names = [
        "model.layers.3.self_attn.rotary_emb.inv_freq",
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids",
        "lm_head.weight",
    ]
    assert name_all(names, "original") == {"language_model.lm_head.weight": "lm_head.weight"}


def test_strangers_are_refused() -> None:
    with pytest.raises(CheckpointRefused) as caught:
        name_all(["language_model.model.norm.weight", "qformer.layer.0.weight"], "hf_hub")
    assert caught.value.reason is CheckpointReason.UNEXPECTED_TENSORS
    assert "qformer.layer.0.weight" in caught.value.detail


@pytest.mark.parametrize("name", ["projector.position_embedding.weight", "temporal_encoder.norm.weight"])
@pytest.mark.parametrize("layout", ["hf", "original"])
def test_extras_have_no_name_elsewhere(name: str, layout: str) -> None:
    with pytest.raises(CheckpointRefused) as caught:
        name_written([name], layout, linear=False)  # type: ignore[arg-type]
    assert caught.value.reason is CheckpointReason.NOT_EXPRESSIBLE
    assert name in caught.value.detail
