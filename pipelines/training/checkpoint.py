"""Checkpoints within a stage: sharded (DCP), complete or not loadable, uploaded while training goes on.

    {stage}/checkpoints/{step}-{attempt}/  __0_0.distcp …  .metadata  rank-00000.safetensors …  state.json
                                           COMPLETE.json, last: every file with its size and sha256

Only what trains is in it, with the optimiser's state; frozen weights are those that the stage began with. A folder
without COMPLETE.json, or whose files are not those that it names, is never loaded: the one before is. DCP keeps its
index as a pickle, so an output folder has to be as trusted as the code; it is read only after its hash was found right.

What this does *not* do: decide when to save (`loop`), write whole models (`export`).
"""

import errno
import hashlib
import logging
import random
import secrets
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from pipelines.storage import StorageOptions, filesystem, is_local, join_uri, local_path, read_json, write_json
from pipelines.training.distributed import barrier, everyone, from_first, world
from pipelines.training.errors import TrainingStopped
from pipelines.training.module import TrainModule
from pipelines.training.optimizer import moments, trainable

log = logging.getLogger(__name__)

COMPLETE, STATE = "COMPLETE.json", "state.json"


def tensors_of(module: TrainModule, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What a checkpoint holds: parameters that train, buffers, and the optimiser's moments, as they lie on this worker.

    Args:
        module: with `freeze` applied.
        optimizer: over it; moments that it has not made yet are made here, as zeros.
    """
    found: dict[str, Tensor] = {f"model.{name}": parameter.detach() for name, parameter in trainable(module)}
    found |= {f"optimizer.{name}": value for name, value in moments(optimizer)}
    persistent = module.state_dict().keys()
    found |= {f"buffer.{name}": buffer for name, buffer in module.named_buffers() if name in persistent}
    return found


class Checkpoints:
    """Saves and finds the checkpoints of one stage.

    Args:
        uri: folder of the stage's checkpoints, on a disk that all workers see, or an object store.
        identity: names the run; another run's checkpoints are not looked at.
        options: of the store.
        keep: complete checkpoints that stay.
    """

    def __init__(self, uri: str, identity: str, *, options: StorageOptions | None = None, keep: int = 2) -> None:
        self.uri, self.identity, self.options, self.keep = uri, identity, options, keep
        self._thread: threading.Thread | None = None
        self._outcome: dict[str, Any] = {}
        self._pending: tuple[str, Path, dict[str, Any]] | None = None
        self._refused: set[str] = set()

    @property
    def pending(self) -> bool:
        """A checkpoint has been written and is not yet complete."""
        return self._pending is not None

    @property
    def ready(self) -> bool:
        """This worker's part of it has arrived; always where none is pending."""
        return self._thread is None or not self._thread.is_alive()

    def save(self, module: TrainModule, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, and begin to bring it to its place; all workers call this together.

        Args:
            module: to save.
            optimizer: to save.
            state: the rest, as JSON values; "step" names the checkpoint.

        Raises:
            TrainingStopped: the disk is full; the last complete checkpoint stays.
        """
        if self.pending:
            self.finish()
        name = from_first(f"{int(state['step']):08d}-{secrets.token_hex(4)}")
        target = join_uri(self.uri, name)
        folder = local_path(target) if is_local(target) else Path(tempfile.mkdtemp(prefix="checkpoint-"))
        fault = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._write(folder, module, optimizer, state)
        except Exception as error:
            fault = error
        self._agree(fault, folder)
        own = self._own_files(folder)
        self._outcome = {}
        self._pending = (target, folder, dict(state))
        self._thread = threading.Thread(target=self._bring, args=(folder, target, own), name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the pending checkpoint has arrived everywhere, and declare it complete; all workers together."""
        if self._pending is None or self._thread is None:
            return
        target, folder, state = self._pending
        self._thread.join()
        self._agree(self._outcome.get("error"), folder)
        files = {name: value for part in everyone(self._outcome["files"]) for name, value in part.items()}
        marker = {"identity": self.identity, "step": state["step"], "world_size": world()[1], "files": files}
        fault = None
        if world()[0] == 0:
            try:
                write_json(join_uri(target, COMPLETE), marker, self.options)
            except OSError as error:
                fault = error
        self._agree(fault, folder)
        if not is_local(target):
            shutil.rmtree(folder, ignore_errors=True)
        self._pending = self._thread = None
        if world()[0] == 0:
            self._prune()
        barrier()

    def newest(self) -> tuple[str, dict[str, Any]] | None:
        """The newest complete checkpoint of this run whose files are whole: its folder and its state.

        All workers call this together. Those that are not used go once the next one is complete.
        """
        found = None
        if world()[0] == 0:
            for target, marker in self._complete():
                fault = None if marker["identity"] == self.identity else "it is another run's"
                fault = fault or self._fault(target, marker)
                if fault is None:
                    found = target
                    break
                self._refused.add(target)
                log.warning("checkpoint %s is not used: %s; looking for the one before", target, fault)
        found = from_first(found)
        if found is None:
            return None
        return found, read_json(join_uri(found, STATE), self.options)

    def load(self, target: str, module: TrainModule, optimizer: torch.optim.Optimizer) -> None:
        """Put a checkpoint's tensors in place, and this worker's random numbers where they were.

        Args:
            target: from `newest`.
            module: with the weights that the stage began with.
            optimizer: over it.
        """
        folder = self._fetch(target)
        tensors = tensors_of(module, optimizer)
        reader = FileSystemReader(str(folder))
        with _alone_is_fine():
            load_sharded(tensors, storage_reader=reader, no_dist=world()[1] == 1)
        own = folder / f"rank-{world()[0]:05d}.safetensors"
        if own.is_file():
            _restore_random(load_file(own))
        else:
            log.warning("checkpoint %s was saved by fewer workers; this one draws anew", target)
        if not is_local(target):
            shutil.rmtree(folder, ignore_errors=True)

    def remove_incomplete(self) -> None:
        """Remove folders without their marker: parts of attempts that were killed. On the first worker alone."""
        store, root = filesystem(self.uri, self.options)
        complete = {target.rsplit("/", 1)[-1] for target, _ in self._complete()}
        for path in store.ls(root, detail=False) if store.exists(root) else []:
            if path.rstrip("/").rsplit("/", 1)[-1] not in complete:
                store.rm(path, recursive=True)

    def _write(
        self, folder: Path, module: TrainModule, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
    ) -> None:
        alone = world()[1] == 1
        writer = FileSystemWriter(str(folder), single_file_per_rank=True, sync_files=True)
        with _alone_is_fine():
            save_sharded(tensors_of(module, optimizer), storage_writer=writer, no_dist=alone)
        save_file(_random_state(), folder / f"rank-{world()[0]:05d}.safetensors")
        if world()[0] == 0:
            write_json(str(folder / STATE), dict(state))

    def _own_files(self, folder: Path) -> list[Path]:
        """Files that this worker has to bring: its own, and the shared ones if it is the first."""
        rank = world()[0]
        mine = [path for path in sorted(folder.iterdir()) if path.name.startswith(f"__{rank}_")]
        mine.append(folder / f"rank-{rank:05d}.safetensors")
        return mine + ([folder / ".metadata", folder / STATE] if rank == 0 else [])

    def _bring(self, folder: Path, target: str, own: list[Path]) -> None:
        """In a thread: hash this worker's files, and upload them where the target is a store."""
        try:
            files = {}
            for path in own:
                with path.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
                files[path.name] = [path.stat().st_size, digest]
                if not is_local(target):
                    store, place = filesystem(join_uri(target, path.name), self.options)
                    store.put_file(str(path), place)
            self._outcome["files"] = files
        except Exception as error:
            self._outcome["error"] = error

    def _agree(self, fault: BaseException | None, folder: Path) -> None:
        """Go on only where no worker has met a fault; else all stop together, and the unfinished folder goes."""
        faults = [text for text in everyone(None if fault is None else f"{type(fault).__name__}: {fault}") if text]
        if not faults:
            return
        self._pending = self._thread = None
        shutil.rmtree(folder, ignore_errors=True)
        full = (isinstance(fault, OSError) and fault.errno == errno.ENOSPC) or any("No space left" in f for f in faults)
        what = "the disk is full" if full else "a checkpoint could not be written"
        raise TrainingStopped(
            f"{what} ({faults[0]}); the last complete checkpoint in {self.uri} is kept: make room and run the same "
            "command again"
        ) from fault

    def _complete(self) -> list[tuple[str, dict[str, Any]]]:
        """Folders with a marker, newest first."""
        store, root = filesystem(self.uri, self.options)
        names = (
            [path.rstrip("/").rsplit("/", 1)[-1] for path in store.ls(root, detail=False)] if store.exists(root) else []
        )
        found = []
        for name in sorted(names, reverse=True):
            target = join_uri(self.uri, name)
            try:
                found.append((target, read_json(join_uri(target, COMPLETE), self.options)))
            except FileNotFoundError:
                continue
            except ValueError:
                log.warning("checkpoint %s has a marker that is not whole", target)
        return found

    def _fault(self, target: str, marker: Mapping[str, Any]) -> str | None:
        """What is wrong with a checkpoint's files, or None."""
        return files_fault(target, marker["files"], self.options)

    def _fetch(self, target: str) -> Path:
        """A local folder with a checkpoint's files."""
        if is_local(target):
            return local_path(target)
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
        store, place = filesystem(target, self.options)
        for path in store.ls(place, detail=False):
            store.get_file(path, str(folder / path.rsplit("/", 1)[-1]))
        return folder

    def _prune(self) -> None:
        """Remove old ones, and newer ones that were not whole: neither may take the place of one that can be loaded."""
        usable = [target for target, _ in self._complete() if target not in self._refused]
        for target in (*usable[self.keep :], *self._refused):
            store, place = filesystem(target, self.options)
            store.rm(place, recursive=True)
        self._refused.clear()


def files_fault(target: str, files: Mapping[str, Any], options: StorageOptions | None) -> str | None:
    """Hold a folder's files to their sizes and hashes; what is wrong, or None."""
    for name, (size, digest) in files.items():
        store, place = filesystem(join_uri(target, name), options)
        if not store.exists(place):
            return f"{name} is missing"
        if store.size(place) != size:
            return f"{name} has {store.size(place)} bytes, not {size}"
        with store.open(place, "rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != digest:
                return f"{name} has other content than when it was written"
    return None


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """Without torch's warning that a single process saves or loads by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _random_state() -> dict[str, Tensor]:
    """Every generator's state as tensors, so that nothing has to be unpickled."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    found = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([float("nan") if gauss is None else gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, cached], dtype=torch.float64),
    }
    del kind
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def _restore_random(found: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(found["torch"])
    version, *words = found["python"].tolist()
    gauss = found["python_gauss"].item()
    random.setstate((version, tuple(words), None if gauss != gauss else gauss))
    position, has_gauss, cached = found["numpy_rest"].tolist()
    keys = found["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
    if "cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state(found["cuda"])


def seed_all(*parts: int) -> None:
    """Seed every generator of this worker from some numbers."""
    seed = int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] % 2**63)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
