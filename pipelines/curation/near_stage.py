"""The search for near-duplicate pairs on Ray Data: one shuffle of hashes alone, by slice of each table's sort order.

A map task sorts its hashes for each table and cuts them into slices; a reduce task gets the parts of one slice and
searches it with `near.search_slice`. No state outlives a task, so a retried task changes nothing. What this does *not*
do: join pairs into clusters.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset

from pipelines.curation.blocks import BITS, Blocks, Hashes, distinct, finest_blocks
from pipelines.curation.clusters import phashes, usable
from pipelines.curation.near import NearConfig, NearPairs, gather, search_slice, slices

NO_HASHES = np.empty(0, np.uint64)
SLICE_HASHES = 2**20
"""Hashes that one search task gets, about: 8 MiB, and a few times that while it works."""
BATCH_ROWS = 2**18


def tables_of(dataset: Dataset) -> Iterator[pa.Table]:
    """Run a dataset and take its blocks to the driver, one at a time."""
    for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
        assert isinstance(batch, pa.Table)
        yield batch


def search_pairs(rows: Dataset, blocks: Blocks, config: NearConfig, size: int, fresh: Hashes | None) -> NearPairs:
    """Find all pairs of usable hashes within the distance: `near.near_pairs` of a dataset.

    Args:
        rows: `clusters.hash_columns`.
        blocks: the cut of the hashes.
        config: distance, cap.
        size: how many rows there are, about; sets how many slices a table has.
        fresh: see `near_pairs`.

    Returns:
        NearPairs, on the driver.
    """
    found = _search_tables(rows, blocks, config, size, fresh, last=False)
    if not len(found.full):
        return found
    hashes = {"phash": found.full, "low_information": np.zeros(len(found.full), bool)}
    full = ray.data.from_arrow(pa.table(hashes))
    again = _search_tables(full, finest_blocks(blocks), config, len(found.full), fresh, last=True)
    return gather([NearPairs(found.left, found.right, again.full), again])


def _search_tables(
    rows: Dataset, blocks: Blocks, config: NearConfig, size: int, fresh: Hashes | None, *, last: bool
) -> NearPairs:
    narrowest = min(blocks.key_bits(table) for table in range(len(blocks.tables)))
    bits = min(max(0, int(np.ceil(np.log2(max(1, size) / SLICE_HASHES)))), narrowest, BITS // 4)
    slices_in_all = len(blocks.tables) << bits
    tasks = max(1, -(-size * len(blocks.tables) // SLICE_HASHES))
    cut = partial(_cut, blocks=blocks, bits=bits)
    search = partial(_search_group, blocks=blocks, config=config, bits=bits, last=last, fresh=ray.put(fresh))
    found = (
        rows.map_batches(cut, batch_format="pyarrow", batch_size=BATCH_ROWS)
        .groupby("slice", num_partitions=min(slices_in_all, tasks))
        .map_groups(search, batch_format="pyarrow")
    )
    return gather(_received(batch) for batch in tables_of(found))


def _cut(batch: pa.Table, blocks: Blocks, bits: int) -> pa.Table:
    """Hashes → one row for each slice of each table that they fall into: slice int64, hashes large_binary."""
    hashes = distinct(phashes(batch)[usable(batch)])
    cut = [
        (table << bits | number, part.tobytes())
        for table in range(len(blocks.tables))
        for number, part in slices(hashes, blocks, table, bits)
    ]
    names, parts = zip(*cut, strict=True) if cut else ((), ())
    return pa.table({"slice": pa.array(names, pa.int64()), "hashes": pa.array(parts, pa.large_binary())})


def _search_group(
    group: pa.Table, blocks: Blocks, config: NearConfig, bits: int, last: bool, fresh: "ray.ObjectRef[Any]"
) -> pa.Table:
    """All rows of one slice → its pairs; a full bucket's hash has a null right side."""
    table = group["slice"][0].as_py() >> bits
    permuted = distinct(np.concatenate([np.frombuffer(part.as_buffer(), np.uint64) for part in group["hashes"]]))
    found = search_slice(permuted, table, blocks, config, ray.get(fresh), last=last)
    right = pa.concat_arrays([pa.array(found.right), pa.nulls(len(found.full), pa.uint64())])
    return pa.table({"left": np.concatenate([found.left, found.full]), "right": right})


def _received(batch: pa.Table) -> NearPairs:
    is_pair = batch["right"].is_valid()
    pairs, full = batch.filter(is_pair), batch.filter(batch["right"].is_null())
    return NearPairs(pairs["left"].to_numpy(), pairs["right"].to_numpy(), full["left"].to_numpy())
