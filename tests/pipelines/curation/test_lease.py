"""One run at a time, and never none for ever."""

import json
import threading
import time
from pathlib import Path

import pytest

from pipelines.curation import lease
from pipelines.curation.lease import Holder, Lease, LeaseError, is_dead


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "_lease").iterdir())


def test_a_second_run_is_refused_until_the_first_gives_the_lease_back(tmp_path: Path) -> None:
    clock = Clock()
    with Lease(str(tmp_path), clock=clock):
        with pytest.raises(LeaseError, match=r"another run .* since 2023-11-14T22:13:20.*expires in 1m30s"):
            Lease(str(tmp_path), clock=clock).__enter__()
        assert files(tmp_path) == ["00000001.json"]
    with Lease(str(tmp_path), clock=clock) as second:
        second.check()
    assert files(tmp_path) == ["00000002.json"]


def foreign(folder: Path, clock: Clock, **changes: object) -> None:
    """A lease of another machine."""
    values = {"holder": "h", "host": "elsewhere", "process": "x/y/1:2", "since": clock.now, "expires": clock.now + 90}
    (folder / "_lease").mkdir()
    (folder / "_lease" / "00000004.json").write_text(json.dumps(values | changes))


def test_a_lease_expires(tmp_path: Path) -> None:
    clock = Clock()
    foreign(tmp_path, clock)
    clock.now += 89
    with pytest.raises(LeaseError, match=r"on elsewhere.*expires in 1s"):
        Lease(str(tmp_path), clock=clock).__enter__()
    clock.now += 2
    with Lease(str(tmp_path), clock=clock):
        assert files(tmp_path) == ["00000005.json"]


def test_a_run_that_was_taken_over_is_told(tmp_path: Path) -> None:
    clock = Clock()
    first = Lease(str(tmp_path), clock=clock)
    with first:
        clock.now += 91
        first._own = Holder(**{**first._renewed(), "host": "elsewhere"})  # type: ignore[arg-type]
        (tmp_path / "_lease" / "00000002.json").write_text("{}")
        with pytest.raises(LeaseError, match="taken over"):
            first.check()
    assert files(tmp_path) == ["00000001.json", "00000002.json"]
    assert json.loads((tmp_path / "_lease" / "00000001.json").read_text())["expires"] > 0


def test_it_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    with Lease(str(tmp_path), seconds=0.6):
        time.sleep(1.5)
        with pytest.raises(LeaseError):
            Lease(str(tmp_path)).__enter__()


def test_a_store_that_fails_for_a_while_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = lease.write_json
    failed = threading.Event()

    def fail_twice(*args: object) -> None:
        if failures:
            raise failures.pop()
        failed.set()
        write(*args)  # type: ignore[arg-type]

    failures: list[Exception] = [OSError("503 Slow Down"), ValueError("no JSON from the store")]
    monkeypatch.setattr(lease, "write_json", fail_twice)
    with Lease(str(tmp_path), seconds=0.9) as held:
        first = held._read(1).expires
        assert failed.wait(timeout=20)
        while held._read(1).expires == first:
            time.sleep(0.05)
        held.check()


def test_a_lease_that_its_successor_removes_meanwhile_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    foreign(tmp_path, clock, expires=0)
    read = lease.read_json

    def taken_over(uri: str, *options: object) -> object:
        Path(uri).unlink()
        return read(uri, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(lease, "read_json", taken_over)
    with pytest.raises(LeaseError, match="another run has taken over just now"):
        Lease(str(tmp_path), clock=clock).__enter__()


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path: Path) -> None:
    own = Lease(str(tmp_path))._own
    assert not is_dead(own)
    prefix, _, process = own.process.rpartition("/")
    pid, _, started = process.partition(":")
    gone = [f"{prefix}/{pid}:{int(started) - 1}", f"{prefix}/4194300:7"]
    elsewhere = [f"other-boot/{prefix.partition('/')[2]}/4194300:7", "unknown/:"]
    for process, dead in [*((name, True) for name in gone), *((name, False) for name in elsewhere)]:
        assert is_dead(Holder(holder="h", host=own.host, process=process, since=0, expires=0)) == dead, process
    assert not is_dead(Holder(holder="h", host="elsewhere", process=gone[1], since=0, expires=0))
    foreign(tmp_path, Clock(), host=own.host, process=gone[1], expires=time.time() + 1000)
    with Lease(str(tmp_path)):
        assert files(tmp_path) == ["00000005.json"]


def test_of_many_takers_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(6)
    write = lease.write_json_once

    def wait_then_write(*args: object) -> bool:
        together.wait(timeout=20)
        return write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(lease, "write_json_once", wait_then_write)
    held: list[Lease] = []
    refused: list[LeaseError] = []

    def take() -> None:
        try:
            held.append(Lease(str(tmp_path)).__enter__())
        except LeaseError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 5)
    held[0].__exit__()
