"""Workers for tests: processes of one gloo group that run stages, and die where they are told to.

A server process that has imported everything forks them, so a start costs a moment and no import. Nothing of Ray.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines.errors import StoppedError
from pipelines.training import checkpoint, distributed, export, loop
from pipelines.training.calls import Calls
from pipelines.training.loop import StageWork

PRELOAD = ["pipelines.training.loop", "llava_core.checkpoints", "llava_core.processor", "llava_core.tiling"]
PRELOAD += ["transformers.models.llama.modeling_llama", "transformers.models.clip.modeling_clip", "tensorboardX"]
PRELOAD += ["torch.distributed.checkpoint", "torch.distributed.fsdp", "tests.pipelines.training.workers"]
POINTS = ("step", "saved", "brought", "model", "between")
"""Where a worker can be killed: before a step, after its shard is written, before its checkpoint is complete, while the
stage's model is written, before the next stage begins."""
STOPPED = 3
"""Exit code of a worker that was asked to stop, and has."""


def run(
    works: Sequence[StageWork],
    world_size: int,
    death: tuple[str, int] | None = None,
    stop: int | None = None,
    *,
    sharded: bool = True,
) -> list[int]:
    """Run stages with so many workers; exit codes by rank.

    Args:
        works: in order.
        world_size: workers.
        death: kill -9 every worker at a point, the first of them when it gets there for the n-th time.
        stop: SIGTERM the last worker, and no other, in the middle of its n-th step.
        sharded: shard the small models of tests too, which would else stay whole.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_work, args=(list(works), rank, world_size, f"{folder}/store", death, stop, sharded))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        first = processes[0]
        first.join(120)
        for process in processes[1:]:
            if first.exitcode not in (0, STOPPED):
                # A group that has lost a worker waits for it; Ray Train would kill it, and so does this.
                process.kill()
            process.join(30)
        return [process.exitcode if process.exitcode is not None else -1 for process in processes]


def _work(
    works: list[StageWork],
    rank: int,
    size: int,
    store: str,
    death: tuple[str, int] | None,
    stop: int | None,
    sharded: bool,
) -> None:
    torch.set_num_threads(1)
    if sharded:
        distributed.WHOLE_BELOW = 0
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    if death is not None and rank == 0:
        arm(*death)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    if stop is not None and rank == size - 1:
        terminate(stop)
    try:
        for work in works:
            loop.run_stage(work, torch.device("cpu"), calls=Calls(stopping=asked.is_set))
    except StoppedError:
        os._exit(STOPPED)
    if size > 1:
        dist.destroy_process_group()


def arm(point: str, count: int) -> None:
    """Kill this process when it comes to a point for the n-th time."""
    reached: Counter[str] = Counter()

    def here(name: str) -> None:
        reached[name] += 1
        if name == point and reached[name] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*args: Any, **kwargs: Any) -> Any:
            here(name)
            return inner(*args, **kwargs)

        return outer

    loop._Run._take = before("step", loop._Run._take)  # type: ignore[method-assign]
    checkpoint.Checkpoints._own_files = before("saved", checkpoint.Checkpoints._own_files)  # type: ignore[method-assign]
    checkpoint.Checkpoints.finish = before("brought", checkpoint.Checkpoints.finish)  # type: ignore[method-assign]
    export.write_json = before("model", export.write_json)
    loop.run_stage = before("between", loop.run_stage)


def terminate(count: int) -> None:
    """SIGTERM this process while it runs a step for the n-th time."""
    inner, steps = loop._Run._backward, iter(range(1, count + 1))

    def outer(self: Any, *args: Any) -> Any:
        if next(steps, None) == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, *args)

    loop._Run._backward = outer  # type: ignore[method-assign]


def saved_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whole, whatever number of workers wrote it."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(str(folder))
    entries = reader.read_metadata().state_dict_metadata
    found = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    with checkpoint._alone_is_fine():
        load(found, storage_reader=reader, no_dist=True)
    return found
