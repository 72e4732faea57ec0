"""What callers may hand to the processor, brought to one form: uint8 RGB arrays, nested by sample.

What this does *not* do: decode (`images`), tile (`tiling`), take the tiles of a tiled image (`media`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage

from llava_core.color import to_rgb
from llava_core.decoder_guard import refusing_what_fails
from llava_core.errors import ConfigError, ImageReason, ImageRefused, PromptReason, PromptRefused
from llava_core.image_headers import DecodeLimits
from llava_core.images import decode_image
from llava_core.tiled_image import TiledImage
from llava_core.video import sample_frames

ImageInput = bytes | PILImage.Image | NDArray[np.uint8] | torch.Tensor | TiledImage
"""Encoded bytes; a PIL image; uint8[H, W, 3] or uint8[H, W]; a uint8 tensor, [H, W, 3] or [3, H, W]; a tiled image."""

_SINGLE = (bytes, PILImage.Image, np.ndarray, torch.Tensor, TiledImage)
_NO_LIMITS = DecodeLimits(max_bytes=2**62, max_pixels=2**62, max_aspect=2**62, min_side=1, max_scans=2**62)


def load_image(image: ImageInput) -> NDArray[np.uint8]:
    """Bring an image to RGB pixels.

    Args:
        image: see `ImageInput`. Bytes go through `decode_image`, with its limits and conversions.

    Returns:
        uint8[H, W, 3], RGB.

    Raises:
        ImageRefused: bytes that `decode_image` refuses, a PIL image that cannot be read; UNSUPPORTED_MODE for pixels
            that are not uint8; BAD_DIMENSIONS for another shape.

    Example:
        >>> load_image(np.zeros((2, 5), np.uint8)).shape
        (2, 5, 3)
    """
    match image:
        case bytes():
            return decode_image(image)
        case TiledImage():
            return decode_image(image.file, limits=_NO_LIMITS)
        case PILImage.Image():
            return _from_pil(image)
        case torch.Tensor():
            pixels = image.detach().cpu().numpy()
            first = pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3
            return _checked(pixels.transpose(1, 2, 0) if first else pixels)
        case np.ndarray():
            return _checked(image)
        case _:
            raise ImageRefused(
                ImageReason.UNSUPPORTED, f"an image may be bytes, PIL, array or tensor, not {type(image)}"
            )


def _from_pil(image: PILImage.Image) -> NDArray[np.uint8]:
    # An image that was only opened is decoded here.
    with refusing_what_fails(image.format or "PIL"):
        if image.mode in ("RGB", "L"):
            return _checked(np.asarray(image))
        return np.asarray(to_rgb(image))


def _checked(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        detail = f"pixels are {pixels.dtype}; expected uint8, 0..255"
        raise ImageRefused(ImageReason.UNSUPPORTED_MODE, detail)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ImageRefused(ImageReason.BAD_DIMENSIONS, f"pixels have shape {pixels.shape}; expected [H, W, 3]")
    return np.ascontiguousarray(pixels)


def load_video(video: NDArray[np.uint8] | torch.Tensor, max_frames: int) -> NDArray[np.uint8]:
    """Check a video and take at most `max_frames` of its frames, evenly.

    Args:
        video: uint8[F, H, W, 3], RGB.
        max_frames: most frames kept.

    Returns:
        uint8[min(F, max_frames), H, W, 3].

    Raises:
        ImageRefused: another type or shape.
    """
    frames = video.detach().cpu().numpy() if isinstance(video, torch.Tensor) else video
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        raise ImageRefused(ImageReason.UNSUPPORTED_MODE, "a video must be a uint8 array")
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ImageRefused(ImageReason.BAD_DIMENSIONS, f"a video has shape {frames.shape}; expected [F, H, W, 3]")
    return frames[sample_frames(len(frames), max_frames)]


def nest(media: Any, places: Sequence[int], name: str) -> list[list[Any]]:
    """Sort images (or videos) into samples, as transformers' processors accept them.

    Args:
        media: one image; a flat list, in the order of the texts; or a list for each sample. None: no images.
        places: placeholders in each sample's text.
        name: "image" or "video", for messages.

    Returns:
        For each sample its images.

    Raises:
        ConfigError: a nested list of another length than there are texts.
        PromptRefused: TOKEN_MISMATCH where placeholders and images differ in number.

    Example:
        >>> a, b, c = b"a", b"b", b"c"
        >>> nest([a, b, c], [1, 0, 2], "image") == nest([[a], [], [b, c]], [1, 0, 2], "image")
        True
    """
    if media is None:
        media = []
    elif isinstance(media, _SINGLE):
        media = [media]
    if any(isinstance(item, list | tuple) for item in media):
        nested = [[item] if isinstance(item, _SINGLE) else list(item or ()) for item in media]
        if len(nested) != len(places):
            raise ConfigError(f"{name}s are nested for {len(nested)} samples, but there are {len(places)} texts")
    else:
        if len(media) != sum(places):
            detail = f"the texts have {sum(places)} <{name}> places, but {len(media)} {name}s are given"
            raise PromptRefused(PromptReason.TOKEN_MISMATCH, detail)
        queue = iter(media)
        nested = [[next(queue) for _ in range(count)] for count in places]
    for index, (items, count) in enumerate(zip(nested, places, strict=True)):
        if len(items) != count:
            detail = f"text {index} has {count} <{name}> places, but {len(items)} {name}s are given"
            raise PromptRefused(PromptReason.TOKEN_MISMATCH, detail)
    return nested
