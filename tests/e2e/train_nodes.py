"""Trains on a simulated cluster whose node with the workers is drained and goes: `python -m tests.e2e.train_nodes DIR`.

What this does *not* do: check what came of it (`test_train_drained`).
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from pipelines.training.config import TrainConfig
from pipelines.training.flow import train

STEPS, NOTICE_S = 150, 15


def take_away(cluster: Cluster, nodes: list[Any], stage: Path) -> None:
    """Once a stage has made two steps, announce that its workers' node goes, and take it when the time is over."""
    while not (stage / "metrics.jsonl").is_file() or len((stage / "metrics.jsonl").read_text().splitlines()) < 2:
        time.sleep(0.05)
    actors = ray._private.state.actors().values()
    used = {one["Address"]["NodeID"] for one in actors if "TrainWorker" in one["ActorClassName"]}
    node = next(one for one in nodes if one.node_id in used)
    # what `ray drain-node` calls, without the seconds that it takes to start
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    goes = time.time() + NOTICE_S
    accepted, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "a test", int(goes * 1000))
    sys.stdout.write(f"drained: {accepted} {why}\n")
    time.sleep(max(0.0, goes - time.time()))
    saved = sorted(path.parent.name for path in (stage / "checkpoints").glob("*/COMPLETE.json"))
    sys.stdout.write(f"saved before it went: {saved}\n")
    cluster.remove_node(node, allow_graceful=False)


def main(folder: Path) -> None:
    """Run the job."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    config = TrainConfig(
        input=(str(folder / "corpus/data.json"),),
        model=str(folder / "untrained"),
        output=str(folder / "out"),
        stages=("highres",),
        limit_steps=STEPS,
        epochs=200.0,
        batch_size=6,
        precision="float32",
        num_workers=2,
        gpus_per_worker=0,
        checkpoint_steps=1000,
        max_failures=0,
        ray_address=cluster.address,
    )
    threading.Thread(target=take_away, args=(cluster, nodes, folder / "out/highres"), daemon=True).start()
    train(config, print)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
