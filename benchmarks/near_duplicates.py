"""Near-duplicates among 1, 3 and 10 million rows, on Ray and 2 cores: time, memory, recall and precision.

    python benchmarks/near_duplicates.py [--millions 1 3 10]

Rows are in Parquet, their 64-bit hashes random; a twentieth of them are in planted pairs at Hamming distance 0 to 3,
whose rows lie anywhere. `dedupe_dataset` reads the files and ends with a survivor for each row, which is then checked
here: recall is the share of planted pairs that share a survivor, precision the share of duplicates within 3 bits of
theirs. Memory is the proportional set size of this process and all that Ray started, shared memory included, at its
peak.

Times are wall times: where the load average printed beside one is well above the cores, others were at work too, and
times of different sizes do not compare. The search alone, `near_pairs` in one process on one core, is timed beside it.
The limits are those of the project's plan.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from report import keep_cores, report

from pipelines.curation.dedupe import DedupeConfig, dedupe_dataset
from pipelines.curation.near import NearConfig, near_pairs
from pipelines.runtime import start_ray

CORES = 2
OBJECT_STORE_BYTES = 2 << 30
FILE_ROWS = 250_000
PLANTED_SHARE = 0.05
MAX_DISTANCE = 3
LIMIT_SECONDS = {1: 60, 10: 600}
LIMIT_GB = 8
HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def plant(rows: int, rng: np.random.Generator) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Random hashes uint64[rows], and the places int64[pairs, 2] of pairs that are 0 to 3 bits apart."""
    hashes = rng.integers(0, 2**64, rows, dtype=np.uint64)
    places = rng.permutation(rows)[: int(rows * PLANTED_SHARE)].reshape(-1, 2)
    bits = np.argsort(rng.random((len(places), 64), dtype=np.float32), axis=1)[:, :MAX_DISTANCE].astype(np.uint64)
    flips = np.uint64(1) << bits
    flips[np.arange(MAX_DISTANCE) >= (np.arange(len(places)) % (MAX_DISTANCE + 1))[:, None]] = 0
    hashes[places[:, 1]] = hashes[places[:, 0]] ^ np.bitwise_or.reduce(flips, axis=1)
    return hashes, places


def uids(numbers: NDArray[np.int64]) -> pa.Array:
    """32 hexadecimal digits: 16 that look random, 16 that are the number."""
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    octets = np.stack([mixed, numbers.astype(np.uint64)], axis=1).astype(">u8").view(np.uint8)
    digits = np.stack([HEX[octets >> 4], HEX[octets & 15]], axis=-1)
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * 32
    return pa.Array.from_buffers(pa.string(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(digits.copy())])


def write_rows(hashes: NDArray[np.uint64], folder: Path) -> None:
    """Write what the probe would have written of so many images, as far as deduplication reads it."""
    rng = np.random.default_rng(1)
    for start in range(0, len(hashes), FILE_ROWS):
        numbers = np.arange(start, min(start + FILE_ROWS, len(hashes)))
        size = len(numbers)
        digests = rng.integers(0, 256, (2, size, 16), dtype=np.uint8)
        binary = [pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), size, [None, pa.py_buffer(d)]) for d in digests]
        columns = {
            "uid": uids(numbers),
            "content_hash": binary[0],
            "pixel_hash": binary[1],
            "phash": hashes[numbers],
            "low_information": np.zeros(size, bool),
            "width": rng.integers(200, 4000, size, dtype=np.int32),
            "height": rng.integers(200, 4000, size, dtype=np.int32),
            "source": pa.array(np.array(["web", "shop"])[numbers % 2]),
            "quality": rng.random(size),
        }
        pq.write_table(pa.table(columns), folder / f"{start:09}.parquet")


def number_of(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """The numbers that uids end with."""
    digits = "".join(uid[16:] for uid in column.to_pylist())
    return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.int64)


def only_duplicates(partition: int, clusters: pa.Table) -> pa.Table:
    """What is checked of a partition: who is whose duplicate."""
    mine = clusters.filter(pa.compute.equal(clusters["role"], "duplicate"))
    return pa.table({"row": number_of(mine["uid"]), "survivor": number_of(mine["survivor_uid"])})


class Peak(threading.Thread):
    """Samples the memory of this process and its descendants until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.gigabytes = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        """Sample once a second."""
        me = psutil.Process()
        while not self.done.wait(1.0):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:  # it ended between being listed and being asked
                    continue
            self.gigabytes = max(self.gigabytes, total / 1e9)


def measure(millions: int) -> tuple[float, float, float, float]:
    """Seconds, gigabytes, recall and precision of one corpus."""
    hashes, places = plant(millions * 10**6, np.random.default_rng(millions))
    with tempfile.TemporaryDirectory() as folder:
        write_rows(hashes, Path(folder))
        alone = time.perf_counter()
        found = len(near_pairs(hashes, NearConfig()))
        alone = time.perf_counter() - alone
        peak = Peak()
        peak.start()
        load = [os.getloadavg()[0]]
        start = time.perf_counter()
        dataset, _ = dedupe_dataset(ray.data.read_parquet(folder), DedupeConfig(), finish=only_duplicates)
        blocks = list(dataset.iter_batches(batch_format="pyarrow", batch_size=None))
        seconds = time.perf_counter() - start
        load.append(os.getloadavg()[0])
        peak.done.set()
        peak.join()
    given = pa.concat_tables(blocks)
    survivor = np.arange(len(hashes))
    rows = given["row"].to_numpy()
    survivor[rows] = given["survivor"].to_numpy()
    recall = float((survivor[places[:, 0]] == survivor[places[:, 1]]).mean())
    precision = float((np.bitwise_count(hashes[rows] ^ hashes[survivor[rows]]) <= MAX_DISTANCE).mean())
    print(
        f"{millions:>3} million rows: {seconds:6.1f} s, {peak.gigabytes:.1f} GB, {len(rows):,} duplicates of"
        f" {len(places):,} planted, recall {recall}, precision {precision}; search alone, one core: {alone:.1f} s,"
        f" {found:,} pairs of different hashes; load average {load[0]:.1f} before, {load[1]:.1f} after",
        flush=True,
    )
    return seconds, peak.gigabytes, recall, precision


def main() -> int:
    """Measure each size and report what is claimed of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 3, 10])
    sizes = parser.parse_args().millions
    keep_cores(CORES)
    start_ray("local", num_cpus=CORES, object_store_bytes=OBJECT_STORE_BYTES)
    results = {size: measure(size) for size in sizes}
    holds = []
    for size, (seconds, gigabytes, recall, precision) in results.items():
        named = f"near-duplicates among {size} million rows, {CORES} cores"
        bar = f"<= {LIMIT_SECONDS[size]}" if size in LIMIT_SECONDS else ""
        holds += [
            report(f"{named}: Parquet to clusters", seconds, "s", bar, "the plan's limit"),
            report(f"{named}: peak memory", gigabytes, "GB", f"<= {LIMIT_GB}", "the plan's limit"),
            report(f"{named}: recall of planted pairs", recall, "", ">= 1", "truth"),
            report(f"{named}: precision", precision, "", ">= 1", "distance recomputed"),
        ]
    return int(not all(holds))


if __name__ == "__main__":
    sys.exit(main())
