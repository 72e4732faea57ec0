"""Planted canaries: no secret of a job's environment reaches a table, record, command line or log."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llava_core.errors import ConfigError
from pipelines.inference.flow import run_job
from tests.e2e.caption_cases import caption_config, corpus_files
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]

CANARIES = {
    "AWS_ACCESS_KEY_ID": "AKIACANARY0000000001",
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-secret-key-7f3a",
    "AWS_SESSION_TOKEN": "canary-of-the-session-token-91bc",
    "HF_TOKEN": "hf_canaryOfTheHub55d0",
    "OPENAI_API_KEY": "sk-canary-of-the-judge-e84f",
}


def found_in(text: str) -> set[str]:
    return {name for name, canary in CANARIES.items() if canary in text}


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """Command lines of all processes that were seen meanwhile."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def log_files() -> Iterator[Path]:
    """Logs of this Ray session, of the driver, the workers and Ray's own processes."""
    import ray

    folder = Path(ray._private.worker._global_node.get_logs_dir_path())  # type: ignore[attr-defined]
    yield from (path for path in folder.rglob("*") if path.is_file())


def texts_of(bucket: S3Bucket, folder: Path) -> dict[str, str]:
    """Everything that a job wrote into a bucket, readable: parts with their rows and their metadata."""
    client, found = bucket.client(), {}
    for item in client.list_objects_v2(Bucket=bucket.name, Prefix="out/")["Contents"]:
        data = client.get_object(Bucket=bucket.name, Key=item["Key"])["Body"].read()
        found[item["Key"]] = data.decode(errors="replace")
        if item["Key"].endswith(".parquet"):
            (folder / "part.parquet").write_bytes(data)
            table = pq.read_table(folder / "part.parquet")
            found[item["Key"]] += f"{table.to_pylist()} {table.schema.metadata}"
    return found


@pytest.mark.ray
def test_no_secret_is_written_anywhere(
    ray_session: None,
    s3_bucket: S3Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import ray

    for name, data in list(corpus_files(2).items()):
        s3_bucket.put(f"photos/{name}", data)
    for name, canary in CANARIES.items():
        monkeypatch.setenv(name, canary)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_bucket.endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    said: list[str] = []
    with command_lines() as lines, caplog.at_level(logging.DEBUG, logger="pipelines"):
        run_job(caption_config(f"{s3_bucket.uri}/photos", f"{s3_bucket.uri}/out", num_workers=1), said.append)
        with pytest.raises(ConfigError) as failure:
            run_job(caption_config(f"{s3_bucket.uri}/nothing-here", f"{s3_bucket.uri}/other"), said.append)
    written = texts_of(s3_bucket, tmp_path)
    assert any("_delta_log" in key for key in written)
    assert any(key.startswith("out/_run/") for key in written)
    assert any("'TRUNCATED'" in text for text in written.values()), "rows are looked into"
    for key, text in written.items():
        assert not found_in(text), key
    assert any("engine_process" in line for line in lines), "the job's processes were seen"
    assert not found_in("\n".join(lines))
    assert not found_in("\n".join(said) + str(failure.value) + repr(failure.value))
    assert not found_in("\n".join(caplog.messages))
    assert not found_in("".join(capfd.readouterr()))
    assert not found_in(json.dumps(ray.get_runtime_context().runtime_env.to_dict()))
    # workers' logs are written a little later
    time.sleep(1)
    logs = list(log_files())
    assert len(logs) > 5
    for path in logs:
        assert not found_in(path.read_text(errors="replace")), path


def test_a_planted_canary_is_found() -> None:
    assert found_in("key=canary-of-the-secret-key-7f3a;") == {"AWS_SECRET_ACCESS_KEY"}
