"""Ray starts safe and finds this project's code; workers are sized so that nothing waits for itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_core.errors import ConfigError
from pipelines import runtime
from pipelines.errors import StalledError
from pipelines.runtime import Node, WorkerPlan, plan_workers, start_ray

ROOT = Path(__file__).resolve().parents[2]


def test_a_machine_too_busy_for_ray_is_said_in_a_line_and_other_errors_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "The current node timed out during startup. This could happen because some of the raylet failed to startup"

    starts = []

    def fail(**_: object) -> None:
        starts.append(said)
        raise Exception(said)

    monkeypatch.setattr(runtime.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(runtime.ray, "shutdown", lambda: None)
    monkeypatch.setattr(runtime.ray, "init", fail)
    with pytest.raises(StalledError, match="the same command tries again"):
        start_ray("local")
    assert len(starts) == runtime.STARTS
    said = "no disk"
    with pytest.raises(Exception, match="no disk"):
        start_ray("local")
    assert len(starts) == runtime.STARTS + 1


def test_a_cluster_of_another_version_is_said_in_a_line_and_other_errors_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.40.0\nThis process was started with: Ray: 2.60.0"
    )

    def fail(**_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(runtime.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(runtime.ray, "init", fail)
    with pytest.raises(ConfigError, match=r"(?s)at 10.0.0.1:6379 has other versions .*2\.40\.0.*ray job submit"):
        start_ray("10.0.0.1:6379")
    said = "Maybe you called ray.init twice"
    with pytest.raises(RuntimeError, match="twice"):
        start_ray("10.0.0.1:6379")


def test_only_a_job_starts_ray() -> None:
    """Ray would start itself in any thread that calls it, also in one that outlives a stopped job."""
    code = "import pipelines.stages, ray\ntry:\n ray.put(1)\nexcept ray.exceptions.RaySystemError:\n print('none')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "none\n", done.stderr


@pytest.mark.parametrize(
    ("workers", "cluster", "gpus", "plan"),
    [
        (None, [(1, 0)], 0, (1, 0.0, 0.0, 1)),
        (None, [(2, 0)], 0, (1, 0.5, 0.0, 2)),
        (3, [(2, 0)], 0, (3, 0.25, 0.0, 1)),
        (None, [(4, 0)], 0, (1, 0.5, 0.0, 4)),
        (None, [(16, 0)], 0, (4, 1.0, 0.0, 4)),
        (None, [(0, 0), (8, 0), (8, 0)], 0, (4, 1.0, 0.0, 4)),
        (None, [(2, 1)], 1, (1, 0.5, 1.0, 2)),
        (None, [(16, 1)], 0.5, (2, 1.0, 0.5, 8)),
        (None, [(8, 2), (64, 0)], 1, (2, 1.0, 1.0, 4)),
        (1, [(8, 4)], 2, (1, 1.0, 2.0, 8)),
        (None, [(1, 4), (64, 0)], 1, (4, 0.25, 1.0, 1)),
    ],
)
def test_workers_fit_their_cluster(
    workers: int | None, cluster: list[tuple[int, int]], gpus: float, plan: tuple[int, float, float, int]
) -> None:
    made = plan_workers(workers, [Node(cpus=cpu, gpus=gpu) for cpu, gpu in cluster], gpus_per_worker=gpus)
    assert made == WorkerPlan(num_actors=plan[0], num_cpus=plan[1], num_gpus=plan[2], threads=plan[3])


def test_a_cpu_stays_for_tasks_whatever_is_asked() -> None:
    for cpus in (1, 2, 3, 4, 8, 64):
        for workers in range(1, 4 * cpus + 1):
            plan = plan_workers(workers, [Node(cpus=cpus)])
            assert plan.num_actors == workers
            assert plan.num_actors * plan.num_cpus <= cpus - 1


@pytest.mark.parametrize(
    ("workers", "gpus", "message"),
    [
        (0, 0, "--num-workers is 0"),
        (3, 1, "3 workers of 1 GPUs do not fit a cluster of 2 GPUs and 4 CPUs; at most 2 do"),
        (17, 0, "at most 16 do"),
        (None, 1.5, "gpus_per_worker is 1.5"),
        (None, -1, "gpus_per_worker is -1"),
    ],
)
def test_workers_that_do_not_fit_are_refused(workers: int | None, gpus: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_workers(workers, [Node(cpus=4, gpus=2)], gpus_per_worker=gpus)


def test_no_gpu_where_one_is_asked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit a cluster of 0 GPUs"):
        plan_workers(None, [Node(cpus=2)], gpus_per_worker=1)


def test_starting_again_joins_what_is_there(ray_session: None) -> None:
    assert start_ray() == start_ray("local") == [Node(cpus=2.0)]


def test_actors_of_the_plan_leave_room_for_tasks(ray_session: None) -> None:
    import ray

    plan = plan_workers(2, runtime.nodes())

    @ray.remote(num_cpus=plan.num_cpus)
    class Engine:
        def process(self) -> int:
            return os.getpid()

    @ray.remote
    def read() -> int:
        return os.getpid()

    actors = [Engine.remote() for _ in range(plan.num_actors)]
    assert len(set(ray.get([actor.process.remote() for actor in actors], timeout=60))) == 2
    assert ray.get(read.remote(), timeout=60)


def test_workers_cannot_ask_another_ray_of_this_machine(ray_session: None) -> None:
    """Ray Train does, whether its controller lives; the answer of a Ray that was started later ended the workers."""
    import ray

    @ray.remote(num_cpus=0)
    def ask() -> None:
        from ray.util.state import get_actor

        get_actor("0" * 32, timeout=5)

    with pytest.raises(ray.exceptions.RayTaskError, match=runtime.NO_SERVER):
        ray.get(ask.remote(), timeout=60)
    assert "RAY_API_SERVER_ADDRESS" not in os.environ


SCRIPT = """
import json, os, sys
sys.path.insert(0, {root!r})
from pipelines.runtime import start_ray
import ray

start_ray("local", num_cpus=1)

@ray.remote
def where():
    import llava_core, pipelines, schemas
    return [os.path.dirname(module.__file__) for module in (llava_core, pipelines, schemas)]

assert os.environ.get("PYTHONPATH") is None
print(json.dumps(ray.get(where.remote())))
"""


def test_workers_find_this_project_from_any_folder_and_nothing_is_said(tmp_path: Path) -> None:
    """A copy of the project that is not installed, started from elsewhere; the installed one would be found instead."""
    copy = tmp_path / "project"
    for package in ("llava_core", "pipelines", "schemas"):
        (copy / package).mkdir(parents=True)
        (copy / package / "__init__.py").write_text("")
    used = [f"pipelines/{name}.py" for name in ("__init__", "runtime", "security", "health", "metrics", "errors")]
    for name in (*used, "llava_core/errors.py"):
        (copy / name).write_text((ROOT / name).read_text())
    (tmp_path / "start.py").write_text(SCRIPT.format(root=str(copy)))
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, str(tmp_path / "start.py")],
        cwd=tmp_path / "elsewhere",
        env={name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [str(copy / name) for name in ("llava_core", "pipelines", "schemas")]
    assert done.stderr == ""
