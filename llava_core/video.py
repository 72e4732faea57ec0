"""Video: frames become fewer tokens than images do, and may see one another.

    frame features[F, P², D] ─ 2×2 bilinear pooling ─▶ [F, p, p, D] ─ (temporal encoder) ─▶ + newlines ─▶ [T, D]

Legend: F frames, P and p = ceil(P / stride) features along a frame's side, D text width, T tokens. With 27 → 14, a
frame is 196 tokens. The temporal encoder is the document's; the released checkpoints have none.

What this does *not* do: read video files, choose frames (`sample_frames` says which to choose).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_core.config import NewlinePosition, VideoConfig
from llava_core.connector import num_heads, side_of

FRAME_STD = 0.02


def sample_frames(num_frames: int, max_frames: int) -> list[int]:
    """Which frames of a video to look at: all, or `max_frames` spread evenly, the first and the last among them.

    Args:
        num_frames: in the video, ≥ 1.
        max_frames: most to keep, ≥ 1.

    Returns:
        Ascending indices.

    Source: `np.linspace(0, total − 1, n, dtype=int)` in the released loaders, in integers.

    Example:
        >>> sample_frames(100, 4), sample_frames(3, 32)
        ([0, 33, 66, 99], [0, 1, 2])
    """
    if num_frames < 1 or max_frames < 1:
        raise ValueError(f"sample_frames needs num_frames, max_frames >= 1, got {num_frames}, {max_frames}")
    if num_frames <= max_frames:
        return list(range(num_frames))
    return [0] if max_frames == 1 else [i * (num_frames - 1) // (max_frames - 1) for i in range(max_frames)]


def num_video_tokens(num_frames: int, patches_per_side: int, config: VideoConfig, has_newline: bool = True) -> int:
    """Tokens of one video.

    Args:
        num_frames: frames given to the model.
        patches_per_side: P after the connector.
        config: pooling and newlines.
        has_newline: whether the model has a newline at all.

    Example:
        >>> num_video_tokens(32, 27, VideoConfig())
        6273
    """
    side = -(-patches_per_side // config.pool_stride)
    newlines = {"one_token": 1, "grid": num_frames * side, "frame": num_frames, "no_token": 0}
    return num_frames * side**2 + has_newline * newlines[config.newline_position]


def pool_frames(features: Tensor, stride: int) -> Tensor:
    """Pool each frame's features bilinearly, without antialiasing.

    Args:
        features: float[F, P², D].
        stride: ≥ 1; 1 changes nothing.

    Returns:
        float[F, p, p, D].

    Source: `get_2dPool` of LLaVA-VL/LLaVA-NeXT@df17966; `apply_pooling` of transformers.
    """
    side = side_of(features.shape[1])
    grid = torch.unflatten(features, 1, (side, side))
    if stride == 1:
        return grid
    pooled = -(-side // stride)
    grid = F.interpolate(grid.permute(0, 3, 1, 2), size=(pooled, pooled), mode="bilinear", align_corners=False)
    return grid.permute(0, 2, 3, 1)


def pack_video(frames: Tensor, position: NewlinePosition, newline: Tensor | None) -> Tensor:
    """Put a video's features in order, newlines among them.

    Args:
        frames: float[F, p, p, D].
        position: where newlines go: after the video, after each row, after each frame, or nowhere.
        newline: float[D], or None for a model without.

    Returns:
        float[T, D].

    Example:
        >>> frames = torch.arange(8).view(2, 2, 2, 1)
        >>> pack_video(frames, "frame", torch.tensor([99])).flatten()
        tensor([ 0,  1,  2,  3, 99,  4,  5,  6,  7, 99])
    """
    count, rows = frames.shape[:2]
    if newline is None or position == "no_token":
        return frames.flatten(0, 2)
    newline = newline.to(frames)
    match position:
        case "one_token":
            return torch.cat([frames.flatten(0, 2), newline[None]])
        case "grid":
            return torch.cat([frames, newline.expand(count, rows, 1, -1)], dim=2).flatten(0, 2)
        case "frame":
            return torch.cat([frames.flatten(1, 2), newline.expand(count, 1, -1)], dim=1).flatten(0, 1)


class TemporalEncoder(nn.Module):
    """A transformer over all tokens of all frames of a video.

    Each frame's tokens first get a learned embedding of the frame's number: without it the encoder could not tell a
    video from the same video played backwards.

    Args:
        width: text width D.
        max_frames: most frames of a video.
        num_layers: transformer layers.
    """

    def __init__(self, width: int, max_frames: int, num_layers: int) -> None:
        super().__init__()
        self.frame_embedding = nn.Parameter(torch.randn(max_frames, width) * FRAME_STD)
        layer = nn.TransformerEncoderLayer(
            width, num_heads(width), width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode the frames of one video; `frames` and the result are float[F, p, p, D].

        Raises:
            ValueError: more frames than there are frame embeddings.
        """
        count, most = frames.shape[0], self.frame_embedding.shape[0]
        if count > most:
            raise ValueError(f"a video of {count} frames, but the model takes at most {most} (video.max_frames)")
        placed = frames + self.frame_embedding[:count, None, None].to(frames)
        encoded: Tensor = self.encoder(placed.flatten(0, 2)[None])
        return encoded.view_as(frames)
