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


def to_rgb(image: Image.Image, *, stored_bits: int = 8) -> Image.Image:
    """Convert a decoded Pillow image to 8-bit sRGB.

    Args:
        image: loaded, of any mode; its profile is in `info["icc_profile"]`.
        stored_bits: of a PNG's channel in the file. Pillow scales the pixels to 8 bits, but not the transparent colour.

    Returns:
        The image in mode "RGB", transparency laid on white.

    Raises:
        ImageRefused: `UNSUPPORTED_MODE` for floating point, 32-bit, LAB and HSV, whose range nobody knows.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        return _flatten_16_bit(image, profile)
    if image.mode in ("RGB", "L", "CMYK") and "transparency" not in image.info:
        return apply_profile(image, profile)
    if image.has_transparency_data:
        return _lay_on_white(image, profile, stored_bits)
    if image.mode in ("1", "P", "RGBX", "YCbCr", "L", "RGB"):
        return apply_profile(image.convert("RGB"), profile)
    raise ImageRefused(ImageReason.UNSUPPORTED_MODE, f"{image.format} of mode {image.mode}")


def _lay_on_white(image: Image.Image, profile: bytes | None, stored_bits: int) -> Image.Image:
    """Colours by their profile, then mixed with white by their alpha."""
    if image.mode == "La":
        image = image.convert("LA")  # Pillow has no other way out of grey that is multiplied by its alpha
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int) and stored_bits < 8:
        highest = (1 << stored_bits) - 1
        image.info["transparency"] = (key & highest) * 255 // highest
    elif image.mode == "RGB" and isinstance(key, tuple) and stored_bits == 16:
        image.info["transparency"] = tuple(level >> 8 for level in key)
    grey = image.mode in ("L", "LA", "1")
    mixed = image.convert("LA" if grey else "RGBA")
    canvas = Image.new("RGB", image.size, _WHITE)
    colours = mixed.getchannel("L") if grey else mixed.convert("RGB")
    canvas.paste(apply_profile(colours, profile), mask=mixed.getchannel("A"))
    return canvas


def _flatten_16_bit(image: Image.Image, profile: bytes | None) -> Image.Image:
    """16-bit grey scaled to 8 bits, where Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.uint32)
    bits, white_is_zero = _tiff_samples(image)
    highest = (1 << bits) - 1
    levels = highest - np.minimum(values, highest) if white_is_zero else values
    grey = np.minimum((levels * 255 + highest // 2) // highest, 255).astype(np.uint8)
    flat = apply_profile(Image.fromarray(grey), profile)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        flat.paste(_WHITE, mask=Image.fromarray(values == transparent))
    return flat


def _tiff_samples(image: Image.Image) -> tuple[int, bool]:
    """Bits, and whether 0 is white, of the TIFFs that Pillow hands out in 16 bits as they are stored; others' are 16.

    12 bits is the one kind that it does not scale.
    """
    tags = cast(Any, getattr(image, "tag_v2", {}))
    bits = tags.get(258, (16,))
    return 12 if tuple(bits) == (12,) else 16, tags.get(262) == 0


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
