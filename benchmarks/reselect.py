"""How long it takes to select again with other thresholds: a million rows, scores and clusters already there.

Measured is the whole stage: read the columns of two Delta tables of 1,024 rows a fragment, decide about every row (nine
rules, duplicates, a cap for each source, a mixture), write and commit the selection. No image is there to be read.
Compared with how long a user waits: the bar is 20 s on 2 cores. The tables are written first and are not counted.

    python benchmarks/reselect.py [ROWS]
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from report import report

from pipelines import tables
from pipelines.curation.balance import BalanceConfig
from pipelines.curation.recipes import llava_highres
from pipelines.curation.rules import RulesConfig
from pipelines.curation.select import SelectConfig, count_reasons, funnel
from pipelines.curation.select_stage import select_stage
from pipelines.fragments import make_uid
from pipelines.parts import Receipt, write_fragment
from schemas.cluster import CLUSTER
from schemas.score import SCORE

ROWS_OF_A_FRAGMENT = 1024
SOURCES = np.array(["web", "docs", "photos", "charts"])
BAR_SECONDS = 20


def score_rows(first: int, count: int, rng: np.random.Generator) -> pa.Table:
    """Rows of `scores` as the probe writes them, every 50th rejected; numbers drawn, nothing decoded."""
    rejected = np.arange(first, first + count) % 50 == 49
    drawn: dict[str, pa.Array] = {}
    for field in SCORE:
        if pa.types.is_floating(field.type):
            values = rng.random(count) * {"blur": 600, "entropy": 8, "aspect": 3}.get(field.name, 1.0)
            drawn[field.name] = pa.array(values, mask=rejected).cast(field.type)
        elif pa.types.is_integer(field.type):
            drawn[field.name] = pa.array(rng.integers(20, 1600, count), mask=rejected).cast(field.type)
        elif field.nullable:
            drawn[field.name] = pa.nulls(count, field.type)
    uris = [f"/corpus/{number // 100_000}/{number:09d}.jpg" for number in range(first, first + count)]
    drawn |= {
        "uid": pa.array([make_uid(uri, "") for uri in uris]),
        "uri": pa.array(uris),
        "fragment_id": pa.repeat(f"fragment{first:010d}", count),
        "row_index": pa.array(np.arange(count), pa.int32()),
        "run_id": pa.repeat("probe", count),
        "status": pa.array(np.where(rejected, "rejected", "ok").astype(object)),
        "source": pa.array(rng.choice(SOURCES, count, p=[0.6, 0.2, 0.15, 0.05]).astype(object)),
        "error": pa.array(np.where(rejected, "TRUNCATED", None)),
        "script": pa.array(np.where(rejected, None, "Latin")),
        "format": pa.array(np.where(rejected, None, "JPEG")),
        "text": pa.array(np.where(rejected, None, "a red fox asleep in the snow, seen from above")),
        "content_hash": pa.array([rng.bytes(16) for _ in range(count)], pa.binary()),
        "pixel_hash": pa.array([rng.bytes(16) for _ in range(count)], pa.binary()),
    }
    return pa.table([drawn[field.name] for field in SCORE], schema=SCORE)


def cluster_rows(uids: pa.Array, rng: np.random.Generator, schema: pa.Schema, number: int) -> pa.Table:
    """Rows of `clusters`: a tenth are near-duplicates of another row."""
    size = len(uids)
    copy = rng.random(size) < 0.1
    survivors = uids.take(pa.array(np.where(copy, 0, np.arange(size))))
    columns = {
        "uid": uids,
        "cluster_id": survivors,
        "survivor_uid": survivors,
        "kind": pa.array(np.where(copy, "near", None)),
        "distance": pa.array(np.where(copy, 2, 0).astype(np.float32), mask=~copy),
        "role": pa.array(np.where(copy, "duplicate", "survivor").astype(object)),
        "flags": pa.array([[]] * size, pa.list_(pa.string())),
        "fragment_id": pa.repeat(f"part{number:05d}", size),
        "run_id": pa.repeat("dedupe", size),
        "status": pa.repeat("ok", size),
        "error": pa.nulls(size, pa.string()),
        "error_detail": pa.nulls(size, pa.string()),
    }
    return pa.table([columns[field.name] for field in schema], schema=schema)


def write_tables(folder: Path, rows: int) -> tuple[str, str]:
    """Write and commit `scores` and `clusters`; return where they are."""
    rng = np.random.default_rng(7)
    scores_uri, clusters_uri = str(folder / "scores"), str(folder / "clusters")
    receipts: list[Receipt] = []
    uids = []
    for first in range(0, rows, ROWS_OF_A_FRAGMENT):
        table = score_rows(first, min(ROWS_OF_A_FRAGMENT, rows - first), rng)
        name = table["fragment_id"][0].as_py()
        receipts.append(write_fragment(table, SCORE, table_uri=scores_uri, fragment_id=name, run_id="probe"))
        uids.append(table["uid"].combine_chunks())
    tables.commit(scores_uri, receipts, run_id="probe", schema=SCORE)
    schema = pa.schema([*CLUSTER, *(field for field in STAMPS if field.name not in CLUSTER.names)])
    everything = pa.concat_arrays(uids)
    receipts = []
    for number, first in enumerate(range(0, rows, 2**18)):
        table = cluster_rows(everything.slice(first, 2**18), rng, schema, number)
        name = table["fragment_id"][0].as_py()
        receipts.append(write_fragment(table, schema, table_uri=clusters_uri, fragment_id=name, run_id="dedupe"))
    tables.commit(clusters_uri, receipts, run_id="dedupe", schema=schema)
    return scores_uri, clusters_uri


STAMPS = tuple(SCORE.field(name) for name in ("fragment_id", "run_id", "status", "error", "error_detail"))
"""Columns that every table has beside its own."""


def main(rows: int) -> int:
    """Write the tables, select twice with other thresholds, state the claim for the second."""
    folder = Path(tempfile.mkdtemp(prefix="reselect-"))
    try:
        started = time.perf_counter()
        scores, clusters = write_tables(folder, rows)
        print(f"{rows:,} rows of scores and clusters written in {time.perf_counter() - started:.1f} s")
        first = SelectConfig(
            rules=RulesConfig(min_side=100, min_blur=50), balance=BalanceConfig(caps={"web": rows // 5})
        )
        second = SelectConfig(
            rules=llava_highres().rules, balance=BalanceConfig(caps={"*": rows // 8}, weights={"web": 2, "*": 1})
        )
        for config in (first, second):
            started = time.perf_counter()
            selected = select_stage(
                scores, clusters, str(folder / "selection"), config, scores_run="probe", clusters_run="dedupe"
            )
            seconds = time.perf_counter() - started
            counts = count_reasons(selected.table)
            print(f"{seconds:.1f} s: {counts['kept']:,} of {counts.total():,} rows kept")
            for reason, dropped, left in funnel(counts):
                print(f"  {reason:<18} {dropped:>9,} dropped, {left:>9,} left")
    finally:
        shutil.rmtree(folder)
    claim = f"select {rows:,} rows again with other thresholds, from reading to the commit"
    return 0 if report(claim, seconds, "s", f"<= {BAR_SECONDS}", "reads scores and clusters, no image") else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
