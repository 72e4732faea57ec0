"""The connector: depth, pooling, position embeddings, attention between images."""

import pytest
import torch
from torch.nn import functional as F

from llava_core.config import ConnectorConfig
from llava_core.connector import AnyResolutionProjector, CrossImageAttention, num_heads, pool_patches, side_of
from llava_core.geometry import Size


@pytest.mark.parametrize(("depth", "bias"), [(1, True), (2, True), (3, False), (5, True)])
def test_depth_by_hand(depth: int, bias: bool) -> None:
    torch.manual_seed(0)
    projector = AnyResolutionProjector(5, 7, config=ConnectorConfig(num_layers=depth, bias=bias))
    expected = features = torch.randn(2, 9, 5)
    for index in range(depth):
        linear = projector.projector[2 * index]
        assert (linear.bias is not None) == bias
        expected = expected @ linear.weight.T + (linear.bias if bias else 0)
        if index < depth - 1:
            expected = F.gelu(expected)
    assert len(projector.projector) == 2 * depth - 1
    assert torch.allclose(projector(features), expected, atol=1e-6)  # measured 1.2e-7


def test_pooling_of_an_odd_side_by_hand() -> None:
    grid = torch.arange(9.0).view(1, 9, 1)
    # ceil(3 / 2) = 2 cells a side; adaptive pooling lets them overlap in the middle.
    assert pool_patches(grid, 2).flatten().tolist() == [2.0, 3.0, 5.0, 6.0]
    assert pool_patches(grid, 3).flatten().tolist() == [4.0]


def test_pooling_comes_before_projection() -> None:
    torch.manual_seed(0)
    projector = AnyResolutionProjector(3, 4, config=ConnectorConfig(compression_ratio=2))
    features = torch.randn(2, 49, 3)
    assert projector(features).shape == (2, 16, 4)
    assert torch.equal(projector(features), projector.projector(pool_patches(features, 2)))


def test_position_embedding_is_added_by_row_and_column_and_not_to_base_tiles() -> None:
    projector = AnyResolutionProjector(3, 4, config=ConnectorConfig(position_embedding=True, max_grid=3))
    with torch.no_grad():
        projector.position_embedding.copy_(torch.arange(36.0).view(3, 3, 4))
    features = torch.randn(8, 2 * 2, 3)
    added = projector(features, [Size(2, 3), Size(0, 0)]) - projector.projector(features)
    expected = [[0] * 4] + [[12 * r + 4 * c + d for d in range(4)] for r in range(2) for c in range(3)] + [[0] * 4]
    for patch in range(4):
        assert torch.allclose(added[:, patch], torch.tensor(expected, dtype=torch.float32), atol=1e-5)


def test_position_embedding_learns_only_where_tiles_are() -> None:
    projector = AnyResolutionProjector(3, 4, config=ConnectorConfig(position_embedding=True, max_grid=3))
    projector(torch.randn(3, 4, 3), [Size(1, 2)]).sum().backward()
    touched = projector.position_embedding.grad.abs().sum(-1) > 0
    assert touched.tolist() == [[True, True, False], [False] * 3, [False] * 3]


def test_position_embedding_refusals() -> None:
    projector = AnyResolutionProjector(3, 4, config=ConnectorConfig(position_embedding=True, max_grid=2))
    with pytest.raises(ValueError, match=r"grid 1×3 .*max_grid is 2"):
        projector(torch.randn(4, 4, 3), [Size(1, 3)])
    with pytest.raises(ValueError, match="3 tiles, but there are features of 4"):
        projector(torch.randn(4, 4, 3), [Size(1, 2)])
    with pytest.raises(ValueError, match="need the grid"):
        projector(torch.randn(4, 4, 3))


def attention(seed: int = 0) -> CrossImageAttention:
    """With an output that is not zero, as after training."""
    torch.manual_seed(seed)
    module = CrossImageAttention(48)
    with torch.no_grad():
        module.attention.out_proj.weight.normal_()
        module.attention.out_proj.bias.normal_()
    return module


def test_cross_image_attention_starts_as_identity_and_keeps_shapes() -> None:
    images = [torch.randn(3, 9, 48), torch.randn(1, 9, 48)]
    for ours, given in zip(CrossImageAttention(48)(images), images, strict=True):
        assert torch.equal(ours, given)
    assert [image.shape for image in attention()(images)] == [(3, 9, 48), (1, 9, 48)]


def test_cross_image_attention_follows_a_permutation_of_images() -> None:
    module, images = attention(), [torch.randn(n, 4, 48) for n in (1, 3, 2)]
    straight, turned = module(images), module([images[2], images[0], images[1]])
    for one, other in zip((straight[2], straight[0], straight[1]), turned, strict=True):
        assert torch.allclose(one, other, atol=1e-5)  # measured 1.2e-6
    alone = module([images[0]])[0]
    assert (alone - straight[0]).abs().max() > 1e-3, "an image should see the others"


def test_cross_image_attention_has_gradients_from_one_image_to_another() -> None:
    module, images = attention(), [torch.randn(1, 4, 48, requires_grad=True) for _ in range(2)]
    module(images)[0].square().sum().backward()
    assert images[1].grad.abs().max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_one_image_alone_is_not_attended() -> None:
    projector = AnyResolutionProjector(5, 48, config=ConnectorConfig(cross_image_attention=True))
    with torch.no_grad():
        projector.cross_image_attention.attention.out_proj.weight.normal_()
    image = torch.randn(2, 4, 48)
    assert torch.equal(projector.attend_across([image])[0], image)
    assert not torch.equal(projector.attend_across([image, image])[0], image)


def test_squares_and_heads() -> None:
    assert side_of(729) == 27
    with pytest.raises(ValueError, match=r"577 patches .*class token"):
        side_of(577)
    assert [num_heads(width) for width in (4096, 1152, 129, 7)] == [32, 9, 1, 1]
