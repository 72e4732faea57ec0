"""How many rows of each source, or any other key: caps and mixtures by hash threshold.

A row has one number, h(uid, seed) in [0, 1), and its key a threshold p; it is kept if h < p. Nothing else decides, so
the result does not depend on order, on the other keys, or on the machine. It is stable as data grows: a cap's p only
falls, so what is kept of the old rows later was kept before. A cap is met in expectation (± its square root), not
exactly: that is what it costs to need no sort and no state.

    p_cap = min(1, cap / rows of the key)                                       MetaCLIP's rule
    p_mix = share of the key · N / rows of the key, N the most rows at which no p exceeds 1
    p_all = min(1, total / rows left)

What this does *not* do: repeat rows. The scarcest key of a mixture is kept whole, the others are thinned to fit it.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llava_core.config import check_at_least
from llava_core.errors import ConfigError
from pipelines.curation.rules import Bools
from schemas.selection import DropReason

OTHERS = "*"
"""Stands for every key that is not named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BalanceConfig:
    """How rows are shared out among keys; by default not at all."""

    key: str = "source"
    """Column of `scores` whose values are balanced; null is a key of its own, spelled ""."""
    caps: Mapping[str, int] = field(default_factory=dict)
    """Most rows of a key; "*" is for each key that is not named, and keys without a cap keep all."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Share of each key in the mixture, in any unit; "*" is for each key that is not named. Empty: no mixture."""
    total: int | None = None
    """Most rows altogether."""
    seed: int = 0
    """Of the hash: another seed keeps other rows."""

    def __post_init__(self) -> None:
        for key, cap in self.caps.items():
            check_at_least("balance", f"caps[{key!r}]", cap, 0)
        for key, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(f"balance.weights[{key!r}] is {weight}; expected a finite number, at least 0")
        if self.weights and not any(self.weights.values()):
            raise ConfigError("balance.weights are all 0; expected at least one key with a share")
        check_at_least("balance", "total", 0 if self.total is None else self.total, 0)
        if not self.key:
            raise ConfigError("balance.key is empty; expected a column of scores")

    @property
    def active(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.caps or self.weights or self.total is not None)


def uid_fractions(uids: Iterable[str], seed: int | str) -> NDArray[np.float64]:
    """float64[N] in [0, 1): the number of each uid, the same on every machine.

    Args:
        uids: of the rows.
        seed: a number of the user's, or a word for what must not go by the same numbers as anything of the user's.

    Example:
        >>> uid_fractions(["a", "b"], 0).round(4).tolist(), uid_fractions(["a"], 1).round(4).tolist()
        ([0.717, 0.7356], [0.6618])
    """
    base = hashlib.blake2b(f"{seed}/".encode(), digest_size=8)

    def digest(uid: str) -> bytes:
        hasher = base.copy()
        hasher.update(uid.encode())
        return hasher.digest()

    numbers = np.frombuffer(b"".join(map(digest, uids)), dtype=">u8")
    # 53 bits, so that the quotient is exact and never rounds up to 1
    fractions: NDArray[np.float64] = (numbers >> np.uint64(11)).astype(np.float64) / 2.0**53
    return fractions


def balance(uids: pa.ChunkedArray, keys: pa.ChunkedArray, config: BalanceConfig) -> dict[DropReason, Bools]:
    """Say which rows go.

    Args:
        uids: of the rows that everything else has kept, each once.
        keys: the balanced column of the same rows.
        config: the shares.

    Returns:
        For each reason that is asked for, bool[N]: rows dropped for it. No row is dropped twice.

    Raises:
        ConfigError: a key has no weight, or none of the weighted keys has a row.

    Example:
        >>> uids = pa.chunked_array([[f"u{i}" for i in range(1000)]])
        >>> keys = pa.chunked_array([["a"] * 900 + ["b"] * 100])
        >>> gone = balance(uids, keys, BalanceConfig(caps={"a": 100}))
        >>> int(gone[DropReason.OVER_QUOTA].sum())
        797
    """
    encoded = pc.fill_null(keys.cast(pa.string()), "").combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False))
    fractions = uid_fractions(uids.to_pylist(), config.seed)
    threshold = np.ones(len(names))
    kept = np.ones(len(codes), np.bool_)
    dropped: dict[DropReason, Bools] = {}

    def apply(reason: DropReason, factors: NDArray[np.float64]) -> None:
        nonlocal threshold, kept
        threshold = threshold * factors
        still = kept & (fractions < threshold[codes])
        dropped[reason] = kept & ~still
        kept = still

    if config.caps:
        apply(DropReason.OVER_QUOTA, _cap_factors(names, _counts(codes, kept, names), config.caps))
    if config.weights:
        apply(DropReason.MIXTURE, mixture_factors(names, _counts(codes, kept, names), config.weights))
    if config.total is not None:
        apply(DropReason.OVER_TOTAL, np.full(len(names), min(1.0, config.total / max(int(kept.sum()), 1))))
    return dropped


def _counts(codes: NDArray[np.int32], kept: Bools, names: list[str]) -> NDArray[np.int64]:
    return np.bincount(codes[kept], minlength=len(names))


def _cap_factors(names: list[str], counts: NDArray[np.int64], caps: Mapping[str, int]) -> NDArray[np.float64]:
    limits = [caps.get(name, caps.get(OTHERS, math.inf)) for name in names]
    return np.array([min(1.0, cap / max(int(count), 1)) for cap, count in zip(limits, counts, strict=True)])


def mixture_factors(names: list[str], counts: NDArray[np.int64], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """float64[K]: the share of each key's rows that stays, so that the rows left are in proportion to the weights.

    Args:
        names: the keys.
        counts: int64[K], rows of each.
        weights: share of each key.

    Raises:
        ConfigError: a key with rows has no weight, or none of the weighted keys has a row.

    Example:
        >>> mixture_factors(["a", "b", "c"], np.array([900, 100, 50]), {"a": 2, "b": 1, "c": 0}).round(4).tolist()
        [0.2222, 1.0, 0.0]
    """
    nameless = [name for name in names if name not in weights and OTHERS not in weights]
    if nameless:
        raise ConfigError(f"balance.weights names no share for {nameless[:5]}; add them, or {OTHERS!r} for all others")
    shares = np.array([weights.get(name, weights.get(OTHERS, 0.0)) for name in names])
    wanted = (shares > 0) & (counts > 0)
    if not wanted.any():
        raise ConfigError(f"balance.weights gives no share to any key that has rows; those are {names[:5]}")
    size = (counts[wanted] / shares[wanted]).min()
    factors = np.zeros(len(names))
    factors[wanted] = np.minimum(1.0, shares[wanted] * size / counts[wanted])
    return factors
