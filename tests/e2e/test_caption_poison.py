"""Rows that end the engine, rows made again, and a job that is asked to stop: each row exactly once all the same."""

import io
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deltalake import DeltaTable
from PIL import Image

from pipelines.corpus_settings import CorpusSettings
from pipelines.inference.config import CaptionConfig
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
from tests.pipelines.inference.poison import poisoned

REASONS = {"crash": "DECODER_CRASH", "swell": "MEMORY", "hang": "TIMEOUT", "raise": "DECODER_CRASH"}


FIRST_COMMIT = "_delta_log/00000000000000000001.json"
"""Of fragments; the one before it makes the table."""


def write_rows(folder: Path, count: int, poison: dict[int, str]) -> None:
    """Write images of different sizes; some do something to the engine."""
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 200, (20 + number % 50, 30, 3)).astype(np.uint8)
        if number in poison:
            pixels = poisoned(pixels, poison[number])
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        (folder / f"{number:04d}.png").write_bytes(file.getvalue())


def run_poisoned(monkeypatch: pytest.MonkeyPatch, config: CaptionConfig, engine: str = "engine") -> list[str]:
    """Run the job with an engine of `poison`."""
    use_engine(monkeypatch, engine)
    said: list[str] = []
    run_job(config, said.append)
    return said


def check_poisoned(output: Path, count: int, poison: dict[int, str]) -> None:
    """Every row once, the poisoned ones rejected with their reasons, nobody else."""
    rows = DeltaTable(output).to_pyarrow_table().to_pylist()
    names = [int(Path(row["uri"]).stem) for row in rows]
    assert Counter(names) == Counter(range(count))
    found = {name: row["error"] for name, row in zip(names, rows, strict=True) if row["error"]}
    assert found == {number: REASONS[what] for number, what in poison.items()}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_poison_rows_are_rejected_then_made_again_in_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = {7: "crash", 11: "raise"}
    write_rows(tmp_path / "photos", 12, poison)
    output = tmp_path / "out"
    config = caption_config(tmp_path / "photos", output, engine_timeout=2.0, corpus=CorpusSettings(), num_workers=1)
    run_poisoned(monkeypatch, config)
    check_poisoned(output, 12, poison)
    # where they do not fail again they are in once, and the others as they were
    before = {row["uid"]: row for row in DeltaTable(output).to_pyarrow_table().to_pylist()}
    said = run_poisoned(monkeypatch, replace(config, retry_rejected=True), engine="forgiving")
    assert any("2 rejected rows are made again" in line for line in said)
    check_poisoned(output, 12, {})
    after = {row["uid"]: row for row in DeltaTable(output).to_pyarrow_table().to_pylist()}
    changed = [uid for uid in before if before[uid] != after[uid]]
    assert sorted(Path(after[uid]["uri"]).stem for uid in changed) == ["0007", "0011"]
    assert "nothing was missing" in run_poisoned(monkeypatch, replace(config, retry_rejected=True))[-1]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rejected_rows_of_a_folder_that_grew_are_made_again_with_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = {2: "crash", 5: "raise"}
    write_rows(tmp_path / "photos", 7, poison)
    config = caption_config(
        tmp_path / "photos", tmp_path / "out", engine_timeout=2.0, corpus=CorpusSettings(), num_workers=1
    )
    run_poisoned(monkeypatch, config)
    shutil.copy(tmp_path / "photos" / "0003.png", tmp_path / "photos" / "0007.png")
    said = run_poisoned(monkeypatch, replace(config, retry_rejected=True), engine="forgiving")
    assert any("8 rows, 3 of them to do" in line for line in said)
    check_poisoned(tmp_path / "out", 8, {})


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_twenty_poison_rows_among_five_hundred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("crash", "swell", "raise", "hang")
    numbers = np.random.default_rng(5).permutation(500)[:20].tolist()
    poison = {number: kinds[at % 4] for at, number in enumerate(numbers)}
    write_rows(tmp_path / "photos", 500, poison)
    config = caption_config(
        tmp_path / "photos", tmp_path / "out", engine_timeout=2.0, corpus=CorpusSettings(rows_per_fragment=64)
    )
    run_poisoned(monkeypatch, config)
    check_poisoned(tmp_path / "out", 500, poison)
    # made again, they fail again, and the table stays as it is
    version = DeltaTable(tmp_path / "out").version()
    run_poisoned(monkeypatch, replace(config, retry_rejected=True))
    assert DeltaTable(tmp_path / "out").version() == version


@pytest.mark.slow
def test_a_stalled_job_becomes_an_error(tmp_path: Path) -> None:
    write_rows(tmp_path / "photos", 4, {2: "hang"})
    command = [sys.executable, str(Path(__file__).with_name("poison_driver.py"))]
    code, said = finished([*command, str(tmp_path / "photos"), str(tmp_path / "out"), "12"], driver_environment())
    assert code == 1 and "StalledError" in said, said
    assert "within 12s" in said


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_job_that_is_asked_to_stop_commits_and_ends_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = write_corpus(tmp_path / "photos", 42), tmp_path / "out"
    flags = caption_command(str(folder), str(output), "--num-workers", "1")
    with started(driver_command("slow", *flags), driver_environment()) as driver:
        until = time.monotonic() + 200
        while time.monotonic() < until and not (output / FIRST_COMMIT).exists():
            time.sleep(0.05)
        asked = time.monotonic()
        driver.send_signal(signal.SIGTERM)
        said, _ = driver.communicate(timeout=60)
        took = time.monotonic() - asked
    assert driver.returncode == 1, said
    # Ray may have a line of its own to say about the actor that it kills then, but there is no traceback.
    assert sum(line.startswith("stopped: asked to stop (SIGTERM)") for line in said.splitlines()) == 1, said
    assert "Traceback" not in said, said
    assert took < 30, said
    rows = DeltaTable(output).to_pyarrow_table()["uid"].to_pylist()
    assert 0 < len(rows) < 45
    run_poisoned(monkeypatch, caption_config(folder, output))
    check_table(str(output), str(folder), list(corpus_files(42)))
