"""A driver that is killed with SIGKILL, at chosen points and at random, then run again: every row exactly once."""

import random
import signal
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.e2e.caption_cases import (
    caption_command,
    check_table,
    corpus_files,
    driver_command,
    driver_environment,
    write_corpus,
)
from tests.e2e.processes import finished, started
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


def s3_environment(bucket: S3Bucket) -> dict[str, str]:
    """Variables that reach a bucket."""
    return driver_environment(**bucket.delta_options)


def test_killed_around_its_commits_then_run_to_the_end(tmp_path: Path) -> None:
    folder, output = write_corpus(tmp_path / "photos", 17), tmp_path / "out"
    flags = caption_command(str(folder), str(output))
    environment = driver_environment()
    names = list(corpus_files(17))
    seen: list[int] = []
    # parts lie there, no commit knows them · two groups are in, the driver dies before it hears of the second ·
    # all rows are in, the run is not finished
    for death in ("written:1", "committed:2", "finishing:1"):
        code, said = finished(driver_command(death, *flags), environment)
        assert code == -signal.SIGKILL, said
        rows = DeltaTable(output).to_pyarrow_table()["uid"].to_pylist()
        assert len(rows) == len(set(rows))
        seen.append(len(rows))
        assert not (output / "gallery.html").exists()
    assert seen[0] == 0
    assert 0 < seen[1] < seen[2] == len(names)
    code, said = finished(driver_command("never", *flags), environment)
    assert code == 0, said
    table = check_table(str(output), str(folder), names)
    assert (output / "gallery.html").exists()
    code, said = finished(driver_command("never", *flags), environment)
    assert (code, DeltaTable(output).version()) == (0, table.version())
    assert "nothing was missing" in said


def test_on_s3_killed_at_random_moments_then_run_to_the_end(s3_bucket: S3Bucket) -> None:
    _kill_at_random(s3_bucket, rounds=1, seed=20261123)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_on_s3_killed_again_and_again(s3_bucket: S3Bucket, seed: int) -> None:
    _kill_at_random(s3_bucket, rounds=5, seed=seed)


def _kill_at_random(bucket: S3Bucket, *, rounds: int, seed: int) -> None:
    """Kill a driver at random moments of its work, run it to the end, and check; then run it once more."""
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
    code, said = finished(driver_command("never", *flags), environment)
    assert code == 0, said
    table = check_table(output, source, list(files), bucket.delta_options)
    page = bucket.client().get_object(Bucket=bucket.name, Key="out/gallery.html")["Body"].read().decode()
    assert page.count("<img ") == 17
    code, said = finished(driver_command("never", *flags), environment)
    assert code == 0, said
    assert "nothing was missing" in said
    assert DeltaTable(output, storage_options=bucket.delta_options).version() == table.version()
    assert "rows in      20" in said


def _wait_for_work(bucket: S3Bucket, pid: int) -> None:
    """Wait until a driver has written a part that was not there, or has ended."""
    before = _parts(bucket)
    until = time.monotonic() + 120
    while time.monotonic() < until and Path(f"/proc/{pid}").exists() and _parts(bucket) == before:
        time.sleep(0.05)


def _parts(bucket: S3Bucket) -> int:
    found = bucket.client().list_objects_v2(Bucket=bucket.name, Prefix="out/status=")
    return int(found["KeyCount"])
