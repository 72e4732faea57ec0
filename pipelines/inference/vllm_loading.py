"""Loads vLLM, in the process that holds it, in an environment of its own (`vllm_environment`).

What this does *not* do: choose what vLLM chooses by itself: its caches, kernels and schedule.
"""

from collections.abc import Mapping
from typing import Any

from llava_core.engine.vllm_engine import VllmEngine
from llava_core.processor import LLaVAProcessor
from pipelines.inference.engine_process import Beat, Generator


def load_engine(spec: Mapping[str, Any], beat: Beat) -> Generator:
    """Load a checkpoint into vLLM.

    Args:
        spec: `engine_guard.EngineSpec`, as JSON.
        beat: called at each step of vLLM's scheduler.
    """
    folder = spec["folder"]
    processor = LLaVAProcessor.from_pretrained(folder)
    return VllmEngine(folder, processor, batch_size=spec["batch_size"], dtype=spec["dtype"], beat=lambda: beat(0))
