"""Processes that decode for one engine: as many as keep up with it, each of which may die (`pipelines.sandbox`).

Engines and decoders are scaled apart: `runtime.plan_workers` says how many engines there are, `decoders_for` how many
decoders each has; up to 4 cores it is one. What this does *not* do: decide what becomes of a refused image (`prepare`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llava_core.config import ModelConfig
from llava_core.errors import ImageRefused
from pipelines.inference.budget import DETAIL
from pipelines.inference.tiles import PREPARE, TILES, Tiled, Wish, tiled
from pipelines.sandbox import Answer, Sandbox, SandboxSettings

FEW_CORES = 4
"""Up to here an engine and one decoder share all cores."""


def decoders_for(threads: int, *, on_gpu: bool) -> int:
    """How many decoders keep up with one engine.

    Args:
        threads: cores that an engine has as its share.
        on_gpu: the engine leaves its cores alone.

    Example:
        >>> decoders_for(2, on_gpu=False), decoders_for(16, on_gpu=False), decoders_for(16, on_gpu=True)
        (1, 2, 14)
    """
    if threads <= FEW_CORES:
        return 1
    return threads - 2 if on_gpu else max(1, threads // 8)


class Decoders:
    """Sandboxes that share the images of each call. Close them at the end.

    Args:
        settings: limits of each.
        count: of them.
        config: the model's.
        moved: told about each image that was decoded, and each time that one ended its process; from several threads.
    """

    def __init__(
        self, settings: SandboxSettings, count: int, config: ModelConfig, moved: Callable[[], None] = lambda: None
    ) -> None:
        whole, side = {"config": config.to_dict()}, {"tile_side": config.tiles.tile_size}
        self._tiles = [Sandbox(settings, TILES, whole, PREPARE, moved) for _ in range(count)]
        self._details = [Sandbox(settings, DETAIL, side, moved=moved) for _ in range(count)]
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="decode")

    def tile(self, files: Sequence[bytes], wishes: Sequence[Wish]) -> list[Tiled | ImageRefused]:
        """For each image, in order, its tiles and the bound of the wish that was taken, or why it was refused."""
        found = self._shared(self._tiles, files, [{"wish": dataclasses.asdict(wish)} for wish in wishes])
        return [
            one if isinstance(one, ImageRefused) else tiled(data, one) for data, one in zip(files, found, strict=True)
        ]

    def details(self, files: Sequence[bytes]) -> list[int | None]:
        """For each image, in order, `lost_detail`; None for one that is refused."""
        found = self._shared(self._details, files, [{}] * len(files))
        return [None if isinstance(one, ImageRefused) else int(one.values["detail"]) for one in found]

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()
        for sandbox in (*self._tiles, *self._details):
            sandbox.close()

    def _shared(
        self, sandboxes: Sequence[Sandbox], files: Sequence[bytes], options: Sequence[Mapping[str, Any]]
    ) -> list[Answer | ImageRefused]:
        """Give each sandbox every n-th image, and put the answers in order again."""
        count = min(len(sandboxes), len(files)) or 1
        jobs = [self._pool.submit(sandboxes[at].run, files[at::count], options[at::count]) for at in range(count)]
        parts = [job.result() for job in jobs]
        return [parts[at % count][at // count] for at in range(len(files))]
