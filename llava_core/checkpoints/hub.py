"""From the name of a model to a folder on this machine: the embedded one, a local folder, or a download.

Downloads take safetensors, settings and tokenizer files only; nothing that could run. What this does *not* do: judge
what it finds (`load`).
"""

import logging
from importlib import resources
from pathlib import Path

from llava_core.errors import CheckpointReason, CheckpointRefused

logger = logging.getLogger(__name__)

EMBEDDED = "tiny"
SAFE_PATTERNS = ["*.safetensors", "*.json", "tokenizer.model", "merges.txt", "*.jinja"]


def resolve_model(name_or_path: str | Path, *, revision: str | None = None, allow_bin: bool = False) -> Path:
    """Find a model's folder.

    Args:
        name_or_path: "tiny" (the embedded model), a local folder, or a hub name, optionally as `name@revision`; a
            `Path` is never looked for on the hub.
        revision: commit to download; a full hash pins the files for good. None follows the hub's default branch.
        allow_bin: download `pytorch_model*.bin` too.

    Returns:
        The folder.

    Raises:
        CheckpointRefused: NOT_FOUND where it is neither, or the hub does not have it or cannot be reached.

    Example:
        >>> (resolve_model("tiny") / "config.json").is_file()
        True
    """
    name = str(name_or_path)
    if name == EMBEDDED:
        return Path(str(resources.files("llava_core") / "assets" / EMBEDDED))
    if Path(name).is_dir():
        return Path(name)
    repository, _, named = name.partition("@")
    if isinstance(name_or_path, Path) or repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        detail = f'{name!r} is neither "{EMBEDDED}", nor a folder here, nor a hub name such as owner/model'
        raise CheckpointRefused(CheckpointReason.NOT_FOUND, detail)
    return _download(repository, revision or named or None, allow_bin)


def findable_name(name: str, folder: Path) -> str:
    """What a worker, in another folder or on another machine, finds the same checkpoint by.

    Args:
        name: that `resolve_model` was given; or the URI of a folder, of which it was given a copy.
        folder: that it returned.

    Returns:
        "tiny" or the URI, as they are; the absolute path of a local folder; `owner/model@commit` of the files that the
        hub gave, so that a branch that moves meanwhile changes nothing.

    Example:
        >>> findable_name("owner/model@main", Path("/cache/models--owner--model/snapshots/4f8a"))
        'owner/model@4f8a'
    """
    if name == EMBEDDED or "://" in name:
        return name
    return str(folder.absolute()) if Path(name).is_dir() else f"{name.partition('@')[0]}@{folder.name}"


def _download(repository: str, revision: str | None, allow_bin: bool) -> Path:
    from huggingface_hub import snapshot_download  # brings a web client, which local folders never need

    patterns = [*SAFE_PATTERNS, *(["pytorch_model*.bin"] if allow_bin else [])]
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the client's errors share no base class below Exception
        detail = f"the hub gave no {repository} at {revision or 'its default branch'} ({error}); give a local folder"
        raise CheckpointRefused(CheckpointReason.NOT_FOUND, detail) from error
    if revision is None:
        logger.warning("%s was not pinned; for the same files again, say %s@%s", repository, repository, folder.name)
    return folder
