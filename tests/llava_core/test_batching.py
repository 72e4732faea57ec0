"""Batches under a token budget."""

import random

import pytest

from llava_core.batching import collate_variable_resolution


def padded(lengths: list[list[int]]) -> int:
    return sum(len(batch) * max(batch) for batch in lengths)


def test_document_samples_by_hand() -> None:
    samples = [{"num_patches": n, "name": name} for n, name in [(3, "a"), (6, "b"), (2, "c"), (6, "d"), (5, "e")]]
    batches = collate_variable_resolution(samples, 576 * 12)
    # 6 + 6 fill a budget of 12 tiles; 5 alone, because 3 is more than a fifth shorter; so are 3 and 2 apart.
    assert [[sample["name"] for sample in batch] for batch in batches] == [["b", "d"], ["e"], ["a"], ["c"]]
    loose = collate_variable_resolution(samples, 576 * 12, max_padding=0.5)
    assert [[sample["name"] for sample in batch] for batch in loose] == [["b", "d"], ["e", "a"], ["c"]]


def test_budget_counts_padding() -> None:
    assert collate_variable_resolution([100, 99, 98], 297, num_tokens=int) == [[100, 99], [98]]
    assert collate_variable_resolution([100, 99, 98], 300, num_tokens=int) == [[100, 99, 98]]


@pytest.mark.parametrize("seed", range(3))
def test_every_sample_once_under_budget_with_little_padding(seed: int) -> None:
    lengths = random.Random(seed).choices([*range(577, 2929)], k=500)
    batches = collate_variable_resolution(lengths, 16_384, num_tokens=int)
    assert sorted(length for batch in batches for length in batch) == sorted(lengths)
    assert all(len(batch) * max(batch) <= 16_384 for batch in batches)
    assert padded(batches) / sum(lengths) < 1.02  # measured 1.012; in the order of arrival, eight a batch, 1.5
    assert len(batches) < 1.15 * sum(lengths) / 16_384  # measured 1.09: full, but for the last place


def test_refusals() -> None:
    with pytest.raises(ValueError, match="sample 1 has 301 tokens; a batch may have at most 300"):
        collate_variable_resolution([5, 301], 300, num_tokens=int)
    with pytest.raises(ValueError, match='no "num_patches"'):
        collate_variable_resolution([{"tiles": 1}])
    assert collate_variable_resolution([], 10) == []
