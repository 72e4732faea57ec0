"""Trains on a simulated cluster that loses a node: `python -m tests.e2e.train_nodes DIR drained|lost`.

    drained   two nodes for two workers each, both workers on one, which is drained and goes
    lost      two nodes with room for three workers each and four workers, of which one goes unannounced and comes back

What this does *not* do: check what came of it (`test_train_nodes`).
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from pipelines.training.config import TrainConfig
from pipelines.training.flow import train

STEPS, MANY_STEPS, NOTICE_S = 150, 1200, 15


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


def lose(cluster: Cluster, nodes: list[Any], stage: Path) -> None:
    """Once all workers have saved, take a node; once those that the other has room for have saved, bring one again."""
    saved_by(4, stage, after=0)
    own = ray.get_runtime_context().get_node_id()
    cluster.remove_node(next(one for one in nodes if one.node_id != own), allow_graceful=False)
    fewer = saved_by(3, stage, after=0)
    cluster.add_node(num_cpus=3)
    saved_by(4, stage, after=fewer)


def saved_by(workers: int, stage: Path, *, after: int) -> int:
    """Wait for a checkpoint of so many workers after a step, say so, and return its step."""
    while True:
        for path in (stage / "checkpoints").glob("*/COMPLETE.json"):
            # an older one may just be removed
            with contextlib.suppress(FileNotFoundError):
                marker = json.loads(path.read_text())
                if marker["world_size"] == workers and marker["step"] > after:
                    sys.stdout.write(f"{workers} saved step {marker['step']}\n")
                    return int(marker["step"])
        time.sleep(0.05)


WAYS: dict[str, tuple[Callable[[Cluster, list[Any], Path], None], int, dict[str, Any]]] = {
    "drained": (take_away, 2, {"num_workers": 2, "limit_steps": STEPS, "checkpoint_steps": 1000, "max_failures": 0}),
    "lost": (lose, 3, {"num_workers": 4, "min_workers": 1, "limit_steps": MANY_STEPS, "checkpoint_steps": 20}),
}
"""What happens to the nodes, the CPUs that each has, and settings."""


def main(folder: Path, way: str) -> None:
    """Run the job."""
    befall, cpus, settings = WAYS[way]
    # what ends nodes at exit sets handlers of signals, which only the main thread may; the test ends what is left
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0}, shutdown_at_exit=False)
    nodes = [cluster.add_node(num_cpus=cpus) for _ in range(2)]
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    config = TrainConfig(
        input=(str(folder / "corpus/data.json"),),
        model=str(folder / "untrained"),
        output=str(folder / "out"),
        stages=("highres",),
        epochs=10_000.0,
        batch_size=6,
        precision="float32",
        gpus_per_worker=0,
        ray_address=cluster.address,
        **settings,
    )
    threading.Thread(target=befall, args=(cluster, nodes, folder / "out/highres"), daemon=True).start()
    train(config, print)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
