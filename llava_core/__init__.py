"""The model: LLaVA 1.0, 1.5, NeXT and OneVision in one module. One process, one device; no Ray, no tables.

Public names are imported from their modules when first asked for, so that a worker which only decodes images never
loads a language model's code.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_core.batching import collate_variable_resolution as collate_variable_resolution
    from llava_core.config import ModelConfig as ModelConfig
    from llava_core.config import plan_tiles as plan_tiles
    from llava_core.connector import AnyResolutionProjector as AnyResolutionProjector
    from llava_core.engine import Engine as Engine
    from llava_core.geometry import Size as Size
    from llava_core.geometry import select_canvas as select_canvas
    from llava_core.geometry import select_grid as select_grid
    from llava_core.images import decode_image as decode_image
    from llava_core.model import LLaVANeXT as LLaVANeXT
    from llava_core.model import LLaVAOneVision as LLaVAOneVision
    from llava_core.processor import LLaVAProcessor as LLaVAProcessor
    from llava_core.vision_tower import DynamicImageProcessor as DynamicImageProcessor

_HOME = {
    "AnyResolutionProjector": "connector",
    "DynamicImageProcessor": "vision_tower",
    "Engine": "engine",
    "LLaVANeXT": "model",
    "LLaVAOneVision": "model",
    "LLaVAProcessor": "processor",
    "ModelConfig": "config",
    "Size": "geometry",
    "collate_variable_resolution": "batching",
    "decode_image": "images",
    "plan_tiles": "config",
    "select_canvas": "geometry",
    "select_grid": "geometry",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'llava_core' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"llava_core.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
