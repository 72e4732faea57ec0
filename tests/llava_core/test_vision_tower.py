"""The tower: which layer, which tokens, chunks, checkpointing, refusals. Parity is in tests/parity."""

from typing import Any

import numpy as np
import pytest
import torch

from llava_core.config import TileConfig, VisionConfig
from llava_core.errors import ConfigError
from llava_core.geometry import Box, Size, TilePlan
from llava_core.vision_tower import DynamicImageProcessor, tower_settings
from tests.tiny_models import TILE, clip_config, siglip_config

CHUNK_TOLERANCE = 2e-6  # measured 0.0 on values up to 7.8; another batch size may sum in another order elsewhere


def tower(kind: str = "clip", seed: int = 0, **vision: Any) -> DynamicImageProcessor:
    config = clip_config() if kind == "clip" else siglip_config()
    settings = {"select_feature": "patch" if kind == "clip" else "full", **vision}
    torch.manual_seed(seed)
    tiles = TileConfig(policy="grid", tile_size=TILE)
    return DynamicImageProcessor(vision=VisionConfig(tower=config.to_dict(), **settings), tiles=tiles).eval()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize(("layer", "index"), [(-1, 3), (-2, 2), (-4, 0), (0, 0), (1, 1), (3, 3)])
def test_selected_layer_is_the_hidden_state_of_that_index(kind: str, layer: int, index: int) -> None:
    processor = tower(kind, select_layer=layer)
    tiles = torch.randn(2, 3, TILE, TILE)
    with torch.no_grad():
        hidden = processor.encoder(tiles, output_hidden_states=True).hidden_states[index]
        expected = hidden[:, 1:] if kind == "clip" else hidden
        assert torch.equal(processor(tiles), expected)


def test_layers_beyond_the_selected_one_do_not_run() -> None:
    processor = tower(select_layer=-2)
    ran = []
    for index, layer in enumerate(processor.encoder.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    processor(torch.randn(1, 3, TILE, TILE))
    assert ran == [0, 1]


def test_full_keeps_the_class_token_first() -> None:
    full, patches = tower(select_feature="full"), tower()
    tiles = torch.randn(2, 3, TILE, TILE)
    assert full(tiles).shape == (2, 50, 32)
    assert torch.equal(full(tiles)[:, 1:], patches(tiles))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_chunks_give_the_same_features(kind: str) -> None:
    processor = tower(kind)
    tiles = torch.randn(30, 3, TILE, TILE)
    whole = processor(tiles)
    processor.max_memory_mb = 1
    per_chunk = processor.tiles_per_chunk(1)
    assert 1 < per_chunk < 30 and 30 % per_chunk, "the last chunk should be shorter"
    sizes = []
    processor.encoder.embeddings.register_forward_hook(lambda _, args, __: sizes.append(args[0].shape[0]))
    chunked = processor(tiles)
    assert sizes == [per_chunk] * (30 // per_chunk) + [30 % per_chunk]
    assert (chunked - whole).abs().max() <= CHUNK_TOLERANCE


def test_budget_is_never_below_one_tile_and_grows_with_memory() -> None:
    processor = DynamicImageProcessor(num_layers=1)
    assert processor.tiles_per_chunk(0) == 1
    # CLIP-L in fp32: 577 tokens × (6·1024 + 3·4096) × 4 bytes + 3·336² pixels × 12 bytes = 44.4 MiB a tile
    assert processor.tiles_per_chunk(4096) == 4096 * 2**20 // (577 * 18432 * 4 + 3 * 336**2 * 12) == 92
    assert processor.half().tiles_per_chunk(4096) > 170


def test_checkpointing_by_the_documents_attribute_gives_the_same_gradients_and_runs_layers_twice() -> None:
    processor = tower().train()
    tiles = torch.randn(2, 3, TILE, TILE)
    runs = []
    processor.encoder.encoder.layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    grads, counts = [], []
    for checkpointing in (False, True):
        processor.encoder.gradient_checkpointing = checkpointing
        processor.zero_grad()
        runs.clear()
        processor(tiles).square().sum().backward()
        grads.append(processor.encoder.embeddings.patch_embedding.weight.grad.clone())
        counts.append(len(runs))
    assert counts == [1, 2]
    assert torch.equal(grads[0], grads[1])
    assert grads[0].abs().max() > 0


def test_unused_parameters_are_those_without_gradient() -> None:
    processor = tower(select_layer=-2)
    processor(torch.randn(1, 3, TILE, TILE)).sum().backward()
    without = {name for name, parameter in processor.named_parameters() if parameter.grad is None}
    assert {name for name, _ in processor.unused_parameters()} == without
    assert any("layers.2" in name for name in without)


def test_uint8_is_normalised_by_the_checkpoints_own_mean() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.8)
    tiles = TileConfig(policy="grid", tile_size=TILE, image_mean=mean, image_std=std)
    processor = DynamicImageProcessor(vision=VisionConfig(tower=clip_config().to_dict()), tiles=tiles)
    raw = torch.tensor([51, 102, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, TILE, TILE)
    expected = torch.tensor([(0.2 - 0.1) / 0.4, (0.4 - 0.2) / 0.5, (1 - 0.3) / 0.8])
    assert torch.allclose(processor.normalize(raw)[0, :, 3, 4], expected, atol=1e-6)
    assert torch.equal(processor.normalize(torch.full((1, 3, 2, 2), 5.0)), torch.full((1, 3, 2, 2), 5.0))


def test_document_arguments_make_clip_large() -> None:
    assert tower_settings(1024, 336, 14, 24)["num_attention_heads"] == 16
    processor = DynamicImageProcessor(base_size=28, max_patches=3, patch_size=7, hidden_dim=64, num_layers=2)
    assert processor.tiles.max_tiles == 3
    assert processor(torch.zeros(2, 3, 28, 28)).shape == (2, 16, 64)


def test_whole_images_become_base_tile_and_grid() -> None:
    processor = tower()
    plan = TilePlan(Size(28, 56), Size(1, 2), 3, Box(0, 7, 0, 14), Size(7, 14), 0)
    image = (torch.arange(3 * 28 * 56).view(3, 28, 56) * 7 % 256).to(torch.uint8)
    tiles = processor.plan_and_tile([image, image.float() / 255], [plan, plan])
    assert tiles.shape == (6, 3, TILE, TILE)
    # An image of the canvas' own size is only cut: no resampling.
    assert torch.equal(tiles[1], image[:, :, :28])
    assert torch.equal(tiles[2], image[:, :, 28:])
    assert torch.equal(tiles[:3], tiles[3:])


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 28, 14\).*\[N, 3, 28, 28\]"):
        tower()(torch.zeros(2, 3, 28, 14))
    with pytest.raises(ValueError, match=r"-1\.\.1.*expected 0\.\.1"):
        tower().plan_and_tile([torch.tensor([-1.0, 1.0, 0.5]).view(3, 1, 1)], [])
    with pytest.raises(ConfigError, match="select_layer is -5; the tower has 3 layers"):
        tower(select_layer=-5)
    with pytest.raises(ConfigError, match="'dinov2'; expected one of clip_vision_model, siglip_vision_model"):
        DynamicImageProcessor(
            vision=VisionConfig(tower={"model_type": "dinov2", "hidden_size": 8, "image_size": 28, "patch_size": 4})
        )


def test_bfloat16_features() -> None:
    processor = tower().to(torch.bfloat16)
    raw = torch.from_numpy(np.arange(3 * TILE * TILE, dtype=np.uint8).reshape(1, 3, TILE, TILE))
    exact = tower()(raw)
    assert processor(raw).dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: measured 0.029 on values up to 3.6
    assert (processor(raw).float() - exact).abs().max() < 0.1
