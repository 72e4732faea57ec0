"""Keys and values of running requests, allocated whole when a request is admitted, and counted in bytes.

A sequence's cache is one contiguous block for all layers, sized for its prompt and the most tokens it may generate, so
that decoding never copies or reallocates. A prefix that several requests share is such a block too, held once.

Legend: L layers, K key/value heads, C capacity in tokens, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token's keys and values take."""

    num_layers: int
    """L."""
    num_heads: int
    """K, key/value heads (fewer than query heads with GQA)."""
    head_dim: int
    """D."""
    dtype: torch.dtype
    """Of keys and values; the language model's."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token in all layers, keys and values together."""
        return 2 * self.num_layers * self.num_heads * self.head_dim * self.dtype.itemsize

    @classmethod
    def of(cls, language_model: PreTrainedModel) -> "KVShape":
        """Read the shape from a transformers causal language model's config."""
        config = language_model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dtype = next(parameter.dtype for parameter in language_model.parameters() if parameter.is_floating_point())
        return cls(config.num_hidden_layers, heads, width, dtype)


@dataclass(slots=True, eq=False)
class SequenceCache:
    """Keys and values of one sequence, or of a prefix that several share."""

    shape: KVShape
    """Of one token."""
    capacity: int
    """C: tokens that fit."""
    device: torch.device
    """Where they lie."""
    length: int = 0
    """Tokens written in every layer."""
    keys: Tensor = field(init=False)
    """[L, K, C, D]."""
    values: Tensor = field(init=False)
    """[L, K, C, D]."""

    def __post_init__(self) -> None:
        size = (self.shape.num_layers, self.shape.num_heads, self.capacity, self.shape.head_dim)
        self.keys = torch.empty(size, dtype=self.shape.dtype, device=self.device)
        self.values = torch.empty(size, dtype=self.shape.dtype, device=self.device)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append one layer's new keys and values, and return everything of that layer.

        `length` moves only when the step ends (`advance`), so that every layer writes at the same place.

        Args:
            layer: index of the layer.
            keys: [K, T, D] of T new tokens.
            values: [K, T, D].

        Returns:
            keys and values [K, length + T, D], as views.

        Raises:
            RuntimeError: the capacity is exceeded, which admission rules out.
        """
        stop = self.length + keys.shape[1]
        if stop > self.capacity:
            raise RuntimeError(f"a sequence of {stop} tokens does not fit its {self.capacity}; admission miscounted")
        self.keys[layer, :, self.length : stop] = keys
        self.values[layer, :, self.length : stop] = values
        return self.keys[layer, :, :stop], self.values[layer, :, :stop]

    def advance(self, num_tokens: int) -> None:
        """Count tokens that every layer has written."""
        self.length += num_tokens


class KVBudget:
    """Counts the bytes of caches against a limit.

    Args:
        shape: of one token.
        limit_bytes: most bytes of keys and values at any time.
        alone_bytes: the same of one request that nothing else runs beside, if that is more.
    """

    def __init__(self, shape: KVShape, limit_bytes: int, alone_bytes: int = 0) -> None:
        self.shape = shape
        self.limit_bytes = limit_bytes
        self.alone_bytes = max(limit_bytes, alone_bytes)
        self.used_bytes = 0
        self._room_bytes = limit_bytes

    def fits(self, num_tokens: int) -> bool:
        """Whether this many more tokens fit now."""
        room = self._room_bytes if self.used_bytes else self.alone_bytes
        return self.used_bytes + num_tokens * self.shape.bytes_per_token <= room

    def ever_fits(self, num_tokens: int) -> bool:
        """Whether they would fit if nothing else were there."""
        return num_tokens * self.shape.bytes_per_token <= self.alone_bytes

    def learn(self) -> None:
        """Note that the device has no room for more beside what is counted now, until `clear`.

        What took the room may be another's and gone soon, so it is not remembered for good.
        """
        if self.used_bytes:
            self._room_bytes = self.used_bytes

    def allocate(self, num_tokens: Sequence[int], device: torch.device) -> list[SequenceCache]:
        """Caches of these capacities, counted; where memory runs out none is."""
        caches = [SequenceCache(self.shape, capacity, device) for capacity in num_tokens]
        self.used_bytes += sum(num_tokens) * self.shape.bytes_per_token
        return caches

    def release(self, cache: SequenceCache) -> None:
        """Uncount a cache that is let go; with its place, as much room again is tried beyond what was learned."""
        freed = cache.capacity * self.shape.bytes_per_token
        self.used_bytes -= freed
        self._room_bytes = min(self.limit_bytes, self._room_bytes + freed)

    def clear(self) -> None:
        """Uncount all caches, which nobody holds any more, and forget what was learned."""
        self.used_bytes = 0
        self._room_bytes = self.limit_bytes
