"""Loads an engine, in the process that holds it: the only place of these jobs where torch is needed.

What this does *not* do: serve requests (`engine_process`).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from llava_core.checkpoints import load_model
from llava_core.engine import PackedEngine, ReferenceEngine
from llava_core.processor import LLaVAProcessor
from pipelines.inference.engine_process import Beat, Generator

ENGINES: Mapping[str, type[PackedEngine | ReferenceEngine]] = {
    "packed": PackedEngine,
    "reference": ReferenceEngine,
}


def load_engine(spec: Mapping[str, Any], beat: Beat) -> Generator:
    """Load a checkpoint and put an engine around it.

    Args:
        spec: `engine_guard.EngineSpec`, as JSON.
        beat: called whenever the tower or the language model begins a pass, with the latter's tokens.

    Raises:
        CheckpointRefused: with the reason.
    """
    torch.set_num_threads(spec["threads"])
    device, folder = spec["device"], spec["folder"]
    auto = "bfloat16" if device.startswith("cuda") else "float32"
    dtype = getattr(torch, auto if spec["dtype"] == "auto" else spec["dtype"])
    model = load_model(folder, dtype=dtype, device=device, quantization_config=_bits(spec["quantize"], dtype))
    _first_projection(model.image_processor).register_forward_pre_hook(lambda *_: beat(0))
    if model.language_model is not None:
        _first_projection(model.language_model).register_forward_pre_hook(
            lambda _, inputs: beat(math.prod(inputs[0].shape[:-1]))
        )
    engine = ENGINES[spec["engine"]]
    return engine(model, LLaVAProcessor.from_pretrained(folder), batch_size=spec["batch_size"], device=device)


def _first_projection(part: torch.nn.Module) -> torch.nn.Linear:
    """Of the first layer: whatever drives the layers, each pass goes through it."""
    return next(module for module in part.modules() if isinstance(module, torch.nn.Linear))


def _bits(quantize: str | None, dtype: torch.dtype) -> Any:
    """How bitsandbytes quantises: 4 bits as NormalFloat (QLoRA, arXiv 2305.14314), 8 bits as LLM.int8()."""
    if quantize is None:
        return None
    settings: Any = BitsAndBytesConfig
    if quantize == "8bit":
        return settings(load_in_8bit=True)
    return settings(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
