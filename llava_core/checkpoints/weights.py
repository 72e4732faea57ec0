"""The weights of a checkpoint folder: mapped one by one, written so that a reader never sees half.

    *.safetensors, index ── open_weights ──▶ Weights  names, shapes and dtypes from headers; tensors mapped one by one
    tensors ── write_weights ──▶ *.safetensors        beside their final name first, then renamed

Pickled weights (`.bin`) are read only where asked for, by torch's weights-only loader, which builds tensors and calls
nothing. What this does *not* do: know what a tensor is called elsewhere (`layouts`).
"""

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llava_core.checkpoints.files import read_json, refuse, write_json
from llava_core.errors import CheckpointReason

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
MAX_SHARD_BYTES = 5 * 10**9
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
SAFETENSORS_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SAFETENSORS_DTYPES |= {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "I8": torch.int8, "BOOL": torch.bool}


@dataclass(frozen=True, slots=True)
class Spec:
    """What a header says of one tensor."""

    shape: tuple[int, ...]
    """Its dimensions."""
    dtype: torch.dtype | str
    """Its type, or the header's own word for one that torch tensors here never have."""


class Weights(Protocol):
    """Tensors of one folder, read one at a time."""

    def specs(self) -> Mapping[str, Spec]:
        """Shape and dtype of every tensor, by its name in the files."""

    def read(self, name: str) -> torch.Tensor:
        """One tensor on the CPU, mapped from its file where the format allows that."""


def open_weights(folder: Path, *, allow_bin: bool = False) -> Weights:
    """Open the weights of a folder: one file or shards with an index; safetensors before `.bin`.

    Args:
        folder: the checkpoint.
        allow_bin: read `pytorch_model*.bin` where there is no safetensors, through `torch.load(weights_only=True)`.

    Raises:
        CheckpointRefused: NOT_FOUND; UNSAFE_FORMAT for pickles not asked for; PATH_TRAVERSAL for an index that points
            elsewhere; CORRUPT for what cannot be read.
    """
    if (folder / (SAFETENSORS + INDEX)).is_file() or (folder / SAFETENSORS).is_file():
        return _SafetensorsWeights(_shards(folder, SAFETENSORS))
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if allow_bin and ((folder / (BIN + INDEX)).is_file() or (folder / BIN).is_file()):
        return _BinWeights(_shards(folder, BIN))
    if pickles:
        raise refuse(
            CheckpointReason.UNSAFE_FORMAT,
            f"{folder} has weights only as pickles ({', '.join(pickles[:3])}); expected {SAFETENSORS}. Convert "
            f"{BIN} or its shards once, by `export_checkpoint` with allow_bin=True (jobs/export_checkpoint.py "
            "--allow-bin), which reads them through torch's weights-only loader",
        )
    raise refuse(CheckpointReason.NOT_FOUND, f"{folder} has neither {SAFETENSORS} nor {SAFETENSORS + INDEX}")


def _shards(folder: Path, single: str) -> list[Path]:
    """The files that hold a folder's weights, in the order of their names."""
    index = folder / (single + INDEX)
    if not index.is_file():
        return [folder / single]
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(value, str) for value in named.values()):
        raise refuse(CheckpointReason.CORRUPT, f"{index} has no weight_map from tensor names to file names")
    names = sorted(set(named.values()))
    for name in names:
        # A hub cache links its files elsewhere, so only the spelling of an entry is judged, not where links lead.
        if name != Path(name).name or "\\" in name or name in ("", ".", ".."):
            detail = f"{index} names {name!r}; expected a file name inside the folder, no path"
            raise refuse(CheckpointReason.PATH_TRAVERSAL, detail)
        if Path(name).suffix != Path(single).suffix:
            raise refuse(CheckpointReason.UNSAFE_FORMAT, f"{index} names {name!r}; expected *{Path(single).suffix}")
        if not (folder / name).is_file():
            raise refuse(CheckpointReason.NOT_FOUND, f"{index} names {name}, which is not in the folder; copy it again")
    return [folder / name for name in names]


def _add_once(found: dict[str, Any], name: str, value: Any, path: Path) -> None:
    if name in found:
        raise refuse(CheckpointReason.CORRUPT, f"{path} repeats tensor {name}, which an earlier shard holds")
    found[name] = value


class _SafetensorsWeights:
    """Weights in safetensors files, which stay mapped: a tensor's pages are read when it is used."""

    def __init__(self, paths: list[Path]) -> None:
        self._specs: dict[str, Spec] = {}
        self._files: dict[str, Any] = {}
        for path in paths:
            try:
                opened: Any = safe_open(path, framework="pt", device="cpu")
                for name in opened.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                    part = opened.get_slice(name)
                    dtype = SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype())
                    _add_once(self._specs, name, Spec(tuple(part.get_shape()), dtype), path)
                    self._files[name] = opened
            except (SafetensorError, OSError) as error:
                detail = f"{path} is no whole safetensors file ({error}); copy it again"
                raise refuse(CheckpointReason.CORRUPT, detail) from error

    def specs(self) -> Mapping[str, Spec]:
        return self._specs

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        return tensor


class _BinWeights:
    """Weights in torch zip files, through the weights-only loader, mapped."""

    def __init__(self, paths: list[Path]) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        for path in paths:
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except pickle.UnpicklingError as error:
                # The loader's message goes on to advise weights_only=False, which nobody should follow here.
                cause = str(error).split("\n", 1)[0]
                detail = f"{path} holds more than tensors ({cause}); nothing of it was run"
                raise refuse(CheckpointReason.UNSAFE_FORMAT, detail) from error
            except (RuntimeError, OSError, EOFError, ValueError) as error:
                detail = f"{path} is no whole torch zip file ({str(error).splitlines()[0]}); copy it again"
                raise refuse(CheckpointReason.CORRUPT, detail) from error
            if not isinstance(loaded, dict) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
                raise refuse(CheckpointReason.UNSAFE_FORMAT, f"{path} is no mapping of names to tensors")
            for name, tensor in loaded.items():
                _add_once(self._tensors, str(name), tensor, path)

    def specs(self) -> Mapping[str, Spec]:
        return {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def write_weights(folder: Path, tensors: Mapping[str, torch.Tensor], *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write tensors as safetensors, in shards with an index where they exceed one.

    Args:
        folder: exists; weights already in it are replaced. A model mapped from those files stays intact.
        tensors: any device, any strides; no two may share memory.
        max_shard_bytes: most bytes of tensors in one file.
    """
    shards = _split(tensors, max_shard_bytes)
    names = [SAFETENSORS]
    if len(shards) > 1:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        partial = folder / f".{name}.partial"
        ready = {key: tensors[key].detach().to("cpu").contiguous() for key in shard}
        partial.touch()
        mode = partial.stat().st_mode
        save_file(ready, partial, metadata={"format": "pt"})
        # save_file leaves a file that only its owner may read; the process's own umask decides instead.
        partial.chmod(mode)
        partial.replace(folder / name)
    stale = [p for p in folder.glob("model*.safetensors*") if p.name not in names]
    stale += list(folder.glob("pytorch_model*.bin*"))
    for path in stale:
        path.unlink()
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json(folder / (SAFETENSORS + INDEX), {"metadata": {"total_size": total}, "weight_map": weight_map})


def _split(tensors: Mapping[str, torch.Tensor], max_bytes: int) -> list[list[str]]:
    """Names in their order, cut where the next tensor would exceed a shard."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a floating tensor has neither NaN nor infinity; without a mask of its size.

    Example:
        >>> is_finite(torch.tensor([1.0, -2.0])), is_finite(torch.tensor([1.0, float("nan")]))
        (True, False)
    """
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())
