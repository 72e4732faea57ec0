"""Workers, engines, counters, nodes, drivers and the store itself fail; the table is the one of a run without faults.

Five faults are in `make test` already: three drivers and a random one in `test_caption_killed`, a worker in
`test_caption_corpus`. Here are the many, and the check shown to fail for what has no such promise.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from tests.e2e.caption_cases import corpus_files, driver_environment, write_corpus
from tests.e2e.processes import end_session, finished, session, started
from tests.fault_proxy import FaultProxy, faulty
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]

COUNT = 77
"""Images, beside 3 broken files: 20 fragments of about 4 rows."""
VICTIMS = {
    "worker": "ray::MapWorker",
    "engine": "pipelines.inference.engine_process",
    "decoder": "pipelines.decoder_process",
    "counter": "ray::Attempts",
}
"""What a process has in its command line."""
KILLS = 10
ROUNDS = 40
"""Starts of a job that is killed, after which the test gives up."""


def command(*words: str) -> list[str]:
    """Of a driver."""
    return [sys.executable, str(Path(__file__).with_name("chaos_driver.py")), *words]


def rows_of(table: DeltaTable) -> pa.Table:
    """All rows in one order."""
    return table.to_pyarrow_table().sort_by([("uid", "ascending"), ("run_id", "ascending")])


def check_same(table: DeltaTable, expected: DeltaTable) -> None:
    """Hold a table to another one: the same rows, each once, in the same files."""
    found, wanted = rows_of(table), rows_of(expected)
    twice = {uid: count for uid, count in Counter(found["uid"].to_pylist()).items() if count > 1}
    assert not twice, f"{len(twice)} rows are in the table more than once"
    assert found["uid"].to_pylist() == wanted["uid"].to_pylist()
    assert found.equals(wanted)
    assert file_names(table) == file_names(expected)


def file_names(table: DeltaTable) -> set[str]:
    """Names of the live files, which their content decides."""
    return {uri.rpartition("/")[2] for uri in table.file_uris()}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DeltaTable]:
    """A corpus, and the table of a run to which nothing happened."""
    folder = tmp_path_factory.mktemp("calm")
    photos = write_corpus(folder / "photos", COUNT)
    code, said = finished(command(str(photos), str(folder / "out")), driver_environment())
    assert code == 0, said
    table = DeltaTable(folder / "out")
    assert len(rows_of(table)) == len(corpus_files(COUNT))
    return photos, table


class Output:
    """Where a job writes: a folder, or a store behind a proxy that fails."""

    def __init__(self, uri: str, environment: dict[str, str], options: dict[str, str] | None) -> None:
        self.uri, self.environment, self.options = uri, environment, options

    def commits(self) -> int:
        """How many commits its log has."""
        try:
            return DeltaTable(self.uri, storage_options=self.options).version()
        except Exception:
            # not there yet
            return -1


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path, s3_bucket: S3Bucket) -> Any:
    """A place for a table."""
    if request.param == "local":
        yield Output(str(tmp_path / "out"), driver_environment(), None)
        return
    with faulty(s3_bucket.endpoint, seed=7, share=0.02) as proxy:
        environment = driver_environment(**s3_bucket.delta_options | {"AWS_ENDPOINT_URL": proxy.endpoint})
        yield Output(f"{s3_bucket.uri}/out", environment, s3_bucket.delta_options)
        report("s3", proxy)


def report(what: str, proxy: FaultProxy) -> None:
    """Say what a store did."""
    total = sum(proxy.faults.values())
    sys.stdout.write(f"{what}: {total} faults in {proxy.requests} requests: {dict(proxy.faults)}\n")


def victims(leader: int, words: str) -> list[int]:
    """Processes of a session whose command line has some words."""
    found = []
    for pid in session(leader):
        try:
            if words in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                found.append(pid)
        except OSError:
            continue
    return found


def kill_again_and_again(photos: Path, output: Output, choose: Callable[[int], list[int]], seed: int) -> int:
    """Run a job until it ends well, and kill what `choose` says each time that some more is committed."""
    chance = random.Random(seed)
    killed = 0
    for _ in range(ROUNDS):
        with started(command(str(photos), output.uri), output.environment) as driver:
            seen = output.commits()
            while driver.poll() is None:
                time.sleep(0.1)
                if killed < KILLS and (now := output.commits()) > seen:
                    time.sleep(chance.uniform(0, 0.6))
                    targets = choose(driver.pid)
                    if targets:
                        os.kill(chance.choice(targets), signal.SIGKILL)
                        seen, killed = now, killed + 1
            # what outlives a killed driver holds its output open
            end_session(driver.pid)
            said, _ = driver.communicate(timeout=60)
        if driver.returncode == 0:
            assert "rows in      80" in said
            return killed
        # whatever ended it, the same command goes on
        assert driver.returncode in (1, -signal.SIGKILL), said
    raise AssertionError(f"the job does not end after {ROUNDS} starts: {said}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*VICTIMS, "driver"])
def test_killed_again_and_again_the_table_is_the_same(kind: str, output: Output, calm: tuple[Path, DeltaTable]) -> None:
    photos, expected = calm

    def choose(leader: int) -> list[int]:
        return [leader] if kind == "driver" else victims(leader, VICTIMS[kind])

    killed = kill_again_and_again(photos, output, choose, seed=len(kind))
    sys.stdout.write(f"{kind}: {killed} kills\n")
    assert killed >= KILLS // 2
    check_same(DeltaTable(output.uri, storage_options=output.options), expected)


@pytest.mark.slow
def test_nodes_go_and_the_table_is_the_same(output: Output, calm: tuple[Path, DeltaTable]) -> None:
    photos, expected = calm
    for _ in range(ROUNDS):
        code, said = finished(command(str(photos), output.uri, "5", "3"), output.environment, timeout=600)
        if code == 0:
            break
    assert code == 0, said
    sys.stdout.write(next(line for line in said.splitlines() if line.startswith("killed ")) + "\n")
    assert "killed 0 nodes" not in said
    check_same(DeltaTable(output.uri, storage_options=output.options), expected)


@pytest.mark.slow
def test_a_store_that_fails_often_loses_and_doubles_nothing(s3_bucket: S3Bucket, calm: tuple[Path, DeltaTable]) -> None:
    photos, expected = calm
    with faulty(s3_bucket.endpoint, seed=11, share=0.12) as proxy:
        environment = driver_environment(**s3_bucket.delta_options | {"AWS_ENDPOINT_URL": proxy.endpoint})
        for _ in range(ROUNDS):
            code, said = finished(command(str(photos), f"{s3_bucket.uri}/out"), environment)
            if code == 0:
                break
        report("store", proxy)
    assert code == 0, said
    assert min(proxy.faults[kind] for kind in ("500", "503", "slow", "dropped before", "dropped after")) >= 2
    check_same(DeltaTable(f"{s3_bucket.uri}/out", storage_options=s3_bucket.delta_options), expected)


@pytest.mark.slow
def test_the_check_fails_for_an_append_without_transactions(tmp_path: Path, calm: tuple[Path, DeltaTable]) -> None:
    """Negative control: a commit happened and its writer died before it heard of it, so it is made again."""
    rows = rows_of(calm[1])
    for part in (rows.slice(0, 30), rows.slice(30), rows.slice(30)):
        write_deltalake(tmp_path / "out", part, mode="append", partition_by=["status"])
    with pytest.raises(AssertionError, match="50 rows are in the table more than once"):
        check_same(DeltaTable(tmp_path / "out"), calm[1])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_check_fails_for_plain_write_parquet(tmp_path: Path, calm: tuple[Path, DeltaTable]) -> None:
    """Negative control: Ray's own sink, a job that fails half way, and the same job again."""
    import ray.data
    from deltalake import convert_to_deltalake

    rows = rows_of(calm[1])
    mark = tmp_path / "died"

    def work(batch: pa.Table) -> pa.Table:
        if rows["uid"][-1].as_py() in batch["uid"].to_pylist() and not mark.exists():
            time.sleep(3)
            mark.touch()
            raise RuntimeError("the last block fails once")
        return batch

    def job() -> None:
        data = ray.data.from_arrow([rows.slice(at, 8) for at in range(0, len(rows), 8)])
        data.map_batches(work, batch_format="pyarrow", batch_size=None).write_parquet(str(tmp_path / "out"))

    with pytest.raises(Exception, match="the last block fails once"):
        job()
    job()
    convert_to_deltalake(str(tmp_path / "out"))
    with pytest.raises(AssertionError, match="more than once"):
        check_same(DeltaTable(tmp_path / "out"), calm[1])
