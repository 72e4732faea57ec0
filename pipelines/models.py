"""Models in a store: a copy of the folder on this machine, for as long as somebody reads it.

`llava_core` reads folders, names and nothing else, so whoever reads a model that may be in a store, driver or worker,
asks for its copy here. What this does *not* do: write models (`training.export`).
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from llava_core.checkpoints.files import HASHED_SUFFIXES, refuse
from llava_core.errors import CheckpointReason
from pipelines.storage import StorageOptions, filesystem, is_local, local_path

_WEIGHTS = frozenset({".safetensors", ".bin"})


@contextlib.contextmanager
def local_model(source: str, options: StorageOptions | None = None, *, weights: bool = True) -> Iterator[str]:
    """Lend what `llava_core.checkpoints.resolve_model` finds a model by.

    Args:
        source: "tiny", a folder, a hub name, or the URI of a folder.
        options: of the store; None reads the environment.
        weights: False copies settings and tokenizer alone.

    Yields:
        The name as it is; of a folder in a store its copy, which goes when the caller is done. What was loaded from it
        stays, mapped files too.

    Raises:
        CheckpointRefused: NOT_FOUND where the store has no file of a checkpoint there.
        ConfigError: there is no such store.

    Example:
        >>> with local_model("tiny") as name:
        ...     name
        'tiny'
    """
    if is_local(source):
        yield str(local_path(source)) if "://" in source else source
        return
    suffixes = HASHED_SUFFIXES if weights else HASHED_SUFFIXES - _WEIGHTS
    store, place = filesystem(source, options)
    try:
        found = [path for path in store.ls(place, detail=False) if PurePosixPath(path).suffix in suffixes]
    except FileNotFoundError:
        found = []
    if not found:
        raise refuse(CheckpointReason.NOT_FOUND, f"{source} has no file of a checkpoint; is this a checkpoint folder?")
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        for path in found:
            store.get_file(path, f"{folder}/{PurePosixPath(path).name}")
        yield folder
