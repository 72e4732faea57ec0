"""Read a checkpoint folder of any layout into a model: strictly, without running its code, without a second copy.

    config.json ─▶ layout ─▶ ModelConfig ─▶ skeleton (no memory) ─▶ names and shapes compared with the headers
                ─▶ tensor by tensor: mapped, finite?, cast ─▶ assigned

Every tensor of the model must be there and no other; only buffers that follow from the config (`layouts.DERIVED`) are
ignored. What this does *not* do: guess. A folder that does not fit is refused with a reason.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import GenerationConfig

from llava_core.checkpoints.files import CONFIG, read_json
from llava_core.checkpoints.hub import resolve_model
from llava_core.checkpoints.layouts import EMBED_WEIGHT, ENCODER, HEAD_WEIGHT, Layout, name_all, naming_of, shorten
from llava_core.checkpoints.quantise import PREFIX, quantise_language_model, require_bitsandbytes
from llava_core.checkpoints.settings import layout_of, read_config
from llava_core.checkpoints.standard import CARRIED_KEY
from llava_core.checkpoints.towers import supplied_names
from llava_core.checkpoints.vocabulary import check_vocabulary, read_vocabulary
from llava_core.checkpoints.weights import Spec, Weights, is_finite, open_weights
from llava_core.config import ModelConfig
from llava_core.errors import CheckpointReason, CheckpointRefused
from llava_core.geometry import AxisOrder

if TYPE_CHECKING:
    from llava_core.model import LLaVANeXT

logger = logging.getLogger(__name__)

GENERATION = "generation_config.json"


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where one tensor of the model lies."""

    weights: Weights
    """The files that hold it."""
    name: str
    """Its name in them."""
    rows: int | None = None
    """Only this many leading rows belong to the model; the rest are padding that the hf layout needs."""

    def spec(self) -> Spec:
        """Shape and dtype, padding rows left out."""
        found = self.weights.specs()[self.name]
        return found if self.rows is None else Spec((self.rows, *found.shape[1:]), found.dtype)

    def read(self) -> torch.Tensor:
        """The tensor, on the CPU."""
        tensor = self.weights.read(self.name)
        return tensor if self.rows is None else tensor[: self.rows].clone()


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    vision_tower: str | Path | None = None,
    allow_bin: bool = False,
    quantization_config: Any = None,
    axis_order: AxisOrder | None = None,
    template: str | None = None,
) -> "LLaVANeXT":
    """Read a checkpoint folder of any layout into a model in evaluation mode.

    Args:
        path: the folder, or what `resolve_model` finds one by.
        dtype: cast floating tensors to this; None keeps them as stored.
        device: where the model goes.
        vision_tower: folder or hub name of the vision tower, for originals without its weights (LLaVA 1.0, 1.5).
        allow_bin: read `.bin` files through torch's weights-only loader where there is no safetensors.
        quantization_config: transformers' `BitsAndBytesConfig`: the language model is loaded in 4 or 8 bits.
        axis_order: see `read_config`.
        template: see `read_config`.

    Returns:
        `LLaVAOneVision` for that family, else `LLaVANeXT`.

    Raises:
        CheckpointRefused: with the reason.
        ConfigError: quantisation asked for without bitsandbytes.
    """
    folder = resolve_model(path, allow_bin=allow_bin)
    if quantization_config is not None:
        require_bitsandbytes()
    raw = read_json(folder / CONFIG)
    layout = layout_of(raw, folder)
    config = read_config(folder, vision_tower=vision_tower, axis_order=axis_order, template=template)
    vocabulary = read_vocabulary(folder)
    if vocabulary and config.text is not None and config.placement == "placeholder":
        check_vocabulary(vocabulary, config, must_have_image=layout != "original")
    stored = _locate(folder, layout, config, vision_tower, allow_bin)
    if layout == "hf" and "text.vocab_size" in raw.get(CARRIED_KEY, {}):
        _leave_padding_rows(stored, int((config.text or {})["vocab_size"]))
    config = _untie_if_unequal(config, stored)
    model = _skeleton(config)
    shared = shared_names(model)
    _compare({name: t for name, t in model.state_dict().items() if name not in shared}, stored, folder)
    _assign(model, stored, dtype, torch.device(device), quantization_config)
    if model.language_model is not None and (folder / GENERATION).is_file():
        model.language_model.generation_config = GenerationConfig.from_dict(read_json(folder / GENERATION))
    return model.eval()


def _locate(
    folder: Path, layout: Layout, config: ModelConfig, vision_tower: str | Path | None, allow_bin: bool
) -> dict[str, _Stored]:
    """Where each tensor lies, by our name for it; a supplied tower fills in for an absent one."""
    weights = open_weights(folder, allow_bin=allow_bin)
    names = list(weights.specs())
    stored = {ours: _Stored(weights, theirs) for ours, theirs in name_all(names, naming_of(layout, names)).items()}
    if layout != "original" or any(name.startswith(ENCODER) for name in stored):
        if vision_tower is not None:
            logger.warning(
                "vision_tower %s is not used: %s holds a tower of its own, which may be tuned", vision_tower, folder
            )
        return stored
    if vision_tower is None:
        raise CheckpointRefused(
            CheckpointReason.MISSING_TENSORS,
            f"{folder} has no weights of its vision tower: it was trained with a frozen one. Give vision_tower=, the "
            "folder or hub name that mm_vision_tower in its config.json names",
        )
    tower_weights, named = supplied_names(
        resolve_model(vision_tower, allow_bin=allow_bin), config.vision.tower, allow_bin=allow_bin
    )
    return stored | {ours: _Stored(tower_weights, theirs) for ours, theirs in named.items()}


def _leave_padding_rows(stored: dict[str, _Stored], rows: int) -> None:
    for name in (EMBED_WEIGHT, HEAD_WEIGHT):
        if name in stored and stored[name].spec().shape[0] > rows:
            stored[name] = dataclasses.replace(stored[name], rows=rows)


def _untie_if_unequal(config: ModelConfig, stored: dict[str, _Stored]) -> ModelConfig:
    """Settle embeddings that the config ties but the files hold twice; `stored` loses the copy where they are equal.

    Unequal ones are kept as they are, untied, as transformers does: what was stored is what was trained.
    """
    tied = config.text is not None and config.text.get("tie_word_embeddings")
    if not tied or HEAD_WEIGHT not in stored or EMBED_WEIGHT not in stored:
        return config
    embedding, head = stored[EMBED_WEIGHT], stored[HEAD_WEIGHT]
    if embedding.spec() == head.spec() and torch.equal(embedding.read(), head.read()):
        del stored[HEAD_WEIGHT]
        return config
    logger.warning("config.json ties the embeddings, but %s and %s differ; both are kept", EMBED_WEIGHT, HEAD_WEIGHT)
    return dataclasses.replace(config, text={**(config.text or {}), "tie_word_embeddings": False})


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Inside, every new parameter is a shape on the meta device; buffers are computed as usual.

    `torch.device("meta")` would also lose the buffers that no file holds (positions, rotary frequencies).
    """
    register = nn.Module.register_parameter

    def register_shape(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and param.device.type != "meta":
            self._parameters[name] = nn.Parameter(param.data.to("meta"), param.requires_grad)

    nn.Module.register_parameter = register_shape  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _skeleton(config: ModelConfig) -> "LLaVANeXT":
    from llava_core.model import model_class  # the model delegates to this module, so not at the top

    with _parameters_without_memory():
        return model_class(config)(config)


def shared_names(model: nn.Module) -> dict[str, str]:
    """Parameters that are one and the same: each further name → the first."""
    first: dict[int, str] = {}
    named = list(model.named_parameters(remove_duplicate=False))
    return {name: first[id(p)] for name, p in named if first.setdefault(id(p), name) != name}


def _compare(expected: Mapping[str, torch.Tensor], stored: Mapping[str, _Stored], folder: Path) -> None:
    """Refuse before reading any tensor: names, then shapes and dtypes."""
    missing, unexpected = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing:
        detail = f"{folder} lacks {len(missing)} of the {len(expected)} tensors of its config: {shorten(missing)}"
        raise CheckpointRefused(CheckpointReason.MISSING_TENSORS, detail)
    if unexpected:
        listed = shorten(stored[name].name for name in unexpected)
        detail = f"{folder} holds {len(unexpected)} tensors that its config has no use for: {listed}"
        raise CheckpointRefused(CheckpointReason.UNEXPECTED_TENSORS, detail)
    for name, tensor in expected.items():
        spec = stored[name].spec()
        floats = isinstance(spec.dtype, torch.dtype) and spec.dtype.is_floating_point and tensor.is_floating_point()
        if spec.shape != tuple(tensor.shape) or not (floats or spec.dtype == tensor.dtype):
            raise CheckpointRefused(
                CheckpointReason.WRONG_SHAPE,
                f"{stored[name].name} is {spec.dtype}{list(spec.shape)}; config.json asks for "
                f"{tensor.dtype}{list(tensor.shape)}. Config and weights are of different models",
            )


def _assign(
    model: "LLaVANeXT",
    stored: Mapping[str, _Stored],
    dtype: torch.dtype | None,
    device: torch.device,
    quantization_config: Any,
) -> None:
    """Put the tensors into the skeleton: they replace its parameters, so that nothing exists twice."""
    tower_dtype = dtype or _dtype_beside(stored)
    tensors: dict[str, torch.Tensor] = {}
    for name, place in stored.items():
        tensor = place.read()
        if not is_finite(tensor):
            raise CheckpointRefused(CheckpointReason.NOT_FINITE, f"{place.name} has NaN or infinite values")
        wanted = tower_dtype if name.startswith(ENCODER) else dtype
        cast = wanted if tensor.is_floating_point() and wanted is not None else tensor.dtype
        tensors[name] = tensor.to(device="cpu" if _to_quantise(name, quantization_config) else device, dtype=cast)
    tensors |= {name: tensors[first] for name, first in shared_names(model).items()}
    if quantization_config is not None:
        quantise_language_model(model, tensors, quantization_config, device)
    model.load_state_dict(tensors, strict=quantization_config is None, assign=True)
    if quantization_config is None and model.language_model is not None:
        model.language_model.tie_weights()
    for child in model.children():
        if quantization_config is None or child is not model.language_model:
            child.to(device)


def _to_quantise(name: str, quantization_config: Any) -> bool:
    return quantization_config is not None and name.startswith(PREFIX)


def _dtype_beside(stored: Mapping[str, _Stored]) -> torch.dtype | None:
    """The dtype that a supplied tower takes on: that of the checkpoint it joins; None where the tower is its own."""
    sources = {id(place.weights) for place in stored.values()}
    beside = stored.get(EMBED_WEIGHT)
    found = beside.spec().dtype if beside is not None and len(sources) > 1 else None
    return found if isinstance(found, torch.dtype) else None
