"""Receipts are committed in groups as they come, and whatever ends their stream, those that came are committed."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import commits as commits_module
from pipelines.errors import StalledError
from pipelines.inference import flow
from pipelines.inference.config import CaptionConfig
from pipelines.inference.job import InferenceJob, freeze
from pipelines.known_rows import Donor, Known
from pipelines.parts import Receipt
from tests.pipelines.inference.fakes import photo


@pytest.fixture
def job(tmp_path: Path) -> InferenceJob:
    """A job of one photo."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.jpg").write_bytes(photo(20, 30))
    return freeze(CaptionConfig(input=(str(tmp_path / "photos"),), output=str(tmp_path / "out")))


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Fragments of each commit, in place of a table."""
    made: list[list[str]] = []

    def commit(uri: str, receipts: list[Receipt], **named: Any) -> None:
        made.append([receipt.fragment_id for receipt in receipts])

    monkeypatch.setattr("pipelines.tables.commit", commit)
    monkeypatch.setattr(commits_module, "COMMIT_SECONDS", 1000.0)
    return made


def receipts(count: int) -> Iterator[Receipt]:
    """Receipts of fragments f0, f1, …"""
    for number in range(count):
        yield Receipt(fragment_id=f"f{number}", run_id="r", files=(), ok=1, rejected={})


def test_rows_that_are_taken_over_are_done_before_and_not_again(job: InferenceJob, commits: list[list[str]]) -> None:
    """A file was added to a folder of three: the line begins at three, and their fragment comes back with four."""
    (work,) = job.works
    fragment = dataclasses.replace(work.fragment, num_rows=4)
    known = Known(donors=(Donor(files=(), indices=(0, 1, 2)),))
    sent = dataclasses.replace(work, fragment=fragment, num_rows=4, known=known)
    grown = dataclasses.replace(job, works=(sent,))
    progress = flow.progress_of(grown, [sent])
    assert progress.line().startswith("3 of 4 images (75.0 %)")
    receipt = Receipt(fragment_id=work.work_id, run_id="r", files=(), ok=4, rejected={})
    assert flow.collect([receipt], grown, [sent], 60.0, progress=progress) == 1
    assert progress.line().startswith("4 of 4 images (100.0 %)")


def test_slow_receipts_do_not_wait_for_a_full_group(
    job: InferenceJob, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits_module, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(commits_module, "COMMIT_SHARE", 0.0)
    flow.collect(receipts(3), job, job.works, 60.0)
    assert commits == [["f0"], ["f1"], ["f2"]]


def test_what_came_before_a_failure_is_committed(job: InferenceJob, commits: list[list[str]]) -> None:
    def failing() -> Iterator[Receipt]:
        yield from receipts(3)
        raise RuntimeError("the cluster is gone")

    with pytest.raises(RuntimeError, match="the cluster is gone"):
        flow.collect(failing(), job, job.works, 60.0)
    assert commits == [["f0", "f1", "f2"]]


def test_workers_that_say_that_they_move_are_not_a_stall(job: InferenceJob, commits: list[list[str]]) -> None:
    """A fragment that takes four times the limit, while its worker gives signs of life and makes no row."""
    progress = flow.progress_of(job, job.works)

    def moving() -> Iterator[Receipt]:
        for sign in range(12):
            time.sleep(0.1)
            progress.note(0, 0, sign)
        yield from receipts(1)

    assert flow.collect(moving(), job, job.works, 0.3, progress=progress) == 1
    assert commits == [["f0"]]


def test_a_stream_that_hangs_stalls_the_job_after_committing(job: InferenceJob, commits: list[list[str]]) -> None:
    never = threading.Event()

    def hanging() -> Iterator[Receipt]:
        yield from receipts(2)
        never.wait(30)

    with pytest.raises(StalledError):
        flow.collect(hanging(), job, job.works, 0.3)
    never.set()
    assert commits == [["f0", "f1"]]
