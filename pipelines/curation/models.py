"""Whose tiles and tokens a corpus is planned for: a model by name, or the any-resolution layout of LLaVA-NeXT alone.

What this does *not* do: load weights; curation needs a model's settings and its tokenizer.
"""

from llava_core.config import ConnectorConfig, ModelConfig, TileConfig, VisionConfig
from llava_core.geometry import Size
from pipelines.models import local_model

LLAVA_NEXT = ModelConfig(
    vision=VisionConfig(
        tower={"model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "patch_size": 14}
    ),
    text_dim=4096,
    connector=ConnectorConfig(image_newline=True),
    tiles=TileConfig(
        pinpoints=(Size(336, 672), Size(672, 336), Size(672, 672), Size(1008, 336), Size(336, 1008)),
    ),
)
"""Tiles of 336 pixels on the five canvases of the released LLaVA-NeXT checkpoints, 576 tokens a tile."""
NAMES = ("llava-next",)
"""Names that need no checkpoint."""


def find_model(name: str, revision: str | None = None) -> tuple[ModelConfig, str | None]:
    """Find the settings of a model, and its tokenizer.

    Args:
        name: "llava-next", what `llava_core.checkpoints.resolve_model` takes, or the URI of a folder.
        revision: of a hub name.

    Returns:
        The settings, and `tokenizer.json` as text; None where there is none.

    Raises:
        CheckpointRefused: the model is not there, or cannot be trusted.

    Example:
        >>> find_model("llava-next")[0].tiles.tile_size
        336
    """
    if name in NAMES:
        return LLAVA_NEXT, None
    from llava_core.checkpoints import read_config, resolve_model  # brings torch, which the built-in layout never needs

    with local_model(name, weights=False) as here:
        folder = resolve_model(here, revision=revision)
        tokenizer = folder / "tokenizer.json"
        return read_config(folder), tokenizer.read_text("utf-8") if tokenizer.is_file() else None
