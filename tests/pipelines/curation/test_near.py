from itertools import combinations
from math import comb

import numpy as np
import pytest

from llava_core.errors import ConfigError
from pipelines.curation.blocks import Blocks, choose_blocks, finest_blocks
from pipelines.curation.near import NearConfig, gather, near_pairs, search_slice, slices
from tests.pipelines.curation.cases import flipped, planted


def brute(hashes: np.ndarray, distance: int) -> set[tuple[int, int]]:
    unique = np.unique(hashes)
    return {(int(a), int(b)) for a, b in combinations(unique.tolist(), 2) if (a ^ b).bit_count() <= distance}


def found(hashes: np.ndarray, config: NearConfig, **settings) -> set[tuple[int, int]]:
    pairs = near_pairs(hashes, config, **settings)
    listed = list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    assert listed == sorted(set(listed)), "ascending, each once"
    return set(listed)


@pytest.mark.parametrize("blocks", [Blocks(4, 1), Blocks(5, 2), Blocks(6, 3), Blocks(10, 7)])
def test_every_pattern_of_up_to_three_bits_is_found(blocks: Blocks) -> None:
    masks = [sum(1 << bit for bit in bits) for distance in (1, 2, 3) for bits in combinations(range(64), distance)]
    masks = masks[:: 1 if blocks.take < 7 else 7]
    bases = np.random.default_rng(0).integers(0, 2**64, len(masks), dtype=np.uint64)
    others = bases ^ np.array(masks, np.uint64)
    expected = set(zip(np.minimum(bases, others).tolist(), np.maximum(bases, others).tolist(), strict=True))
    assert found(np.concatenate([bases, others]), NearConfig(), blocks=blocks) == expected


@pytest.mark.parametrize(("distance", "guaranteed"), [(0, 0), (1, 1), (2, 3), (3, 3), (5, 5), (8, 8)])
def test_agrees_with_comparing_all_pairs(distance: int, guaranteed: int) -> None:
    rng = np.random.default_rng(7)
    hashes = [int(value) for value in rng.integers(0, 2**64, 150, dtype=np.uint64)]
    hashes += [flipped(hashes[place % 40], int(rng.integers(0, 11)), rng) for place in range(250)]
    config = NearConfig(max_distance=distance, guaranteed_distance=guaranteed)
    expected = brute(np.array(hashes, np.uint64), distance)
    assert found(np.array(hashes, np.uint64), config) == expected
    assert (len(expected) > 10) == (distance > 0)


def test_planted_pairs_are_all_found_and_nothing_else() -> None:
    hashes, pairs = planted(100_000, 0.05, np.random.default_rng(0))
    expected = {(int(min(hashes[a], hashes[b])), int(max(hashes[a], hashes[b]))) for a, b in pairs}
    expected = {(a, b) for a, b in expected if a != b}
    assert len(expected) == 1875
    assert found(hashes, NearConfig()) == expected


def test_order_and_repetition_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    hashes, _ = planted(3000, 0.5, rng)
    again = np.concatenate([hashes, hashes[:700]])
    rng.shuffle(again)
    one, other = near_pairs(hashes, NearConfig()), near_pairs(again, NearConfig())
    assert one.left.tolist() == other.left.tolist()
    assert one.right.tolist() == other.right.tolist()


def test_slices_searched_apart_give_the_whole() -> None:
    hashes, _ = planted(20_000, 0.2, np.random.default_rng(1))
    blocks, config = Blocks(5, 2), NearConfig()
    parts = []
    for table in range(len(blocks.tables)):
        for bits in (0, 3):
            cut = list(slices(np.unique(hashes), blocks, table, bits))
            assert sum(len(part) for _, part in cut) == len(np.unique(hashes))
            assert [number for number, _ in cut] == list(range(2**bits))
            assert all((part >> np.uint64(61) == number).all() for number, part in cut if bits)
        parts += [search_slice(part, table, blocks, config) for _, part in cut]
    whole = near_pairs(hashes, config, blocks=blocks)
    assert sum(len(part) for part in parts) == len(whole), "no pair is found in two tables"
    gathered = gather(reversed(parts))
    assert gathered.left.tolist() == whole.left.tolist()
    assert gathered.right.tolist() == whole.right.tolist()


def test_only_pairs_with_fresh_hashes() -> None:
    hashes, pairs = planted(4000, 0.4, np.random.default_rng(2))
    fresh = np.unique(hashes[:300])
    expected: set[tuple[int, int]] = set()
    for a, b in pairs:
        low, high = sorted((int(hashes[a]), int(hashes[b])))
        if low != high and {low, high} & set(fresh.tolist()):
            expected.add((low, high))
    assert len(expected) == 225
    assert found(hashes, NearConfig(), fresh=fresh) == expected
    assert found(hashes, NearConfig(), fresh=fresh[:0]) == set()


def test_full_buckets_are_searched_finer_and_lose_nothing() -> None:
    rng = np.random.default_rng(4)
    common = 0x5A5A_5A5A_0000_0000
    hashes = np.unique(common | rng.integers(0, 2**32, 3000, dtype=np.uint64))
    planted_here = [flipped(int(value), 2, rng) for value in hashes[:200]]
    hashes = np.concatenate([hashes, np.array(planted_here, np.uint64)])
    config = NearConfig(bucket_cap=64)
    first = search_slice(np.sort(Blocks(4, 1).permute(np.unique(hashes), 0)), 0, Blocks(4, 1), config)
    assert len(first.full) > 2000, "the case must fill a bucket"
    result = near_pairs(hashes, config)
    assert set(zip(result.left.tolist(), result.right.tolist(), strict=True)) == brute(hashes, 3)
    assert len(result.full) == 0


def test_buckets_that_stay_full_are_capped_and_reported() -> None:
    hashes = np.arange(2**12, dtype=np.uint64) + np.uint64(7 << 40)
    lonely = np.array([2**63, 2**63 + 1], np.uint64)
    result = near_pairs(np.concatenate([hashes, lonely]), NearConfig(bucket_cap=100))
    assert result.full.tolist() == hashes.tolist(), "those capped, and no others"
    assert (result.distance <= 3).all()
    got = set(zip(result.left.tolist(), result.right.tolist(), strict=True))
    assert (2**63, 2**63 + 1) in got
    assert {(int(a), int(a) + 1) for a in hashes[::2]} <= got, "next neighbours are still compared"
    assert len(got) > 4096 * 3
    uncapped = near_pairs(hashes, NearConfig(bucket_cap=2**13))
    assert len(uncapped.full) == 0
    assert len(got) / 2 < len(uncapped) == 4096 * sum(comb(12, d) for d in (1, 2, 3)) // 2


def test_a_pair_of_a_bucket_that_is_not_full_is_found_whatever_another_table_left_out() -> None:
    rng = np.random.default_rng(9)
    # four bits in each of the three last of ten blocks: the first table's key is the others, so all hashes share its
    # bucket, which is above the cap; those of tables whose keys hold two of the three are not
    chosen = rng.choice(2**12, 1500, replace=False).astype(np.uint64)
    hashes = chosen & np.uint64(15) | (chosen >> np.uint64(4) & np.uint64(15)) << np.uint64(6)
    hashes |= chosen >> np.uint64(8) << np.uint64(12)
    config = NearConfig(bucket_cap=40)
    result = near_pairs(hashes, config)
    got = set(zip(result.left.tolist(), result.right.tolist(), strict=True))
    assert len(result.full) == 1500
    near = brute(hashes, 3)
    blocks = finest_blocks(config.blocks(1500))
    assert blocks == Blocks(10, 7)
    sure = set()
    for mask in blocks.masks:
        buckets: dict[int, list[int]] = {}
        for value in hashes.tolist():
            buckets.setdefault(value & mask, []).append(value)
        small = [sorted(bucket) for bucket in buckets.values() if len(bucket) <= 40]
        sure |= {pair for bucket in small for pair in combinations(bucket, 2)} & near
    assert 0.1 * len(near) < len(sure) < len(near)
    assert sure <= got <= near


def test_recall_beyond_the_guarantee_is_as_stated() -> None:
    rng = np.random.default_rng(5)
    config = NearConfig(max_distance=6, guaranteed_distance=3)
    bases = rng.integers(0, 2**64, 4000, dtype=np.uint64)
    for distance in (4, 5, 6):
        others = np.array([flipped(int(base), distance, rng) for base in bases], np.uint64)
        blocks = Blocks(4, 1)
        share = len(near_pairs(np.concatenate([bases, others]), config, blocks=blocks)) / len(bases)
        # standard error sqrt(p(1-p)/4000) < 0.008; measured differences 0.001 to 0.006
        assert share == pytest.approx(blocks.recall(distance), abs=0.025)
    assert blocks.recall(3) == 1
    assert blocks.recall(4) == pytest.approx(1 - 16**4 / comb(64, 4))


def test_permutation_goes_there_and_back_and_puts_the_key_on_top() -> None:
    blocks = Blocks(5, 2)
    assert blocks.widths == (13, 13, 13, 13, 12)
    hashes = np.random.default_rng(6).integers(0, 2**64, 50, dtype=np.uint64)
    for table in range(10):
        moved = blocks.permute(hashes, table)
        assert (blocks.permute(moved, table, back=True) == hashes).all()
        assert (moved != hashes).any() == (table > 0)
        key = np.uint64(blocks.masks[table])
        top = moved >> np.uint64(64 - blocks.key_bits(table))
        assert (np.bitwise_count(hashes & key) == np.bitwise_count(top)).all()
    assert blocks.permute(np.array([1 << 12], np.uint64), 2).tolist() == [1 << (63 - 25)]


def test_choice_of_blocks_follows_the_number_of_hashes() -> None:
    chosen = [choose_blocks(rows, 3) for rows in (1, 10**5, 10**7, 10**8, 10**9)]
    assert chosen == [Blocks(4, 1), Blocks(4, 1), Blocks(5, 2), Blocks(5, 2), Blocks(6, 3)]
    # the facts behind the choice: 3.1e9, 1e7 and 2.6e5 random candidate pairs at 10 million hashes
    candidates = [Blocks(count, take).candidates(10**7) for count, take in ((4, 1), (5, 2), (6, 3))]
    assert candidates == pytest.approx([3.05e9, 1.04e7, 2.56e5], rel=0.01)
    assert finest_blocks(Blocks(12, 4)) == Blocks(13, 5)


@pytest.mark.parametrize(
    "settings", [{"max_distance": 9}, {"max_distance": -1}, {"guaranteed_distance": 9}, {"bucket_cap": 8}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        NearConfig(**settings)
