"""A driver that is killed with SIGKILL, at chosen points and at random, then run again: every row exactly once."""

import random
import signal
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipelines.inference.flow import run_job
from tests.e2e.caption_cases import (
    caption_command,
    caption_config,
    check_table,
    corpus_files,
    driver_command,
    driver_environment,
    use_engine,
    write_corpus,
)
from tests.e2e.processes import finished, started
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


def s3_environment(bucket: S3Bucket) -> dict[str, str]:
    """Variables that reach a bucket."""
    return driver_environment(**bucket.delta_options)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_killed_around_its_commits_then_run_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, output = write_corpus(tmp_path / "photos", 17), tmp_path / "out"
    flags = caption_command(str(folder), str(output))
    environment = driver_environment()
    names = list(corpus_files(17))
    seen: list[int] = []
    # parts lie there, no commit knows them · two groups are in, the driver dies before it hears of the second ·
    # all rows are in, the run is not finished
    for death in ("written:1", "committed:2", "finishing:1"):
        code, answer = finished(driver_command(death, *flags), environment)
        assert code == -signal.SIGKILL, answer
        rows = DeltaTable(output).to_pyarrow_table()["uid"].to_pylist()
        assert len(rows) == len(set(rows))
        seen.append(len(rows))
        assert not (output / "gallery.html").exists()
    assert seen[0] == 0
    assert 0 < seen[1] < seen[2] == len(names)
    # a process that was not killed: this one, whose Ray is up
    use_engine(monkeypatch)
    run_job(caption_config(folder, output), print)
    table = check_table(str(output), str(folder), names)
    assert (output / "gallery.html").exists()
    said: list[str] = []
    run_job(caption_config(folder, output), said.append)
    assert DeltaTable(output).version() == table.version()
    assert "nothing was missing" in said[-1]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_on_s3_killed_at_random_moments_then_run_to_the_end(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_at_random(s3_bucket, monkeypatch, rounds=1, seed=20261123)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("seed", range(4))
def test_on_s3_killed_again_and_again(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    _kill_at_random(s3_bucket, monkeypatch, rounds=5, seed=seed)


def _kill_at_random(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, *, rounds: int, seed: int) -> None:
    """Kill a driver at random moments of its work, run the job to the end here, and check; then run it once more."""
    files = corpus_files(17)
    for name, data in files.items():
        bucket.put(f"photos/{name}", data)
    source, output = f"{bucket.uri}/photos", f"{bucket.uri}/out"
    flags = caption_command(source, output)
    environment = s3_environment(bucket)
    generator = random.Random(seed)
    for _ in range(rounds):
        with started(driver_command("never", *flags), environment) as driver:
            _wait_for_work(bucket, driver.pid)
            time.sleep(generator.uniform(0.0, 1.5))
            driver.kill()
    for name, value in bucket.delta_options.items():
        monkeypatch.setenv(name, value)
    use_engine(monkeypatch)
    run_job(caption_config(source, output), print)
    table = check_table(output, source, list(files), bucket.delta_options)
    page = bucket.client().get_object(Bucket=bucket.name, Key="out/gallery.html")["Body"].read().decode()
    assert page.count("<img ") == 17
    said: list[str] = []
    run_job(caption_config(source, output), said.append)
    assert "nothing was missing" in said[-1]
    assert DeltaTable(output, storage_options=bucket.delta_options).version() == table.version()
    assert "rows in      20" in said[-1]


def _wait_for_work(bucket: S3Bucket, pid: int) -> None:
    """Wait until a driver has written a part that was not there, or has ended."""
    before = _parts(bucket)
    until = time.monotonic() + 120
    while time.monotonic() < until and Path(f"/proc/{pid}").exists() and _parts(bucket) == before:
        time.sleep(0.05)


def _parts(bucket: S3Bucket) -> int:
    found = bucket.client().list_objects_v2(Bucket=bucket.name, Prefix="out/status=")
    return int(found["KeyCount"])
