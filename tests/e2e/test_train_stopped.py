"""`jobs/train.py` that is asked to stop: it saves the step that it is in and ends; the same command loses nothing."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.caption_cases import driver_environment
from tests.e2e.processes import finished, started
from tests.pipelines.training import cases

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40


def command(folder: Path, output: Path) -> list[str]:
    words = ["--input", str(folder / "corpus/data.json"), "--model", str(folder / "untrained"), "--output", str(output)]
    words += ["--stages", "highres", "--limit-steps", str(STEPS), "--epochs", "20", "--batch-size", "6"]
    words += ["--precision", "float32", "--num-workers", "2", "--checkpoint-steps", "1000"]
    return [sys.executable, str(ROOT / "jobs/train.py"), *words]


def wait_for_lines(path: Path, count: int) -> None:
    until = time.monotonic() + 240
    while not path.is_file() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < until, f"{path} does not come to {count} lines"
        time.sleep(0.02)


@pytest.mark.slow
def test_sigterm_saves_the_step_and_the_same_command_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    cases.write_model(tmp_path)
    cases.write_corpus(tmp_path / "corpus", 24)
    environment = driver_environment()
    stage = tmp_path / "stopped/highres"
    with started(command(tmp_path, tmp_path / "stopped"), environment) as process:
        wait_for_lines(stage / "metrics.jsonl", random.Random(0).randint(2, STEPS // 2))
        os.kill(process.pid, signal.SIGTERM)
        asked = time.monotonic()
        said, _ = process.communicate(timeout=120)
        seconds = time.monotonic() - asked
    assert process.returncode == 1, said
    assert seconds < 30, seconds
    (checkpoint,) = (stage / "checkpoints").iterdir()
    step = int(checkpoint.name.partition("-")[0])
    assert f"asked to stop (SIGTERM) in stage highres, whose step {step} is saved" in said
    assert step == len((stage / "metrics.jsonl").read_text().splitlines()) < STEPS
    assert (checkpoint / "COMPLETE.json").exists()
    made = {}
    for name in ("stopped", "whole"):
        code, said = finished(command(tmp_path, tmp_path / name), environment)
        assert code == 0, said
        made[name] = load_file(tmp_path / name / "highres/model/model.safetensors")
    assert [key for key in made["whole"] if not torch.equal(made["whole"][key], made["stopped"][key])] == []
