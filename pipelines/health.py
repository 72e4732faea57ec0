"""Is this Ray node alive? For a container's health check and Kubernetes' probes: exit code 0 or 1.

    python -m pipelines.health

Asks the node's own agent, on loopback, without a token: the answer says nothing but yes or no. In a container whose
first process is a job rather than `ray start`, the job's end is the answer, so the check passes while it runs. Imports
nothing but the standard library. What this does *not* do: look at the rest of the cluster, or at the work.
"""

import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

AGENT_PORT = 52365
"""Where Ray's agent listens on each node, unless `--dashboard-agent-listen-port` says otherwise."""
SECONDS = 3.0
"""Time that the agent gets to answer."""
FIRST_PROCESS = Path("/proc/1/cmdline")


def is_ray_node(command_line: bytes) -> bool:
    """Whether a process is a Ray node's: a command line as in /proc, words ended by zero bytes.

    Example:
        >>> is_ray_node(b"/usr/bin/python\\0/opt/tessera/bin/ray\\0start\\0--head\\0")
        True
        >>> is_ray_node(b"bash\\0-lc\\0ulimit; ray start --block\\0"), is_ray_node(b"python\\0jobs/train.py\\0")
        (True, False)
    """
    return b"ray start" in command_line.replace(b"\0", b" ")


def answers(port: int = AGENT_PORT, seconds: float = SECONDS) -> bool:
    """Whether the agent on this machine says that its raylet, and on a head the cluster's store too, is alive.

    Args:
        port: of the agent.
        seconds: that it gets.
    """
    return is_ok(f"http://127.0.0.1:{port}/api/healthz", seconds)


def is_ok(url: str, seconds: float = SECONDS) -> bool:
    """Whether a URL answers 200 without a token; refused and out of reach are both no.

    Args:
        url: of this cluster, so never asked through a proxy.
        seconds: that the answer gets.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=seconds) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def main(words: Sequence[str]) -> int:
    """Return the exit code: 0 healthy, 1 not.

    Args:
        words: the agent's port, if it is another; then this container is taken for a Ray node.
    """
    if words:
        return 0 if answers(int(words[0])) else 1
    first = FIRST_PROCESS.read_bytes() if FIRST_PROCESS.exists() else b""
    return 0 if not is_ray_node(first) or answers() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
