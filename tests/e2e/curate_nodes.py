"""Curates a corpus on a simulated cluster: `python -m tests.e2e.curate_nodes NODES CORPUS OUTPUT`.

Fragments go out in an order that depends on the number of nodes, dedupe goes through Ray Data's shuffle, and the first
probing worker that is seen is killed. What this does *not* do: compare (`test_curate_nodes`).
"""

import random
import sys
import threading
import time

import psutil
import ray
from ray.cluster_utils import Cluster

from pipelines.corpus_settings import CorpusSettings
from pipelines.curation import flow
from pipelines.curation.config import CurateConfig
from pipelines.curation.dedupe import DedupeConfig
from pipelines.curation.shard_plan import ShardSize


def kill_one(killed: threading.Event) -> None:
    """Kill the first process of the cluster that probes."""
    while not killed.is_set():
        for process in psutil.Process().children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if title.startswith("ray::") and "MapWorker" in title:
                process.kill()
                killed.set()
                sys.stdout.write(f"killed {title}\n")
                return
        time.sleep(0.01)


def main(nodes: int, corpus: str, output: str) -> None:
    """Run the job on so many nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address)
    plain = flow.missing_fragments

    def shuffled(*arguments: object) -> list[object]:
        found: list[object] = list(plain(*arguments))  # type: ignore[arg-type]
        random.Random(nodes).shuffle(found)
        return found

    flow.missing_fragments = shuffled  # type: ignore[assignment]
    killed = threading.Event()
    threading.Thread(target=kill_one, args=(killed,), daemon=True).start()
    config = CurateConfig(
        input=(corpus,),
        output=output,
        corpus=CorpusSettings(rows_per_fragment=12),
        dedupe=DedupeConfig(local_rows=0),
        size=ShardSize(least_bytes=60_000, most_bytes=90_000),
        ray_address=cluster.address,
        num_workers=min(nodes, 2),
    )
    flow.curate_corpus(config, print)
    ray.shutdown()
    # or the exit code is that of a driver whose node went away
    cluster.shutdown()
    if not killed.is_set():
        sys.exit("no worker was killed")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
