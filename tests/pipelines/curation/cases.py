"""Rows and pictures that the curation tests share."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

DATA = Path(__file__).parents[4] / "shared" / "data"


def real(folder: str) -> Path:
    """A folder of real data, or skip."""
    path = DATA / folder
    if not path.is_dir():
        pytest.skip(f"{path} is not here; a stranger's clone has no real data")
    return path


def flipped(hash_: int, distance: int, rng: np.random.Generator) -> int:
    """The hash with so many random bits turned."""
    for bit in rng.choice(64, distance, replace=False):
        hash_ ^= 1 << int(bit)
    return hash_


def planted(count: int, share: float, rng: np.random.Generator) -> tuple[NDArray[np.uint64], list[tuple[int, int]]]:
    """Random hashes, of which a share are in planted pairs at distance 0 to 3; and the index pairs."""
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    pairs = [(place, count - 1 - place) for place in range(int(count * share / 2))]
    for left, right in pairs:
        hashes[right] = flipped(int(hashes[left]), left % 4, rng)
    return hashes, pairs


def table(*rows: dict[str, object]) -> pa.Table:
    """Narrow rows; what a row leaves out does not matter: hashes like no other's, 10×10 pixels, source "s"."""
    full = []
    for place, row in enumerate(rows):
        uid = row.get("uid", f"u{place}")
        own = {
            "uid": uid,
            "content_hash": f"content of {uid}".encode(),
            "pixel_hash": f"{uid}'s pixels".encode(),
            "phash": 0xA5A5_0000_0000_0000 + place * 0x0101_0101_0F0F,
            "low_information": False,
            "width": 10,
            "height": 10,
            "source": "s",
            "quality": None,
        }
        full.append(own | row)
    types = {"phash": pa.uint64(), "content_hash": pa.binary(), "pixel_hash": pa.binary(), "quality": pa.float64()}
    columns = {name: pa.array([row[name] for row in full], types.get(name)) for name in full[0]}
    return pa.table(columns)
