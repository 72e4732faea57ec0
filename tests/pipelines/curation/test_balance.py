"""Caps and mixtures: near the numbers asked for, the same whatever the order, and stable while data grows."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from llava_core.errors import ConfigError
from pipelines.curation.balance import BalanceConfig, balance, mixture_factors, uid_fractions
from schemas.selection import DropReason


def columns(**counts: int) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """uids and keys: so many rows of each key, interleaved by uid."""
    pairs = ((f"{key}{number}", key) for key, count in counts.items() for number in range(count))
    rows = sorted((hashlib.sha256(name.encode()).hexdigest(), key) for name, key in pairs)
    return pa.chunked_array([[uid for uid, _ in rows]]), pa.chunked_array([[key for _, key in rows]])


def kept(uids: pa.ChunkedArray, keys: pa.ChunkedArray, config: BalanceConfig) -> dict[str, set[str]]:
    """Key → uids that stay."""
    gone = np.logical_or.reduce(list(balance(uids, keys, config).values()))
    found: dict[str, set[str]] = {}
    for uid, key, dropped in zip(uids.to_pylist(), keys.to_pylist(), gone, strict=True):
        if not dropped:
            found.setdefault(key or "", set()).add(uid)
    return found


def sizes(found: dict[str, set[str]]) -> dict[str, int]:
    """Key → rows that stay."""
    return {key: len(uids) for key, uids in sorted(found.items())}


def test_the_number_of_a_uid_is_blake2b_of_seed_and_uid() -> None:
    digest = hashlib.blake2b(b"7/abc", digest_size=8).digest()
    assert uid_fractions(["abc"], 7)[0] == (int.from_bytes(digest, "big") >> 11) / 2**53
    many = uid_fractions([str(n) for n in range(20_000)], 0)
    assert 0 <= many.min() < 0.001
    assert 0.999 < many.max() < 1
    # mean of 20,000 uniform numbers: 0.5 ± 0.002
    assert abs(many.mean() - 0.5) < 0.01


def test_a_cap_is_met_in_expectation_and_smaller_keys_are_whole() -> None:
    found = kept(*columns(a=4000, b=900, c=30), BalanceConfig(caps={"*": 1000, "c": 10}))
    assert sizes(found)["b"] == 900
    # 1000 ± sqrt(4000 · 0.25 · 0.75) = 27; 10 ± 2.6
    assert abs(sizes(found)["a"] - 1000) < 110
    assert 2 <= sizes(found)["c"] <= 19


def test_keys_without_a_cap_keep_all_and_a_cap_of_none_keeps_none() -> None:
    assert sizes(kept(*columns(a=50, b=60), BalanceConfig(caps={"a": 0}))) == {"b": 60}


def test_what_is_kept_of_old_rows_after_growth_was_kept_before() -> None:
    uids, keys = columns(a=2000, b=500)
    more_uids, more_keys = columns(a=5000, b=800)
    config = BalanceConfig(caps={"a": 400, "b": 300})
    before, after = kept(uids, keys, config), kept(more_uids, more_keys, config)
    old = set(uids.to_pylist())
    for key in "ab":
        assert after[key] & old < before[key]
        assert len(after[key] & old) > 0


def test_a_key_is_not_moved_by_another_keys_growth() -> None:
    config = BalanceConfig(caps={"*": 300})
    assert kept(*columns(a=900, b=10), config)["a"] == kept(*columns(a=900, b=4000), config)["a"]


def test_a_mixture_thins_to_the_scarcest() -> None:
    config = BalanceConfig(weights={"a": 2, "b": 1, "c": 1})
    found = sizes(kept(*columns(a=6000, b=3000, c=500), config))
    assert found["c"] == 500
    # 1000 ± 29 of a, 500 ± 20 of b
    assert abs(found["a"] - 1000) < 120
    assert abs(found["b"] - 500) < 85


def test_cap_and_mixture_and_total_are_nested() -> None:
    uids, keys = columns(a=6000, b=3000)
    capped = kept(uids, keys, BalanceConfig(caps={"a": 3000}))
    mixed = kept(uids, keys, BalanceConfig(caps={"a": 3000}, weights={"a": 1, "b": 2}))
    both = kept(uids, keys, BalanceConfig(caps={"a": 3000}, weights={"a": 1, "b": 2}, total=900))
    assert both["a"] < mixed["a"] < capped["a"]
    assert both["b"] < mixed["b"] == capped["b"]
    # 1 : 2, and 900 of them: 300 ± 16 and 600 ± 22
    assert abs(len(both["a"]) - 300) < 65
    assert abs(len(both["b"]) - 600) < 90


def test_reasons_tell_the_steps_apart() -> None:
    uids, keys = columns(a=1000, b=100)
    gone = balance(uids, keys, BalanceConfig(caps={"a": 500}, weights={"a": 1, "b": 1}, total=100))
    assert list(gone) == [DropReason.OVER_QUOTA, DropReason.MIXTURE, DropReason.OVER_TOTAL]
    assert (np.sum(list(gone.values()), axis=0) <= 1).all()
    assert all(rows.any() for rows in gone.values())


def test_another_seed_keeps_other_rows_but_as_many() -> None:
    uids, keys = columns(a=2000)
    one, other = (kept(uids, keys, BalanceConfig(caps={"a": 1000}, seed=seed))["a"] for seed in (0, 1))
    # independent halves share a quarter: 500 ± 19
    assert abs(len(one & other) - 500) < 85


def test_rows_without_a_key_are_a_key_of_their_own() -> None:
    uids, keys = pa.chunked_array([["x", "y"]]), pa.chunked_array([[None, "a"]])
    assert sizes(kept(uids, keys, BalanceConfig(caps={"": 0}))) == {"a": 1}


def test_no_rows() -> None:
    empty = pa.chunked_array([[]], pa.string())
    assert balance(empty, empty, BalanceConfig(caps={"*": 1}, total=5))[DropReason.OVER_QUOTA].tolist() == []


def test_a_mixture_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no share for \['b'\]"):
        mixture_factors(["a", "b"], np.array([1, 1]), {"a": 1.0})
    with pytest.raises(ConfigError, match="no share to any key that has rows"):
        mixture_factors(["a"], np.array([5]), {"b": 1.0, "*": 0.0})
    assert mixture_factors(["a", "b"], np.array([8, 4]), {"*": 1.0, "b": 1.0}).tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"caps": {"a": -1}}, "caps"),
        ({"weights": {"a": -1.0}}, "finite number"),
        ({"weights": {"a": 0.0}}, "all 0"),
        ({"total": -1}, "total"),
        ({"key": ""}, "key is empty"),
    ],
)
def test_wrong_shares_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BalanceConfig(**values)  # type: ignore[arg-type]
