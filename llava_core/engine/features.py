"""Image features for the packed engine: many images in one dense pass of the tower, kept for those that come again."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from llava_core.engine.requests import MediaKey, Running
from llava_core.model import LLaVANeXT


class FeatureCache:
    """Packed features by the content of their images, least recently used out first.

    Args:
        limit_bytes: most bytes kept; features that are larger are not kept at all.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._entries: OrderedDict[MediaKey, list[Tensor]] = OrderedDict()

    def get(self, key: MediaKey) -> list[Tensor] | None:
        """The features of a key, or None."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: MediaKey, features: list[Tensor]) -> None:
        """Keep features, making room first."""
        size = sum(feature.nbytes for feature in features)
        if size > self.limit_bytes or key in self._entries:
            return
        while self.used_bytes + size > self.limit_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.used_bytes -= sum(feature.nbytes for feature in oldest)
        self._entries[key] = features
        self.used_bytes += size


def image_features(
    sequences: Sequence[Running], model: LLaVANeXT, cache: FeatureCache, tile_budget: int
) -> dict[MediaKey, list[Tensor]]:
    """Packed features of every sequence that has images to be prefilled.

    Args:
        sequences: about to be prefilled; those with equal images are encoded once.
        model: encodes.
        cache: looked at first, filled afterwards.
        tile_budget: most tiles in one pass; an image with more goes alone.

    Returns:
        float[T_i, D] of each image, by the sequence's key.
    """
    needed = {sequence.key: sequence for sequence in sequences if sequence.needs_features}
    ready = {key: found for key in needed if (found := cache.get(key)) is not None}
    for batch in _by_tiles([needed[key] for key in needed if key not in ready], tile_budget):
        features = model.encode_images(
            torch.cat([sequence.media.tiles for sequence in batch]),
            [size for sequence in batch for size in sequence.media.sizes],
            [grid for sequence in batch for grid in sequence.media.grids],
            [len(sequence.media.sizes) for sequence in batch],
        )
        at = 0
        for sequence in batch:
            own = features[at : (at := at + len(sequence.media.sizes))]
            ready[sequence.key] = own
            cache.put(sequence.key, own)
    return ready


def _by_tiles(sequences: Sequence[Running], budget: int) -> Iterable[list[Running]]:
    """Cut sequences into batches of at most `budget` tiles."""
    batch: list[Running] = []
    tiles = 0
    for sequence in sequences:
        count = len(sequence.media.tiles)
        if batch and tiles + count > budget:
            yield batch
            batch, tiles = [], 0
        batch.append(sequence)
        tiles += count
    if batch:
        yield batch
