"""Checkpoints: read and write the layouts that LLaVA has been released in, strictly and without running their code.

    folder ─ detect_layout ─▶ "own" | "hf" | "original" ─ read_config ─▶ ModelConfig ─ load_model ─▶ model
    model ─ save_model(layout) ─▶ folder                name ─ resolve_model ─▶ folder ─ revision ─▶ content hash

Inside: `files` (safe reading and writing), `layouts` (tensor names), `standard`, `own`, `hf`, `original` and
`settings` (config files), `towers`, `vocabulary`, `hub`, `load`, `quantise`, `save`, `export`, `untrained`.
"""

from llava_core.checkpoints.export import export_checkpoint
from llava_core.checkpoints.hub import resolve_model
from llava_core.checkpoints.layouts import Layout
from llava_core.checkpoints.load import load_model, revision
from llava_core.checkpoints.save import save_model
from llava_core.checkpoints.settings import detect_layout, read_config
from llava_core.checkpoints.vocabulary import load_tokenizer

__all__ = [
    "Layout",
    "detect_layout",
    "export_checkpoint",
    "load_model",
    "load_tokenizer",
    "read_config",
    "resolve_model",
    "revision",
    "save_model",
]
