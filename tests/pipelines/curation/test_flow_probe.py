"""How the probe brings `scores` to a corpus: what is committed when, and what leaves the table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipelines.corpus_settings import CorpusSettings
from pipelines.curation import flow
from pipelines.curation.job import CurateJob, freeze
from pipelines.curation.probe_stage import ProbeSpec
from pipelines.fragments import Fragment
from pipelines.parts import Receipt, write_fragment
from pipelines.runtime import Node
from schemas.score import SCORE
from tests.pipelines.curation.job_cases import config, three_images
from tests.pipelines.curation.pictures import encoded, scene
from tests.pipelines.curation.score_cases import probed


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three images."""
    return three_images(tmp_path)


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
