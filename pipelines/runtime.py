"""Ray for a job: start or join it, see what it has, and size the workers so that nothing waits for itself.

Without a cluster a job starts Ray on this machine; inside `ray job submit`, or with an address, it joins. What this
does *not* do: the order of a job (its `flow`), its progress (`progress`), its record (`record`).
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from llava_core.errors import ConfigError
from pipelines import metrics, security
from pipelines.errors import StalledError

log = logging.getLogger(__name__)

STARTS = 3
"""Times that Ray is started on this machine before a job gives up."""

NO_SERVER = "http://127.0.0.1:9"
"""An address at which no Ray answers: the port is that of `discard`."""

_PACKAGES = ("schemas", "llava_core", "pipelines")
_MEBIBYTE = 2**20
_LEAST_STORE, _MOST_STORE = 80 * _MEBIBYTE, 2048 * _MEBIBYTE


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What one machine of a cluster has."""

    cpus: float
    """Logical CPUs."""
    gpus: float = 0.0
    """GPUs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlan:
    """How many actors a stage gets, and what each asks Ray for."""

    num_actors: int
    """Actors, one engine each."""
    num_cpus: float
    """Logical CPUs of each: fractional on small clusters, so that the tasks that feed it find room."""
    num_gpus: float
    """GPUs of each."""
    threads: int
    """Threads of each for arithmetic: its share of a machine's cores, whatever it asks Ray for."""


def start_ray(
    ray_address: str | None = None, *, num_cpus: int | None = None, object_store_bytes: int | None = None
) -> list[Node]:
    """Join a cluster, or start Ray on this machine; does nothing where Ray is up already.

    Args:
        ray_address: of a cluster; None joins the one that `RAY_ADDRESS` names (inside `ray job submit` it does), and
            starts a local Ray where it names none. "local" always starts one.
        num_cpus: logical CPUs of a local Ray; all cores by default.
        object_store_bytes: of a local Ray; a fifth of the memory, at most 2 GiB, by default.

    Returns:
        The nodes that are up.

    Raises:
        ConfigError: a variable is set that lets data files run code; the cluster does not answer, has another version
            of Ray or Python, or answers to somebody without a token where TESSERA_OPEN_CLUSTER says "refuse"
            (`security`).
        StalledError: this machine is too busy for Ray to start.
    """
    security.check_environment()
    policy = security.open_cluster_policy()
    if not ray.is_initialized():
        address = ray_address or os.environ.get("RAY_ADDRESS") or "local"
        if address == "local":
            _start_local(num_cpus, object_store_bytes)
        else:
            _join(address, policy)
        metrics.report_start()
    # not above: it takes a second, and this module is imported by processes that start nothing
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return nodes()


def nodes() -> list[Node]:
    """Return the nodes of the cluster that are up."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [Node(cpus=found.get("CPU", 0.0), gpus=found.get("GPU", 0.0)) for found in alive]


def plan_workers(num_workers: int | None, cluster: Sequence[Node], *, gpus_per_worker: float = 0.0) -> WorkerPlan:
    """Size a stage's actors to a cluster, so that all of them can run and one CPU stays for what feeds them.

    Actors start before tasks and keep what they asked for, so actors that ask for every CPU would wait for ever for
    tasks that never run. They ask for little and use `threads`.

    Args:
        num_workers: actors; None takes one for each GPU share, or one for each 4 CPUs.
        cluster: its nodes.
        gpus_per_worker: GPUs of each actor, fractions allowed; 0 for CPU only.

    Raises:
        ConfigError: the cluster cannot hold that many.

    >>> plan_workers(None, [Node(cpus=2)])
    WorkerPlan(num_actors=1, num_cpus=0.5, num_gpus=0.0, threads=2)
    >>> plan_workers(2, [Node(cpus=2)])
    WorkerPlan(num_actors=2, num_cpus=0.5, num_gpus=0.0, threads=1)
    >>> plan_workers(None, [Node(cpus=4), Node(cpus=32, gpus=8), Node(cpus=32, gpus=8)], gpus_per_worker=1)
    WorkerPlan(num_actors=16, num_cpus=1.0, num_gpus=1.0, threads=4)
    """
    if num_workers is not None and num_workers < 1:
        raise ConfigError(f"--num-workers is {num_workers}; expected at least 1")
    if gpus_per_worker < 0 or (gpus_per_worker > 1 and gpus_per_worker % 1):
        raise ConfigError(f"gpus_per_worker is {gpus_per_worker}; expected a fraction of 1 or a whole number")
    cpus = sum(node.cpus for node in cluster)
    room = room_for_workers(cluster, gpus_per_worker)
    if gpus_per_worker:
        hosts = [node for node in cluster if node.gpus >= gpus_per_worker]
    else:
        hosts = [node for node in cluster if node.cpus]
    actors = num_workers or max(1, room if gpus_per_worker else int(cpus) // 4)
    if actors > room:
        owned = f"{sum(node.gpus for node in cluster):g} GPUs and {cpus:g} CPUs"
        raise ConfigError(
            f"{actors} workers of {gpus_per_worker:g} GPUs do not fit a cluster of {owned}; at most {room} do"
        )
    return WorkerPlan(
        num_actors=actors,
        num_cpus=_share(actors, cpus, hosts, gpus_per_worker),
        num_gpus=float(gpus_per_worker),
        threads=max(1, int(sum(node.cpus for node in hosts)) // actors),
    )


def room_for_workers(cluster: Sequence[Node], gpus_per_worker: float) -> int:
    """Most actors that a cluster can hold.

    >>> room_for_workers([Node(cpus=4), Node(cpus=32, gpus=3)], 0.5), room_for_workers([Node(cpus=2)], 0.0)
    (6, 8)
    """
    if gpus_per_worker:
        return sum(_fit(node.gpus, gpus_per_worker) for node in cluster)
    return max(1, int(sum(node.cpus for node in cluster)) * 4)


def _share(actors: int, cpus: float, hosts: Sequence[Node], gpus_per_worker: float) -> float:
    """CPUs that each actor may ask for: the most of a few steps at which all fit their nodes and one CPU stays."""
    for share in (1.0, 0.5, 0.25, 0.1):
        slots = [
            min(_fit(node.cpus, share), _fit(node.gpus, gpus_per_worker) if gpus_per_worker else actors)
            for node in hosts
        ]
        small = share > 0.5 and cpus <= 4
        if not small and sum(slots) >= actors and actors * share <= cpus - 1:
            return share
    return 0.0


def _fit(amount: float, share: float) -> int:
    return int(amount / share + 1e-9)


def _start_local(num_cpus: int | None, object_store_bytes: int | None) -> None:
    # Ray turns its token on by itself, and makes it readable to everybody; made before, it is the owner's alone.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.get("RAY_AUTH_MODE", "token") == "token":
        security.keep_token_private(Path.home() / ".ray" / "auth_token", os.environ)
    with _inherited(os.environ):
        for left in range(STARTS - 1, -1, -1):
            try:
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    object_store_memory=object_store_bytes or _store_bytes(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
                break
            except Exception as error:
                _after_failed_start(error, left)
    log.info("started Ray on this machine")


def _after_failed_start(error: Exception, left: int) -> None:
    """Let Ray be started once more where its own daemon was not up in the time that it allows, which nothing sets."""
    if "timed out during startup" not in str(error):
        raise error
    ray.shutdown()
    if not left:
        raise StalledError(
            f"Ray did not start within its 30 seconds, {STARTS} times, as happens on a machine that is busy with other "
            "work; nothing was done, and the same command tries again"
        ) from error
    log.warning("Ray did not start within its 30 seconds; this machine is busy; started once more")


def _join(address: str, policy: security.Policy) -> None:
    """Join a cluster; a submitted job has its code there already, any other driver sends it."""
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    code = {} if submitted else {"py_modules": [str(_root() / package) for package in _PACKAGES]}
    try:
        joined = ray.init(address=address, runtime_env=code or None, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {error}; start one or leave --ray-address out"
        ) from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise ConfigError(
            f"the Ray cluster at {address} has other versions than this machine: {error}; start the job from an "
            "environment with the cluster's, or there by `ray job submit`"
        ) from error
    head = ray.get_runtime_context().gcs_address.rpartition(":")[0]
    try:
        security.check_cluster(policy, head=head, dashboard=joined.dashboard_url)
    except ConfigError:
        ray.shutdown()
        raise
    log.info("joined Ray at %s", address)


@contextmanager
def _inherited(environment: Any) -> Iterator[None]:
    """What workers inherit from who starts them: this project, although it is not installed, and no other Ray.

    Ray Train lets "the" Ray of this machine say whether a run's controller lives. That is the one started last; where
    it is another than the run's own, it says no, and the run's workers are ended. So here nobody can be asked.
    """
    paths = [str(_root()), *([environment["PYTHONPATH"]] if "PYTHONPATH" in environment else [])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "RAY_API_SERVER_ADDRESS": NO_SERVER}
    before = {name: environment.get(name) for name in own}
    environment.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del environment[name]
            else:
                environment[name] = value


def _root() -> Path:
    """The folder that holds this project's packages."""
    return Path(__file__).resolve().parents[1]


def _store_bytes() -> int:
    """Bytes for a local object store: encoded images pass through it, a few batches at a time."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else memory
    return max(_LEAST_STORE, min(_MOST_STORE, memory // 5, int(shared * 0.9)))
