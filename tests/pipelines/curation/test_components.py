import numpy as np
import pytest

from pipelines.curation.components import component_labels, connected, leaders


def slow_components(nodes: int, pairs: list[tuple[int, int]]) -> list[int]:
    label = list(range(nodes))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            low = min(label[a], label[b])
            changed |= label[a] != low or label[b] != low
            label[a] = label[b] = low
    return label


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_relabelling_until_nothing_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 60, (int(rng.integers(1, 60)), 2))
    expected = slow_components(60, pairs.tolist())
    for order in (np.arange(len(pairs)), rng.permutation(len(pairs))):
        shuffled = pairs[order]
        turned = np.where(rng.random((len(pairs), 1)) < 0.5, shuffled, shuffled[:, ::-1])
        assert connected(60, turned[:, 0], turned[:, 1]).tolist() == expected


def test_long_chains_stars_and_combs_are_one_component() -> None:
    nodes = 50_000
    names = np.random.default_rng(0).permutation(nodes)
    chain = connected(nodes, names[:-1], names[1:])
    star = connected(nodes, np.full(nodes - 1, nodes - 1), np.arange(nodes - 1))
    apart = connected(nodes, names[: nodes // 2 - 1], names[1 : nodes // 2])
    assert (chain == 0).all()
    assert (star == 0).all()
    assert len(np.unique(apart)) == 1 + nodes // 2


def test_labels_are_the_least_hash() -> None:
    left, right = np.array([9, 2**63, 7], np.uint64), np.array([2**63, 4, 8], np.uint64)
    hashes, labels = component_labels(left, right)
    assert hashes.tolist() == [4, 7, 8, 9, 2**63]
    assert labels.tolist() == [4, 7, 7, 4, 4]
    assert component_labels(left[:0], right[:0])[0].tolist() == []


def near(limit: float, places: list[float]):
    at = np.array(places)
    return lambda member, leader: np.abs(at[member] - at[leader]) <= limit


def test_a_chain_is_split_and_every_member_is_within_reach_of_its_leader() -> None:
    places = [5.0, 4.0, 6.0, 3.0, 7.0, 2.0, 20.0]
    given = leaders(np.zeros(7, np.uint64), np.zeros(7, bool), near(1.0, places)).tolist()
    # 5 leads 4 and 6; of 3, 7, 2, 20 the first, 3, leads 2; 7 and 20 lead themselves
    assert given == [0, 0, 0, 3, 4, 3, 6]


def test_groups_do_not_mix_and_fixed_rows_always_lead() -> None:
    groups = np.array([1, 1, 1, 2, 2], np.uint64)
    fixed = np.array([False, True, False, False, False])
    given = leaders(groups, fixed, lambda member, leader: np.ones(len(member), bool)).tolist()
    assert given == [0, 1, 0, 3, 3]


def test_rows_that_match_nothing_lead_themselves() -> None:
    given = leaders(np.zeros(4, np.uint64), np.zeros(4, bool), lambda member, leader: np.zeros(len(member), bool))
    assert given.tolist() == [0, 1, 2, 3]
