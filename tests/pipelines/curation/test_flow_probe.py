"""How the probe brings `scores` to a corpus: what is committed when, and what leaves the table."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipelines.corpus_settings import CorpusSettings
from pipelines.curation import flow
from pipelines.curation.config import CurateConfig
from pipelines.curation.job import CurateJob, freeze
from pipelines.curation.probe_stage import ProbeSpec
from pipelines.fragments import Fragment
from pipelines.parts import Receipt, write_fragment
from pipelines.progress import Progress
from pipelines.runtime import Node
from schemas.score import SCORE
from tests.pipelines.curation.pictures import encoded, scene
from tests.pipelines.curation.score_cases import probed


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three images."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(encoded(scene(number)))
    return folder


def config(folder: Path, **changes: Any) -> CurateConfig:
    """Of a job over the corpus."""
    return CurateConfig(**({"input": (str(folder),), "output": str(folder.parent / "out")} | changes))


def test_commits_take_a_share_of_the_time_however_long_one_is(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt comes each second; a commit takes none, then 2 seconds, and in the end 0.5."""
    clock, long = [100.0], [0.0, 2.0, 0.5, 0.0, 0.0]
    made: list[list[str]] = []

    def commit(uri: str, group: list[Receipt], **named: Any) -> None:
        clock[0] += long[len(made)]
        made.append([receipt.fragment_id for receipt in group])

    def each_second() -> Iterator[Receipt]:
        for number in range(31):
            clock[0] += 1.0
            yield Receipt(fragment_id=f"f{number}", run_id="r", files=(), ok=1, rejected={})

    job = freeze(config(corpus))
    monkeypatch.setattr("pipelines.tables.commit", commit)
    monkeypatch.setattr(flow, "watched", lambda found, **_: found)
    monkeypatch.setattr(flow, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    flow.collect(each_second(), job.probe, Progress(31, quiet=True), job.config)
    assert [len(group) for group in made] == [2, 2, 20, 5, 2]
    assert [name for group in made for name in group] == [f"f{number}" for number in range(31)]


@pytest.mark.parametrize("compacted", [False, True])
def test_rows_of_files_that_changed_or_went_leave_a_table_that_was_compacted(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, compacted: bool
) -> None:
    """Of three images and a table of two rows one image goes, one changes, and the table gets a row more."""

    def stream(fragments: list[Fragment], spec: ProbeSpec, *_: Any) -> Iterator[Receipt]:
        place = {"table_uri": spec.table_uri, "run_id": spec.settings.run_id}
        for one in fragments:
            yield write_fragment(probed(one, spec.settings.run_id), SCORE, fragment_id=one.fragment_id, **place)

    monkeypatch.setattr(flow, "stream_probed", stream)
    more = corpus.parent / "more.parquet"
    settings = config(corpus, input=(str(corpus), str(more)), corpus=CorpusSettings(rows_per_fragment=1))
    said: list[str] = []

    def bring(rows: int) -> CurateJob:
        pq.write_table(pa.table({"image": [encoded(scene(9 + row)) for row in range(rows)]}), more)
        job = freeze(settings)
        flow.probe(job.fragments, job.probe, [Node(cpus=2)], settings, said.append)
        return job

    before = bring(2)
    if compacted:
        DeltaTable(before.probe.table_uri).optimize.compact()
    (corpus / "0.jpg").unlink()
    (corpus / "1.jpg").write_bytes(encoded(scene(7)))
    after = bring(3)
    gone = {one.fragment_id for one in before.fragments} - {one.fragment_id for one in after.fragments}
    assert len(gone) == 2 + sum(one.kind == "parquet" for one in before.fragments)
    assert said[-1] == f"probe: {len(gone)} fragment(s) of files that changed or went were taken out"
    uids = DeltaTable(after.probe.table_uri).to_pyarrow_table(columns=["uid"])["uid"].to_pylist()
    assert sorted(uids) == sorted(one.row_uid(row) for one in after.fragments for row in range(one.num_rows))
    assert len(uids) == 5
    count = len(said)
    flow.probe(after.fragments, after.probe, [Node(cpus=2)], settings, said.append)
    assert len(said) == count, "nothing is left to do"
