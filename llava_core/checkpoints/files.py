"""The settings' files of a checkpoint folder: read without running anything in them, written whole or not at all.

    config.json ── read_json ──▶ dict                 refuses auto_map (remote code), cut or huge JSON

Torch is not needed for any of it, so a driver and workers that hold no model never wait for it. What this does *not*
do: read tensors (`weights`) or know what a setting means.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_core.errors import CheckpointReason, CheckpointRefused

CONFIG = "config.json"
MAX_JSON_BYTES = 256 * 2**20
JSON_FILES = (
    CONFIG,
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
HASHED_SUFFIXES = frozenset({".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"})


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


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def hash_files(paths: Iterable[Path]) -> str:
    """Hash of names and contents: 16 hexadecimal digits, whatever the order."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        with path.open("rb") as opened:
            total.update(f"{path.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]
