"""Video: frames chosen, pooled, packed and encoded."""

import pytest
import torch
from torch.nn import functional as F

from llava_core.config import VideoConfig
from llava_core.video import TemporalEncoder, num_video_tokens, pack_video, pool_frames, sample_frames

NEWLINE = torch.tensor([-1])


@pytest.mark.parametrize(
    ("frames", "most", "expected"),
    [(10, 4, [0, 3, 6, 9]), (11, 3, [0, 5, 10]), (5, 5, [0, 1, 2, 3, 4]), (2, 8, [0, 1]), (9, 1, [0])],
)
def test_frames_are_spread_evenly(frames: int, most: int, expected: list[int]) -> None:
    assert sample_frames(frames, most) == expected


def test_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="got 0, 4"):
        sample_frames(0, 4)


def test_pooling_is_bilinear_per_frame() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 49, 5)
    pooled = pool_frames(features, 2)
    assert pooled.shape == (3, 4, 4, 5)
    grid = features[2].view(7, 7, 5).permute(2, 0, 1)[None]
    assert torch.equal(pooled[2], F.interpolate(grid, (4, 4), mode="bilinear")[0].permute(1, 2, 0))
    even = torch.arange(16.0).view(1, 16, 1)
    assert pool_frames(even, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(pool_frames(even, 1), even.view(1, 4, 4, 1))


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("one_token", [0, 1, 2, 3, 4, 5, 6, 7, -1]),
        ("grid", [0, 1, -1, 2, 3, -1, 4, 5, -1, 6, 7, -1]),
        ("frame", [0, 1, 2, 3, -1, 4, 5, 6, 7, -1]),
        ("no_token", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_newlines(position: str, expected: list[int]) -> None:
    frames = torch.arange(8).view(2, 2, 2, 1)
    assert pack_video(frames, position, NEWLINE).flatten().tolist() == expected
    assert pack_video(frames, position, None).flatten().tolist() == list(range(8))
    config = VideoConfig(newline_position=position, pool_stride=1)
    assert num_video_tokens(2, 2, config) == len(expected)
    assert num_video_tokens(2, 2, config, has_newline=False) == 8


def test_a_released_frame_is_196_tokens() -> None:
    assert num_video_tokens(1, 27, VideoConfig(newline_position="no_token")) == 196


def encoder(frames: int = 6) -> TemporalEncoder:
    torch.manual_seed(0)
    return TemporalEncoder(48, frames, 1).eval()


def test_temporal_encoder_shape_and_gradients() -> None:
    module, frames = encoder(), torch.randn(5, 2, 3, 48, requires_grad=True)
    encoded = module(frames)
    assert encoded.shape == frames.shape
    encoded[0].square().sum().backward()
    assert frames.grad[4].abs().max() > 0, "the first frame should see the last"
    assert module.frame_embedding.grad[:5].abs().amax(1).min() > 0
    assert not module.frame_embedding.grad[5].any()
    assert all(p.grad.abs().max() > 0 for p in module.encoder.parameters())


def test_temporal_encoder_knows_the_order_of_frames() -> None:
    module, frames = encoder(), torch.randn(4, 2, 2, 48)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        placed = (module(frames[order]) - module(frames)[order]).abs().max()
        module.frame_embedding.zero_()
        unplaced = (module(frames[order]) - module(frames)[order]).abs().max()
    assert placed > 1e-3, "a shuffled video should look different"
    assert unplaced < 1e-5, "without frame embeddings nothing tells frames apart"  # measured 2.4e-7


def test_too_many_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="7 frames, but the model takes at most 6"):
        encoder()(torch.zeros(7, 1, 1, 48))
