"""Image features for the packed engine: many images in one dense pass of the tower, kept for those that come again."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from llava_core.engine.lanes import Lanes
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
    sequences: Sequence[Running], model: LLaVANeXT, cache: FeatureCache, tile_budget: int, lanes: Lanes
) -> dict[MediaKey, list[Tensor]]:
    """Packed features of every sequence that has images to be prefilled.

    Args:
        sequences: about to be prefilled; those with equal images are encoded once.
        model: encodes.
        cache: looked at first, filled afterwards.
        tile_budget: most tiles in one pass of the tower.
        lanes: passes run side by side in them.

    Returns:
        float[T_i, D] of each image, by the sequence's key.
    """
    needed = {sequence.key: sequence for sequence in sequences if sequence.needs_features}
    ready = {key: found for key in needed if (found := cache.get(key)) is not None}
    missing = [needed[key] for key in needed if key not in ready]
    if not missing:
        return ready
    tiles = torch.cat([sequence.media.tiles for sequence in missing])
    sizes = even_sizes(len(tiles), tile_budget, lanes.count)
    patches = torch.cat(lanes.map(model.image_processor, torch.split(tiles, sizes), sizes))
    at = 0
    for sequence in missing:
        media, counts = sequence.media, [len(sequence.media.sizes)]
        own = patches[at : (at := at + len(media.tiles))]
        packed = model.pack_images(own, model.plan_images(media.sizes, media.grids, counts), counts)
        ready[sequence.key] = packed
        cache.put(sequence.key, packed)
    return ready


def even_sizes(num_tiles: int, tile_budget: int, num_lanes: int) -> list[int]:
    """How many tiles each pass takes so that all passes are alike, no lane idles, and none exceeds the budget.

    Example:
        >>> [even_sizes(tiles, 4, 2) for tiles in (1, 5, 8, 9)]
        [[1], [3, 2], [4, 4], [3, 2, 2, 2]]
    """
    passes = -(-num_tiles // tile_budget)
    passes = min(-(-passes // num_lanes) * num_lanes, num_tiles)
    least, more = divmod(num_tiles, passes)
    return [least + 1] * more + [least] * (passes - more)
