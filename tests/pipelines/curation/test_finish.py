"""The end of a curation: when there is nothing left to do, what is said, and what may leave the table."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.curation.config import CurateConfig
from pipelines.curation.decisions import Decided
from pipelines.curation.finish import begin_record, finish, is_settled, other_runs
from pipelines.curation.job import CurateJob, freeze
from pipelines.curation.rules import RulesConfig
from pipelines.errors import AccountingError
from pipelines.parts import write_fragment
from pipelines.tables import commit
from pipelines.upkeep import overwrite
from schemas.selection import DropReason
from schemas.shard import SHARD
from tests.pipelines.curation.pictures import encoded, scene
from tests.pipelines.curation.score_cases import put


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three images to curate, and one to hold them against."""
    for folder, count in (("corpus", 3), ("evaluation", 1)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number}.jpg").write_bytes(encoded(scene(number)))
    return tmp_path / "corpus"


def job_of(folder: Path, **changes: Any) -> CurateJob:
    """A job over the corpus."""
    return freeze(CurateConfig(input=(str(folder),), output=str(folder.parent / "out"), **changes))


def end(job: CurateJob, **changes: Any) -> list[str]:
    """End a job that dropped all three rows, and give what it said."""
    said: list[str] = []
    decided = {"counts": {"TOO_SMALL": 3}, "unmeasured": {}, "changes": ()} | changes
    finish(job, Decided(**decided), new_rows=3, seconds=1.0, say=said.append)
    return said


def test_measurements_that_were_taken_out_are_missing_though_the_run_was_complete(corpus: Path) -> None:
    job = job_of(corpus, against=(str(corpus.parent / "evaluation"),))
    spec, references = job.probe, job.reference_probe
    begin_record(job)
    put(job.fragments, spec)
    put(job.references, references)
    assert not is_settled(job)
    end(job)
    assert is_settled(job)
    for one, fragments in ((spec, job.fragments), (references, job.references)):
        overwrite(one.table_uri, run_id=one.settings.run_id)
        assert not is_settled(job)
        put(fragments, one)
        assert is_settled(job)
        shutil.rmtree(one.table_uri)
        assert not is_settled(job)
        put(fragments, one)
    assert is_settled(job)


def test_a_run_with_rejected_rows_is_not_complete_for_who_tries_them_again(corpus: Path) -> None:
    """Rejected by the probe, among evaluation images, or in shards."""
    against = (str(corpus.parent / "evaluation"),)
    job, again = (job_of(corpus, against=against, retry_rejected=one) for one in (False, True))
    put(job.fragments, job.probe)
    put(job.references, job.reference_probe)
    begin_record(job)
    end(job)
    assert is_settled(job) and is_settled(again)
    for spec, fragments in ((job.probe, job.fragments), (job.reference_probe, job.references)):
        overwrite(spec.table_uri, run_id=spec.settings.run_id)
        put(fragments, spec, rejected={0: "TIMEOUT"})
        assert is_settled(job) and not is_settled(again)
        overwrite(spec.table_uri, run_id=spec.settings.run_id)
        put(fragments, spec)
    assert is_settled(again)
    empty = {**dict.fromkeys(SHARD.names), "metadata": "{}", "images": [], "image_uris": []}
    row = {**empty, "uid": "u", "uri": "u", "fragment_id": "s", "run_id": job.shard.settings.run_id}
    rejected = pa.Table.from_pylist([row | {"status": "rejected", "error": "NOT_FOUND"}], schema=SHARD)
    place: dict[str, Any] = {"table_uri": job.table("shards"), "run_id": job.shard.settings.run_id}
    commit(receipts=[write_fragment(rejected, SHARD, fragment_id="s", **place)], schema=SHARD, **place)
    end(job, counts={"TOO_SMALL": 2, "kept": 1})
    assert is_settled(job) and not is_settled(again)


def test_other_runs_leave_only_once_the_rows_add_up(corpus: Path) -> None:
    job = job_of(corpus, overwrite=True)
    old = job_of(corpus, quality="aesthetic")
    put(old.fragments, old.probe)
    put(job.fragments, job.probe)
    begin_record(job)
    with pytest.raises(AccountingError):
        end(job, counts={"TOO_SMALL": 2})
    assert other_runs(job) == {old.run_id}
    assert f"run {old.run_id} was taken out (--overwrite); older versions of the table still show it" in end(job)
    assert other_runs(job) == set()
    assert is_settled(job)


@pytest.mark.parametrize(("missing", "word"), [("keep", "pass"), ("drop", "fail")])
def test_what_rows_without_a_measurement_came_to_is_said(corpus: Path, missing: Any, word: str) -> None:
    job = job_of(corpus, rules=RulesConfig(min_clip_score=0.2, missing=missing))
    put(job.fragments, job.probe)
    begin_record(job)
    said = end(job, unmeasured={DropReason.CLIP_SCORE: 2})
    assert said[0] == f"2 rows have no value for CLIP_SCORE, so they {word} it"
