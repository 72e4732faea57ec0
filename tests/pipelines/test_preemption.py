"""The head's hook asks drivers, not Ray, and waits for what it asked; tests/infra/test_cluster.py has real clusters."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest
from ray.dashboard.modules.job.common import JobStatus

from pipelines import preemption

DRIVER = """
import signal, sys, time
def stop(*_):
    time.sleep(0.3)
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


def driver_info(pid: int, address: str = "127.0.0.1") -> SimpleNamespace:
    """What the dashboard says of a driver."""
    return SimpleNamespace(pid=str(pid), node_ip_address=address)


class Dashboard:
    """Jobs whose drivers are processes of this machine; one is known to Ray from the `joins`-th question on."""

    def __init__(self, drivers: Sequence[subprocess.Popen[str]], joins: Sequence[int]) -> None:
        self.drivers, self.joins, self.asked = drivers, joins, 0

    def list_jobs(self) -> list[SimpleNamespace]:
        """What the dashboard says; a driver that nobody submitted, and a job that ended, are in it too."""
        self.asked += 1
        found = [
            SimpleNamespace(
                submission_id=f"job-{number}",
                status=JobStatus.RUNNING if driver.poll() is None else JobStatus.FAILED,
                driver_info=driver_info(driver.pid) if self.asked >= joins else None,
            )
            for number, (driver, joins) in enumerate(zip(self.drivers, self.joins, strict=True))
        ]
        by_hand = SimpleNamespace(submission_id=None, status=JobStatus.RUNNING, driver_info=None)
        ended = SimpleNamespace(submission_id="old", status=JobStatus.SUCCEEDED, driver_info=driver_info(os.getpid()))
        return [by_hand, *found, ended]


@pytest.fixture
def drivers() -> Iterator[list[subprocess.Popen[str]]]:
    """Two that take a moment to stop."""
    made = [subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for one in made:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    yield made
    for one in made:
        one.kill()
        one.wait()


def test_drivers_get_sigterm_and_end_by_themselves(
    drivers: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = Dashboard(drivers, joins=(1, 3))
    monkeypatch.setattr(preemption, "JobSubmissionClient", lambda address: dashboard)
    monkeypatch.setattr(preemption, "_POLL_S", 0.05)
    assert preemption.stop_jobs("http://head", 20) == []
    assert [one.wait(5) for one in drivers] == [1, 1], "an exit code that Ray calls FAILED"


def test_those_that_do_not_end_are_named_when_time_is_up(
    drivers: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = Dashboard(drivers, joins=(1, 10**9))
    monkeypatch.setattr(preemption, "JobSubmissionClient", lambda address: dashboard)
    monkeypatch.setattr(preemption, "_POLL_S", 0.05)
    assert preemption.main(["head", "--seconds", "1"]) == 1
    assert preemption.stop_jobs("http://head", 0) == ["job-1"]
    assert drivers[0].wait(5) == 1
    assert drivers[1].poll() is None


def test_a_driver_that_has_just_ended_is_no_error(
    drivers: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = Dashboard(drivers[:1], joins=(1,))
    monkeypatch.setattr(preemption, "JobSubmissionClient", lambda address: dashboard)
    drivers[0].send_signal(signal.SIGKILL)
    drivers[0].wait()
    gone = SimpleNamespace(submission_id="job-0", status=JobStatus.RUNNING)
    gone.driver_info = driver_info(drivers[0].pid)
    monkeypatch.setattr(dashboard, "list_jobs", lambda: [gone])
    assert preemption.stop_jobs("http://head", 0) == ["job-0"]


def test_a_driver_of_another_machine_is_left_alone_and_not_waited_for(
    drivers: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its pid is that of a process here which has nothing to do with it."""
    dashboard = Dashboard(drivers[:1], joins=(1,))
    listed = dashboard.list_jobs
    away = [
        SimpleNamespace(submission_id=name, status=JobStatus.RUNNING, driver_info=driver_info(drivers[1].pid, address))
        for name, address in (("away", "192.0.2.7"), ("away6", "2001:db8::7"))
    ]
    monkeypatch.setattr(dashboard, "list_jobs", lambda: [*away, *listed()])
    monkeypatch.setattr(preemption, "JobSubmissionClient", lambda address: dashboard)
    monkeypatch.setattr(preemption, "_POLL_S", 0.05)
    assert preemption.stop_jobs("http://head", 20) == []
    assert drivers[0].wait(5) == 1
    with pytest.raises(subprocess.TimeoutExpired):
        drivers[1].wait(0.5)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sorted(said) == [
        "job away cannot be asked to stop: its driver is on 192.0.2.7",
        "job away6 cannot be asked to stop: its driver is on 2001:db8::7",
    ]
