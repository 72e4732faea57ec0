"""The same job through a real cluster: `ray start --head`, `ray job submit`, and the table afterwards."""

import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tests.e2e.caption_cases import (
    BAD,
    ROOT,
    caption_command,
    check_table,
    corpus_files,
    driver_environment,
    write_corpus,
)
from tests.e2e.processes import finished, started

RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """A cluster of one node on this machine; gives the variables that reach it."""
    temp = Path(tempfile.mkdtemp(prefix="tessera-"))  # short: the paths of sockets inside it may have 107 letters
    port, dashboard = _free_port(), _free_port()
    environment = driver_environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_USAGE_STATS_ENABLED="0",
        # a submitted job's `python` is the cluster's
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    )
    environment.pop("RAY_ADDRESS", None)
    head = [RAY, "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(port)]
    head += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--temp-dir", str(temp)]
    # by default a second Ray on a machine wants the first one's ports for its agent, and its agent ends without a word
    for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port"):
        head += [f"--{name}", str(_free_port())]
    head += ["--num-cpus", "2", "--object-store-memory", str(120 * 2**20), "--min-worker-port", "0"]
    with started([*head, "--max-worker-port", "0"], environment):
        environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
        until = time.monotonic() + 120
        while not _listens(dashboard):
            assert time.monotonic() < until, "the dashboard does not come up"
            time.sleep(0.2)
        yield environment
    shutil.rmtree(temp, ignore_errors=True)


def test_a_submitted_job_fills_the_same_table(cluster: dict[str, str], tmp_path: Path) -> None:
    folder, output = write_corpus(tmp_path / "photos", 9), tmp_path / "out"
    job = ["python", "jobs/caption_corpus.py", *caption_command(str(folder), str(output))]
    said = submit(cluster, *job)
    assert "rows in      12" in said
    check_table(str(output), str(folder), list(corpus_files(9)))


@pytest.mark.slow
def test_submitted_questions_are_answered(cluster: dict[str, str], tmp_path: Path) -> None:
    folder, output = write_corpus(tmp_path / "photos", 9), tmp_path / "out"
    asked = [{"question_id": "dog", "question": "Is there a dog?", "kind": "yes_no"}]
    asked += [{"question_id": "1", "image": "00.png", "question": "What?"}]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(one) + "\n" for one in asked))
    job = ["python", "jobs/answer_corpus.py", "--input", str(folder), "--questions", str(questions)]
    said = submit(cluster, *job, "--output", str(output), "--max-new-tokens", "4")
    assert "rows in      13" in said
    rows = pa.table(DeltaTable(output).to_pyarrow_dataset().to_table()).to_pylist()
    named = Counter((row["uri"].removeprefix(f"{folder}/"), row["question_id"], row["status"]) for row in rows)
    wanted = {name: "rejected" if name in BAD else "ok" for name in corpus_files(9)}
    assert named == Counter([*((name, "dog", status) for name, status in wanted.items()), ("00.png", "1", "ok")])


def submit(cluster: dict[str, str], *job: str) -> str:
    """Submit a job, wait for its end, and return what was printed."""
    command = [RAY, "job", "submit", "--address", cluster["RAY_API_SERVER_ADDRESS"], "--working-dir", str(ROOT)]
    until = time.monotonic() + 120
    # the server answers a little before the agent that starts jobs does; a refused job was never made
    while "No available agent" in (answer := finished([*command, "--", *job], cluster))[1]:
        assert time.monotonic() < until, answer[1]
        time.sleep(1)
    code, said = answer
    assert code == 0, said
    assert "SUCCEEDED" in said.upper()
    return said


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
