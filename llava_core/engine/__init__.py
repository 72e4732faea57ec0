"""The engine: many requests, one device. `Engine` is the one that jobs use."""

from llava_core.engine.packed import PackedEngine
from llava_core.engine.reference import ReferenceEngine
from llava_core.engine.reference import ReferenceEngine as Engine
from llava_core.engine.types import FinishReason, Request, Result, SamplingConfig

__all__ = ["Engine", "FinishReason", "PackedEngine", "ReferenceEngine", "Request", "Result", "SamplingConfig"]
