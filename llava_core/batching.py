"""Batches of samples whose lengths differ: under a token budget, with little padding.

A batch costs (samples × longest sample) tokens, because shorter samples are padded. Any-res makes lengths differ by a
factor of ten, so samples are sorted, and a batch takes neighbours.

What this does *not* do: pad tensors (`processor`), order an epoch (`pipelines/training`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

TOKENS_PER_TILE = 576

Sample = TypeVar("Sample")


def collate_variable_resolution(
    batch: Sequence[Sample],
    max_tokens: int = 16_384,
    *,
    num_tokens: Callable[[Sample], int] | None = None,
    max_padding: float = 0.2,
) -> list[list[Sample]]:
    """Divide samples into batches.

    Args:
        batch: the samples.
        max_tokens: most tokens of a batch, padding included.
        num_tokens: tokens of a sample; None takes `sample["num_patches"]` tiles of 576, as the document does.
        max_padding: most that the shortest sample of a batch may be padded by, as a part of the longest: 0.2 keeps
            samples of 800..1000 tokens together.

    Returns:
        Batches, longest samples first, so that running out of memory shows at once; each sample is in one of them.

    Raises:
        ValueError: a sample longer than `max_tokens`.

    Source: the document, which opens a batch whenever a sample is longer than the last (decision 9).

    Example:
        >>> lengths = [100, 990, 95, 1000, 400]
        >>> collate_variable_resolution(lengths, 2000, num_tokens=lambda n: n)
        [[1000, 990], [400], [100, 95]]
    """
    measure = num_tokens or _document_tokens
    lengths = [measure(sample) for sample in batch]
    batches: list[list[Sample]] = []
    longest = 0
    for index in sorted(range(len(batch)), key=lambda i: -lengths[i]):
        if lengths[index] > max_tokens:
            raise ValueError(f"sample {index} has {lengths[index]} tokens; a batch may have at most {max_tokens}")
        fits = batches and (len(batches[-1]) + 1) * longest <= max_tokens
        if not fits or lengths[index] < longest * (1 - max_padding):
            batches.append([])
            longest = lengths[index]
        batches[-1].append(batch[index])
    return batches


def _document_tokens(sample: Any) -> int:
    if not isinstance(sample, Mapping) or "num_patches" not in sample:
        raise ValueError('a sample has no "num_patches"; pass num_tokens to say how long a sample is')
    return int(sample["num_patches"]) * TOKENS_PER_TILE
