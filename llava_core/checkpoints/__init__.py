"""Checkpoints: read and write the layouts that LLaVA has been released in, strictly and without running their code.

    folder ─ detect_layout ─▶ "own" | "hf" | "original" ─ read_config ─▶ ModelConfig ─ load_model ─▶ model
    model ─ save_model(layout) ─▶ folder                name ─ resolve_model ─▶ folder ─ revision ─▶ content hash

Inside: `files` (safe reading and writing), `weights`, `layouts` (tensor names), `standard`, `own`, `hf`, `original` and
`settings` (config files), `towers`, `vocabulary`, `hub`, `load`, `quantise`, `save`, `export`, `untrained`.

Names are imported from their modules when first asked for: a driver that reads a config never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_core.checkpoints.export import export_checkpoint as export_checkpoint
    from llava_core.checkpoints.hub import findable_name as findable_name
    from llava_core.checkpoints.hub import resolve_model as resolve_model
    from llava_core.checkpoints.layouts import Layout as Layout
    from llava_core.checkpoints.load import load_model as load_model
    from llava_core.checkpoints.save import check_layout as check_layout
    from llava_core.checkpoints.save import save_model as save_model
    from llava_core.checkpoints.settings import detect_layout as detect_layout
    from llava_core.checkpoints.settings import read_config as read_config
    from llava_core.checkpoints.settings import revision as revision
    from llava_core.checkpoints.vocabulary import load_tokenizer as load_tokenizer

_HOME = {
    "Layout": "layouts",
    "check_layout": "save",
    "detect_layout": "settings",
    "export_checkpoint": "export",
    "load_model": "load",
    "load_tokenizer": "vocabulary",
    "read_config": "settings",
    "findable_name": "hub",
    "resolve_model": "hub",
    "revision": "settings",
    "save_model": "save",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
