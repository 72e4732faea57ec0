"""Independent passes side by side on the cores of a CPU, one thread each.

Two passes on two cores, each in its own caches and waiting for nobody, take a fifth to a quarter less time than one
after the other with every product shared by both cores (measured: a CLIP tower 1.97 → 1.53 s, prompts 4.7 → 4.0 s).

What this does *not* do: decide what is independent (`features`, `runner`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")


class Lanes:
    """As many threads as torch uses for one operation, or none on an accelerator, which orders work by itself.

    Args:
        device: that the passes run on.
    """

    def __init__(self, device: torch.device) -> None:
        self.count = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self.count, "lane") if self.count > 1 else None

    def map(self, function: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
        """Apply a function that needs no gradients to each item.

        Args:
            function: independent of the order in which it is called; from any thread.
            items: the longest work first, so that no lane is left with it at the end.

        Returns:
            What it made of each, in order.

        Raises:
            Exception: the first that an item raised, once all lanes have stopped.
        """
        if self._pool is None or len(items) < 2:
            return [function(item) for item in items]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            futures = [self._pool.submit(_without_gradients, function, item) for item in items]
            wait(futures)
        finally:
            torch.set_num_threads(threads)
        return [future.result() for future in futures]


@torch.inference_mode()
def _without_gradients(function: Callable[[Item], Made], item: Item) -> Made:
    # the mode belongs to a thread, and a lane does not inherit it
    return function(item)
