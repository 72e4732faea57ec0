"""Whole models: what a stage ends with, gathered from all workers into a checkpoint folder that every reader takes.

    {stage}/model   our own layout, float32: what the next stage begins with
    model           the last stage's, in the layout that was asked for ("hf" is transformers')

Adapters are merged first. A folder counts as written once its COMPLETE.json is there, which comes last. What this does
*not* do: save within a stage (`checkpoint`).
"""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_core.checkpoints import Layout
from llava_core.checkpoints.fresh import new_model, word_tokenizer
from llava_core.checkpoints.load import load_model
from llava_core.config import ModelConfig
from llava_core.model import LLaVANeXT, model_class
from llava_core.processor import LLaVAProcessor
from pipelines.models import local_model
from pipelines.storage import StorageOptions, filesystem, is_local, join_uri, local_path, read_json, write_json
from pipelines.training.checkpoint import COMPLETE, files_fault
from pipelines.training.distributed import barrier, whole, world
from pipelines.training.module import TrainModule
from pipelines.training.optimizer import add_adapters, merge_adapters
from pipelines.training.recipes import FRESH
from pipelines.training.stages import Stage

log = logging.getLogger(__name__)


def gather(module: TrainModule) -> dict[str, Tensor] | None:
    """The model's tensors, whole, on the first worker's CPU; None on the others. All workers call this together."""
    found: dict[str, Tensor] = {}
    for name, tensor in module.model.state_dict().items():
        full = whole(tensor)
        if world()[0] == 0:
            found[name] = full.detach().cpu().clone()
    return found if world()[0] == 0 else None


def plain_model(config: ModelConfig, tensors: Mapping[str, Tensor], stage: Stage) -> LLaVANeXT:
    """A model of its own from gathered tensors, adapters merged."""
    with torch.device("cpu"):
        model = model_class(config)(config)
    add_adapters(model, stage)
    model.load_state_dict(dict(tensors), strict=True)
    model.language_model.tie_weights()
    merge_adapters(model)
    return model.eval()


def write_model(
    model: LLaVANeXT,
    processor: LLaVAProcessor,
    target: str,
    *,
    layout: Layout,
    marker: Mapping[str, Any],
    options: StorageOptions | None = None,
) -> None:
    """Write a model, its tokenizer and, last, COMPLETE.json.

    Args:
        model: whole.
        processor: whose tokenizer goes beside it.
        target: folder; what was there is replaced.
        layout: of the folder.
        marker: what COMPLETE.json says beside layout and files.
        options: of the store.
    """
    store, place = filesystem(target, options)
    if store.exists(place):
        store.rm(place, recursive=True)
    folder = local_path(target) if is_local(target) else Path(tempfile.mkdtemp(prefix="model-"))
    model.save_pretrained(folder, layout=layout, tokenizer=processor.tokenizer)
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as opened:
            files[path.name] = [path.stat().st_size, hashlib.file_digest(opened, "sha256").hexdigest()]
        if not is_local(target):
            store.put_file(str(path), f"{place}/{path.name}")
    write_json(join_uri(target, COMPLETE), {**marker, "layout": layout, "files": files}, options)
    if not is_local(target):
        shutil.rmtree(folder, ignore_errors=True)


def upload_folder(folder: Path, target: str, options: StorageOptions | None = None) -> None:
    """Copy a local folder's files into a store, those in folders below it too."""
    store, place = filesystem(target, options)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.put_file(str(path), f"{place}/{path.relative_to(folder)}")


def fetch_files(source: str, names: Sequence[str], folder: Path, options: StorageOptions | None = None) -> None:
    """Bring those of some files that are in a store into a local folder, over what is there."""
    store, place = filesystem(source, options)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if store.exists(f"{place}/{name}"):
            store.get_file(f"{place}/{name}", str(folder / name))


def read_marker(target: str, options: StorageOptions | None = None) -> dict[str, Any] | None:
    """COMPLETE.json of a folder whose files are whole; None otherwise."""
    try:
        marker: dict[str, Any] = read_json(join_uri(target, COMPLETE), options)
    except (FileNotFoundError, ValueError):
        return None
    fault = files_fault(target, marker["files"], options)
    if fault is not None:
        log.warning("model %s is not used: %s", target, fault)
        return None
    return marker


def unwritten(targets: Mapping[str, Layout], identity: str, options: StorageOptions | None = None) -> dict[str, Layout]:
    """Those of some folders that do not hold a stage's whole model, in the layout that they are to have.

    Args:
        targets: folder → layout.
        identity: of the stage.
        options: of the store.
    """
    found = {}
    for target, layout in targets.items():
        marker = read_marker(target, options) or {}
        if (marker.get("identity"), marker.get("layout")) != (identity, layout):
            found[target] = layout
    return found


def open_model(source: str, options: StorageOptions | None = None) -> tuple[LLaVANeXT, LLaVAProcessor]:
    """Load a model and its processor, from a folder, a URI or a name; `fresh:SEED` makes a new one."""
    kind, _, seed = source.partition(":")
    if kind == FRESH:
        model = new_model(int(seed or 0))
        return model.eval(), LLaVAProcessor(word_tokenizer(), model.config)
    with local_model(source, options) as name:
        return load_model(name), LLaVAProcessor.from_pretrained(name)


def finish_stage(
    module: TrainModule,
    processor: LLaVAProcessor,
    stage: Stage,
    targets: Mapping[str, Layout],
    marker: Mapping[str, Any],
    options: StorageOptions | None = None,
    *,
    trained: bool = False,
) -> None:
    """Write a stage's model into folders; all workers call this together, the first one writes.

    Args:
        module: as the stage ends.
        processor: of the model.
        stage: says whether there are adapters.
        targets: folder → layout, written in order.
        marker: what each COMPLETE.json says.
        options: of the store.
        trained: a recipe ends here: a model that began with random weights is no longer called untrained.
    """
    tensors = gather(module)
    if tensors is not None:
        config = module.model.config
        model = plain_model(replace(config, trained=config.trained or trained), tensors, stage)
        for target, layout in targets.items():
            write_model(model, processor, target, layout=layout, marker=marker, options=options)
    barrier()


def write_again(source: str, targets: Mapping[str, Layout], options: StorageOptions | None = None) -> None:
    """Write a stage's model, which is there, into more folders; all workers call this together, the first one writes.

    Args:
        source: folder of the stage's own model.
        targets: folder → layout.
        options: of the store.
    """
    if world()[0] == 0:
        marker = read_json(join_uri(source, COMPLETE), options)
        model, processor = open_model(source, options)
        for target, layout in targets.items():
            write_model(model, processor, target, layout=layout, marker=marker, options=options)
    barrier()
