"""Whole configs by name, and the document's three trade-offs between quality and speed."""

from dataclasses import replace

from pipelines.inference.config import CaptionConfig


def demo(images: str, output: str) -> CaptionConfig:
    """A few images on this machine, with short captions from the embedded model, asked as in its training."""
    return CaptionConfig(input=(images,), output=output, model="tiny", prompt="Describe the image.", max_new_tokens=48)


def fast(config: CaptionConfig) -> CaptionConfig:
    """The document's `config_fast`: at most 2 tiles; fine detail may be missed."""
    return replace(config, resolution="high", max_tiles=2)


def balanced(config: CaptionConfig) -> CaptionConfig:
    """The document's `config_balanced`: at most 4 tiles."""
    return replace(config, resolution="high", max_tiles=4)


def high_quality(config: CaptionConfig) -> CaptionConfig:
    """The document's `config_high_quality`: at most 6 tiles, or as many as the model was trained with if fewer."""
    return replace(config, resolution="high", max_tiles=6)
