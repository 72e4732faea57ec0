"""Real clusters on this machine, open and closed: what health, the guard and the preStop hook make of them."""

import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines import health
from tests.e2e.processes import finished, started
from tests.infra.images import ROOT

pytestmark = pytest.mark.slow

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass
class Cluster:
    """A head that runs on this machine."""

    environment: dict[str, str]
    """Reaches it."""
    address: str
    """Of its store."""
    dashboard: str
    """http://…"""
    agent: int
    """Port of the head's agent."""
    folder: Path
    """Of its sessions."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def cluster(*, token: bool, client_port: int = 0) -> Iterator[Cluster]:
    """A head of one CPU, as compose.yaml starts it, on ports of its own; it asks for a token or does not."""
    temp = Path(tempfile.mkdtemp(prefix="tessera-"))  # short: paths of sockets may have 107 letters
    ports = {name: free_port() for name in ("gcs", "dashboard", "agent", "grpc")}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if token else {}
    environment |= {} if token else {"RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    words = ["--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(ports["gcs"])]
    words += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(ports["dashboard"])]
    words += ["--dashboard-agent-listen-port", str(ports["agent"]), "--dashboard-agent-grpc-port", str(ports["grpc"])]
    words += ["--ray-client-server-port", str(client_port or free_port()), "--temp-dir", str(temp), "--num-cpus", "1"]
    words += ["--object-store-memory", str(100 * 2**20), "--min-worker-port", "0", "--max-worker-port", "0"]
    found = Cluster(
        environment=environment,
        address=f"127.0.0.1:{ports['gcs']}",
        dashboard=f"http://127.0.0.1:{ports['dashboard']}",
        agent=ports["agent"],
        folder=temp,
    )
    environment |= {"RAY_API_SERVER_ADDRESS": found.dashboard}
    try:
        with started([RAY, "start", *words], environment):
            wait(lambda: health.answers(found.agent), "the agent does not answer")
            wait(lambda: finished([RAY, "job", "list"], environment)[0] == 0, "the dashboard does not answer")
            yield found
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def wait(true: object, otherwise: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until, otherwise
        time.sleep(0.5)


JOIN = """
import logging, sys
logging.basicConfig(level=logging.WARNING)
from llava_core.errors import ConfigError
from pipelines import runtime, security
security.check_cluster.__kwdefaults__["client_port"] = int(sys.argv[2])
try:
    print("joined", runtime.start_ray(sys.argv[1]))
except ConfigError as error:
    print("refused", error)
"""


def join(found: Cluster, client_port: int, policy: str) -> str:
    environment = found.environment | {"TESSERA_OPEN_CLUSTER": policy}
    code, said = finished([sys.executable, "-c", JOIN, found.address, str(client_port)], environment)
    assert code == 0, said
    return said


def test_an_open_cluster_is_refused_or_warned_of() -> None:
    port = free_port()
    with cluster(token=False, client_port=port) as found:
        said = join(found, port, "refuse")
        assert "refused" in said
        assert f"the dashboard at {found.dashboard.removeprefix('http://')}" in said
        assert re.search(rf"the client port at [\d.]+:{port}", said), "named by the node's own address"
        said = join(found, port, "warn")
        assert "answer(s) without a token" in said
        assert "joined [Node(cpus=1.0" in said


SLEEPER = """
import signal, sys, time, ray
from pathlib import Path
ray.init(logging_level="ERROR")
place = Path(sys.argv[1])
def stop(*_):
    time.sleep(5)
    place.with_suffix(".stopped").write_text("committed")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
place.write_text("running")
time.sleep(300)
"""


def test_a_closed_cluster_is_joined_drains_and_stops_its_jobs(tmp_path: Path) -> None:
    port = free_port()
    with cluster(token=True, client_port=port) as found:
        assert health.main([str(found.agent)]) == 0
        assert "joined [Node(cpus=1.0" in join(found, port, "refuse")
        _drain_a_worker(found)
        _stop_a_job(found, tmp_path)
    wait(lambda: health.main([str(found.agent)]) == 1, "a dead node is not healthy")


# A pod has one node; this machine has two, so the one to drain is named.
DRAIN = """
import sys, ray
from pipelines.preemption import drain
ray.init(sys.argv[1], logging_level="ERROR")
(worker,) = [node["NodeID"] for node in ray.nodes() if "node:__internal_head__" not in node["Resources"]]
ray.shutdown()
print("ended", drain(40, int(sys.argv[2]), sys.argv[1], worker))
"""


def _drain_a_worker(found: Cluster) -> None:
    agent = free_port()
    words = ["--address", found.address, "--block", "--node-ip-address", "127.0.0.1", "--num-cpus", "1"]
    words += ["--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(free_port())]
    words += ["--object-store-memory", str(80 * 2**20), "--min-worker-port", "0", "--max-worker-port", "0"]
    with started([RAY, "start", *words], found.environment):
        wait(lambda: health.answers(agent), "the worker does not come up")
        code, said = finished([sys.executable, "-c", DRAIN, found.address, str(agent)], found.environment)
        assert code == 0, said
        assert "ended True" in said


def _stop_a_job(found: Cluster, folder: Path) -> None:
    (folder / "sleeper.py").write_text(SLEEPER)
    place = folder / "job.txt"
    command = [RAY, "job", "submit", "--no-wait", "--", "python", str(folder / "sleeper.py"), str(place)]
    wait(lambda: finished(command, found.environment)[0] == 0, "the job is not taken")
    wait(place.exists, "the job does not start")
    words = ["head", "--seconds", "60", "--dashboard", found.dashboard]
    code, said = finished([sys.executable, "-m", "pipelines.preemption", *words], found.environment)
    assert code == 0, said
    assert "is asked to stop" in said
    assert place.with_suffix(".stopped").read_text() == "committed", "it had more than Ray's 3 seconds"
    listed = finished([RAY, "job", "list"], found.environment)[1]
    assert "FAILED" in listed, "KubeRay starts what has failed again, and nothing that was STOPPED"
    assert "STOPPED" not in listed
