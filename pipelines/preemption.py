"""What a node does when its machine is about to go: the preStop hook of a pod, within the pod's grace period.

    python -m pipelines.preemption head --seconds 90      ask running jobs to stop, and wait until they have
    python -m pipelines.preemption worker --seconds 90    take no new work, finish what is begun, end

A job's driver gets SIGTERM, commits what is finished and ends with exit code 1 (`stopping`): it has FAILED, and KubeRay
starts it again. One that Ray is asked to stop would be STOPPED, which KubeRay takes for its end. A worker that drains
is not given up suddenly: Ray places nothing on it any more, and fragments that do not finish in time are made again
elsewhere. What this does *not* do: decide whether the machine goes; it goes. Nor reach a driver on another machine
(`ray job submit --entrypoint-num-cpus` and the like place it anywhere): that one ends with the head, unasked.
"""

import argparse
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from ray.dashboard.modules.job.sdk import JobSubmissionClient

from pipelines import health

log = logging.getLogger(__name__)

DASHBOARD = "http://127.0.0.1:8265"
_POLL_S = 0.5


def stop_jobs(address: str, seconds: float) -> list[str]:
    """Ask the jobs whose drivers run on this machine to stop, and wait for them.

    Args:
        address: of the dashboard of its head; the token comes from the environment.
        seconds: to wait, all jobs together.

    Returns:
        Those that had not ended by then.
    """
    client = JobSubmissionClient(address)
    asked: set[str] = set()
    elsewhere: set[str] = set()
    until = time.monotonic() + seconds
    while True:
        found = client.list_jobs()
        # one without an id is a driver that nobody submitted
        running = {job.submission_id: job for job in found if job.submission_id and not job.status.is_terminal()}
        for name in running.keys() - asked - elsewhere:
            # there is none before the job has joined Ray
            driver = running[name].driver_info
            if driver and not _is_here(driver.node_ip_address):
                log.warning("job %s cannot be asked to stop: its driver is on %s", name, driver.node_ip_address)
                elsewhere.add(name)
            elif driver:
                log.info("job %s is asked to stop", name)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(driver.pid), signal.SIGTERM)
                asked.add(name)
        left = sorted(running.keys() - elsewhere)
        if not left or time.monotonic() >= until:
            return left
        time.sleep(_POLL_S)


def _is_here(address: str) -> bool:
    """Whether an address is one of this machine's: only those can be listened on, whichever of them Ray goes by."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def drain(
    seconds: float, agent_port: int = health.AGENT_PORT, address: str | None = None, node_id: str | None = None
) -> bool:
    """Let this node take no new work, and wait until it has ended.

    Args:
        seconds: to wait; what still runs then ends with the machine.
        agent_port: of this node's agent.
        address: of the cluster; RAY_ADDRESS, or the one this machine belongs to, if None.
        node_id: of this node, where the machine runs several.

    Returns:
        Whether it ended in time.

    Raises:
        subprocess.CalledProcessError: the cluster refuses; a head cannot be drained.
    """
    words = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the machine is going away"]
    words += ["--deadline-remaining-seconds", str(int(seconds))]
    words += ["--address", address] if address else []
    words += ["--node-id", node_id] if node_id else []
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
    subprocess.run([*ray, "drain-node", *words], check=True, timeout=max(seconds, 30))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not health.answers(agent_port):
            return True
        time.sleep(_POLL_S)
    return False


def main(words: Sequence[str]) -> int:
    """Run the hook, and return 0 where everything ended in time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=("head", "worker"))
    parser.add_argument("--seconds", type=float, default=90.0, help="below the pod's terminationGracePeriodSeconds")
    parser.add_argument("--dashboard", default=DASHBOARD, help="of the head")
    parser.add_argument("--agent-port", type=int, default=health.AGENT_PORT, help="of this node's agent")
    chosen = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if chosen.role == "worker":
        return 0 if drain(chosen.seconds, chosen.agent_port) else 1
    left = stop_jobs(chosen.dashboard, chosen.seconds)
    if left:
        log.warning("still running after %g s: %s", chosen.seconds, ", ".join(left))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
