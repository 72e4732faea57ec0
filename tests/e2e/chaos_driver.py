"""A captioning job that things happen to: `chaos_driver.py INPUT OUTPUT [NODE_KILLS SEED]`.

Its engine is `tests.pipelines.inference.poison` (replies follow from the image alone), each receipt is a commit, and
with NODE_KILLS it runs on a cluster of its own: a head without CPUs and two nodes, one of which is killed, without a
word to anybody, each time that some more rows are in; a new one comes in its place.
"""

import random
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import ray
from ray.cluster_utils import Cluster

from pipelines import commits, tables
from pipelines.inference import flow
from pipelines.inference.config import CaptionConfig
from pipelines.inference.job import InferenceJob, freeze
from tests.e2e.caption_cases import caption_config


def freeze_steady(config: CaptionConfig) -> InferenceJob:
    """The job, its engine another one."""
    job = freeze(config)
    return replace(job, spec=replace(job.spec, engine_factory="tests.pipelines.inference.poison:deliberate"))


class Nodes:
    """A cluster whose nodes are killed: one for every second commit."""

    def __init__(self, kills: int, seed: int) -> None:
        # nodes that end themselves at exit set signal handlers, which only the main thread may
        self.cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, **_SMALL}, shutdown_at_exit=False
        )
        self.nodes = [self._add(), self._add()]
        self.left, self.done = kills, 0
        self._random = random.Random(seed)
        self._commits = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._kill, name="nodes", daemon=True)
        self._thread.start()

    def committed(self) -> None:
        """Note a commit."""
        self._commits += 1

    def end(self) -> None:
        """Kill no more."""
        self._ended.set()
        self._thread.join()
        sys.stdout.write(f"killed {self.done} nodes\n")

    def _add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, **_SMALL)

    def _kill(self) -> None:
        seen = 0
        while self.left and not self._ended.wait(0.05):
            if self._commits < seen + 2:
                continue
            seen = self._commits
            time.sleep(self._random.uniform(0, 0.5))
            at = self._random.randrange(2)
            self.cluster.remove_node(self.nodes[at], allow_graceful=False)
            self.nodes[at] = self._add()
            self.left, self.done = self.left - 1, self.done + 1


_SMALL = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


def main(folder: str, output: str, node_kills: int = 0, seed: int = 0) -> None:
    """Run the job."""
    flow.freeze = freeze_steady  # type: ignore[assignment]
    commits.COMMIT_SECONDS = commits.COMMIT_SHARE = 0.0
    settings: dict[str, Any] = {"engine_timeout": 200.0, "stall_timeout": 300.0}
    settings |= {"num_workers": 2, "ray_address": "local"}
    if not node_kills:
        flow.run_job(caption_config(folder, output, **settings), print)
        return
    nodes = Nodes(node_kills, seed)
    commit = tables.commit

    def counted(*args: Any, **named: Any) -> Any:
        report = commit(*args, **named)
        nodes.committed()
        return report

    tables.commit = counted
    ray.init(address=nodes.cluster.address, log_to_driver=False)
    flow.run_job(caption_config(folder, output, **settings | {"ray_address": nodes.cluster.address}), print)
    nodes.end()
    ray.shutdown()
    # or the exit code is that of a driver whose node went away
    nodes.cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
