"""The engine: many requests, one device. `Engine` packs and shares; the reference is the oracle that it is held to.

Engines are imported when first asked for: who only makes requests never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llava_core.engine.choice import EngineName, check_engine
from llava_core.engine.types import FinishReason, Request, Result, Sample, SamplingConfig

if TYPE_CHECKING:
    from llava_core.engine.packed import PackedEngine as Engine
    from llava_core.engine.packed import PackedEngine as PackedEngine
    from llava_core.engine.reference import ReferenceEngine as ReferenceEngine

_HOME = {
    "Engine": ("packed", "PackedEngine"),
    "PackedEngine": ("packed", "PackedEngine"),
    "ReferenceEngine": ("reference", "ReferenceEngine"),
}
__all__ = [
    "Engine",
    "EngineName",
    "FinishReason",
    "PackedEngine",
    "ReferenceEngine",
    "Request",
    "Result",
    "Sample",
    "SamplingConfig",
    "check_engine",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOME[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
