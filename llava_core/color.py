"""Whatever colours an image is stored in, as 8-bit sRGB: profiles, CMYK, palettes, transparency, 16 bits.

Transparent pixels are laid on white; dropping the alpha channel instead would show the colours that hide under it.

What this does *not* do: gamma and chromaticity chunks of PNG, which no browser-made picture relies on, are ignored.
"""

import io
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from llava_core.errors import ImageReason, ImageRefused

_PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_WHITE = (255, 255, 255)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded Pillow image to 8-bit sRGB.

    Args:
        image: loaded, of any mode; its profile is in `info["icc_profile"]`.

    Returns:
        The image in mode "RGB", transparency laid on white.

    Raises:
        ImageRefused: `UNSUPPORTED_MODE` for floating point, 32-bit, LAB and HSV, whose range nobody knows.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        return _flatten_16_bit(image)
    if image.mode in ("RGB", "L", "CMYK") and "transparency" not in image.info:
        return apply_profile(image, profile)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, _WHITE)
        canvas.paste(apply_profile(rgba.convert("RGB"), profile), mask=rgba.getchannel("A"))
        return canvas
    if image.mode in ("1", "P", "RGBX", "YCbCr", "L", "RGB"):
        return apply_profile(image.convert("RGB"), profile)
    raise ImageRefused(ImageReason.UNSUPPORTED_MODE, f"{image.format} of mode {image.mode}")


def _flatten_16_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, where Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.uint32)
    bits = _bits_per_sample(image)
    highest = (1 << bits) - 1
    grey = np.minimum((values * 255 + highest // 2) // highest, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _bits_per_sample(image: Image.Image) -> int:
    """12 for the one kind of TIFF that Pillow hands out unscaled in 16 bits; otherwise 16."""
    tags = cast(Any, getattr(image, "tag_v2", {}))
    bits = tags.get(258, (16,))
    return 12 if tuple(bits) == (12,) else 16


def apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image to sRGB by its colour profile.

    Args:
        image: mode "RGB", "L" or "CMYK".
        profile: an ICC profile; None, one that makes no sense, or one for other channels is ignored.

    Returns:
        The image in mode "RGB".
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    return transform.apply(image)


def convert_pixels(pixels: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8]:
    """Convert RGB pixels to sRGB by their colour profile.

    Args:
        pixels: uint8[H, W, 3].
        profile: as in `apply_profile`.

    Returns:
        uint8[H, W, 3]; the same array where there is nothing to do.
    """
    transform = _transform(profile, "RGB") if profile else None
    return pixels if transform is None else np.array(transform.apply(Image.fromarray(pixels)))


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB; None where there is none, or where it changes no colour by more than a level."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PROFILE_MODES.get(source.profile.xcolor_space) != mode:
            return None
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB")
    except (OSError, ImageCms.PyCMSError, ValueError, TypeError):
        # A profile that cannot be read says nothing about the pixels: they are taken as sRGB.
        return None
    if mode == "RGB" and _is_identity(transform):
        return None
    return transform


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform leaves a cube of 16³ colours as it is: most profiles in photos are sRGB's own."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3)
    converted = np.asarray(transform.apply(Image.fromarray(cube)))
    return int(np.abs(converted.astype(np.int16) - cube).max()) <= 1
