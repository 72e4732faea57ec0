"""Nodes that go under a training job: workers go on elsewhere, or with fewer, with nobody's help."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.e2e.caption_cases import driver_environment
from tests.e2e.processes import finished
from tests.e2e.train_nodes import MANY_STEPS, STEPS
from tests.pipelines.training import cases

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_workers_save_before_their_node_goes_and_go_on_elsewhere(tmp_path: Path) -> None:
    cases.write_model(tmp_path)
    cases.write_corpus(tmp_path / "corpus", 24)
    # Ray Train looks for drained nodes as often
    environment = driver_environment(RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S="0.5")
    words = [sys.executable, "-m", "tests.e2e.train_nodes", str(tmp_path), "drained"]
    code, said = finished(words, environment, timeout=540, folder=ROOT)
    assert code == 0, said[-3000:]
    saved = re.search(r"saved before it went: \['(\d+)-", said)
    # the checkpoints of the settings are 1,000 steps apart
    assert saved is not None and 2 < int(saved[1]) < STEPS, said[-3000:]
    lines = (tmp_path / "out/highres/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    assert (tmp_path / "out/model/COMPLETE.json").exists()


@pytest.mark.slow
def test_a_group_goes_on_with_a_worker_less_and_grows_again(tmp_path: Path) -> None:
    cases.write_model(tmp_path)
    cases.write_corpus(tmp_path / "corpus", 24)
    words = [sys.executable, "-m", "tests.e2e.train_nodes", str(tmp_path), "lost"]
    code, said = finished(words, driver_environment(), timeout=900, folder=ROOT)
    assert code == 0, said[-3000:]
    assert re.findall(r"^(\d) saved step", said, re.MULTILINE) == ["4", "3", "4"], said[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "out/highres/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, MANY_STEPS + 1))
    # six samples a step, however many workers share them
    assert [line["samples"] for line in lines] == [6 * line["step"] for line in lines]
    assert (tmp_path / "out/model/COMPLETE.json").exists()
