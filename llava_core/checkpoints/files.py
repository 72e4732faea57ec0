"""The files of a checkpoint folder: read without running anything in them, written so that a reader never sees half.

    config.json ── read_json ──▶ dict                 refuses auto_map (remote code), cut or huge JSON
    *.safetensors, index ── open_weights ──▶ Weights  names, shapes and dtypes from headers; tensors mapped one by one
    tensors ── write_weights ──▶ *.safetensors        beside their final name first, then renamed

Pickled weights (`.bin`) are read only where asked for, by torch's weights-only loader, which builds tensors and calls
nothing. What this does *not* do: know what a tensor is called elsewhere (`layouts`) or what a setting means.
"""

import hashlib
import json
import math
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llava_core.errors import CheckpointReason, CheckpointRefused

CONFIG = "config.json"
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
MAX_JSON_BYTES = 256 * 2**20
MAX_SHARD_BYTES = 5 * 10**9
JSON_FILES = (
    CONFIG,
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
HASHED_SUFFIXES = frozenset({".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"})
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


def refuse(reason: CheckpointReason, detail: str) -> CheckpointRefused:
    """The error of a refused checkpoint, to be raised by the caller."""
    return CheckpointRefused(reason, detail)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a checkpoint folder.

    Raises:
        CheckpointRefused: NOT_FOUND; CORRUPT where it is no JSON object or beyond 256 MiB.
    """
    if not path.is_file():
        raise refuse(CheckpointReason.NOT_FOUND, f"expected a file {path}; is this a checkpoint folder?")
    if (found := path.stat().st_size) > MAX_JSON_BYTES:
        raise refuse(CheckpointReason.CORRUPT, f"{path} has {found} bytes; expected at most {MAX_JSON_BYTES}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise refuse(CheckpointReason.CORRUPT, f"{path} is not readable JSON ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise refuse(CheckpointReason.CORRUPT, f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """As `read_json`, but an absent file is an empty object."""
    return read_json(path) if path.is_file() else {}


def refuse_remote_code(folder: Path) -> None:
    """Refuse a folder whose settings name Python code to run, at any depth.

    Raises:
        CheckpointRefused: REMOTE_CODE, naming the file and the entry.
    """
    for name in JSON_FILES:
        for key, value in _entries(read_optional_json(folder / name)):
            if key in ("auto_map", "custom_pipelines") and value:
                raise refuse(
                    CheckpointReason.REMOTE_CODE,
                    f"{folder / name} has {key} = {value!r}, which asks for Python code from the checkpoint to be run; "
                    "this project never does that. Remove the entry if the model is one of the LLaVA layouts",
                )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) pair of nested JSON, without recursion."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            yield from current.items()
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)


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
            f"{folder} has weights only as pickles ({', '.join(pickles[:3])}); expected {SAFETENSORS}. To read {BIN} "
            "or its shards through torch's weights-only loader, set allow_bin=True",
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


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


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


def hash_files(paths: Iterable[Path]) -> str:
    """Hash of names and contents: 16 hexadecimal digits, whatever the order."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        with path.open("rb") as opened:
            total.update(f"{path.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]
