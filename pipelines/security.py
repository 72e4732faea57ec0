"""What a job looks at before it trusts its cluster: its own environment, its token, and doors that stand open.

A cluster whose dashboard or client port answers without a token runs whatever anybody who reaches it sends. The
variable TESSERA_OPEN_CLUSTER says what a job does about it, "warn" (if unset) or "refuse": whoever runs the cluster
sets it, beside RAY_AUTH_MODE, not whoever submits the job. What this does *not* do: close a door, encrypt, or look
for doors of other programs.
"""

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import grpc
from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc

from llava_core.errors import ConfigError
from pipelines.health import SECONDS, is_ok

log = logging.getLogger(__name__)

UNSAFE_SWITCHES = (
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
    "RAY_DATA_WEBDATASET_ALLOW_UNSAFE_DESERIALIZATION",
)
"""Variables that make Ray unpickle what a data file brings: whoever wrote the file could run code here."""
OPEN_CLUSTER = "TESSERA_OPEN_CLUSTER"
Policy = Literal["warn", "refuse"]
CLIENT_PORT = 10001
"""Where `ray start --head` listens for Ray Client, unless told otherwise."""


def check_environment(environment: Mapping[str, str] | None = None) -> None:
    """Refuse variables that let data files run code.

    Raises:
        ConfigError: naming those that are set.
    """
    environment = os.environ if environment is None else environment
    found = [name for name in UNSAFE_SWITCHES if environment.get(name)]
    if found:
        raise ConfigError(f"{', '.join(found)} must not be set: it lets data files run code; unset it and start again")


def open_cluster_policy(environment: Mapping[str, str] | None = None) -> Policy:
    """What a job does about a cluster that answers without a token.

    Raises:
        ConfigError: the variable says neither.

    Example:
        >>> open_cluster_policy({}), open_cluster_policy({"TESSERA_OPEN_CLUSTER": "refuse"})
        ('warn', 'refuse')
    """
    environment = os.environ if environment is None else environment
    value = environment.get(OPEN_CLUSTER) or "warn"
    for policy in get_args(Policy):
        if value == policy:
            return policy  # type: ignore[no-any-return]
    raise ConfigError(f"{OPEN_CLUSTER} is {value!r}; expected one of {', '.join(get_args(Policy))}")


def check_cluster(policy: Policy, *, head: str, dashboard: str | None, client_port: int = CLIENT_PORT) -> None:
    """Warn of a cluster that answers without a token, or refuse it.

    Args:
        policy: see `open_cluster_policy`.
        head: address of its head node.
        dashboard: "address:port" of its dashboard; None where it has none.
        client_port: of the head.

    Raises:
        ConfigError: a door is open, and the policy is "refuse".
    """
    found = []
    if dashboard and dashboard_is_open(dashboard):
        found.append(f"the dashboard at {dashboard}")
    if client_is_open(f"{head}:{client_port}"):
        found.append(f"the client port at {head}:{client_port}")
    if not found:
        return
    what = (
        f"{' and '.join(found)} answer(s) without a token: anybody who reaches it runs code on this cluster. Start it "
        "with RAY_AUTH_MODE=token, and let only this cluster's network reach it"
    )
    if policy == "refuse":
        raise ConfigError(f"{what}, or set {OPEN_CLUSTER}=warn")
    log.warning("%s", what)


def dashboard_is_open(address: str) -> bool:
    """Whether a dashboard lists its jobs to somebody who shows no token.

    Args:
        address: "host:port".
    """
    return is_ok(f"http://{address}/api/jobs/")


def client_is_open(address: str) -> bool:
    """Whether a Ray Client server answers somebody who shows no token.

    Args:
        address: "host:port".
    """
    # generated code, which has no types
    messages: Any = ray_client_pb2
    stub: Any = ray_client_pb2_grpc.RayletDriverStub
    request = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            stub(channel).ClusterInfo(request, timeout=SECONDS)
        except grpc.RpcError:
            # refused for want of a token, or nothing there
            return False
    return True


def keep_token_private(path: Path, environment: Mapping[str, str]) -> None:
    """Make Ray's local token readable to its owner only, and make it where it is missing.

    Args:
        path: where Ray looks for it.
        environment: nothing is done where it names another token.
    """
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH"):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)
