"""`--retry-rejected`: rejected rows are probed again and take their own place; the rows beside them are not touched."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.curation import flow, probe_stage
from pipelines.curation.config import CurateConfig
from pipelines.curation.job import freeze
from pipelines.curation.retry import rejected_rows
from pipelines.parts import Receipt
from pipelines.runtime import Node
from pipelines.sandbox import SandboxSettings
from tests.pipelines.curation.pictures import encoded, scene
from tests.pipelines.curation.score_cases import put
from tests.pipelines.hostile import noting

IMAGES = [encoded(scene(number, width=170 + number)) if number != 3 else b"no image" for number in range(5)]


def in_this_process(
    works: Iterable[Mapping[str, Any]], stage: Any, arguments: Sequence[Any], _: Any
) -> Iterator[Receipt]:
    """What `stages.stream_receipts` does on a cluster."""
    one = stage(*arguments)
    for work in json.loads(json.dumps(list(works))):
        yield one.do(work)
    one.looker.close()


def corpus_of(folder: Path, kind: str) -> Path:
    """The images as a corpus of some kind; records name their rows."""
    (folder / "images").mkdir(parents=True)
    for number, data in enumerate(IMAGES):
        (folder / "images" / f"{number}.jpg").write_bytes(data)
    if kind == "parquet":
        pq.write_table(pa.table({"image": pa.array(IMAGES, pa.binary()), "text": list("abcde")}), folder / "a.parquet")
    if kind == "jsonl":
        records = [{"image": f"images/{number}.jpg", "text": "a", "key": f"key-{number}"} for number in range(5)]
        (folder / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder / {"files": "images", "parquet": "a.parquet", "jsonl": "a.jsonl"}[kind]


@pytest.mark.parametrize("kind", ["files", "parquet", "jsonl"])
def test_rows_that_are_fine_now_take_their_place_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Of five rows the second and the fourth were rejected; the fourth is no image, today neither."""
    monkeypatch.setattr(probe_stage, "stream_receipts", in_this_process)
    columns = CorpusColumns(uid="key") if kind == "jsonl" else CorpusColumns()
    config = CurateConfig(
        input=(str(corpus_of(tmp_path, kind)),),
        output=str(tmp_path / "out"),
        corpus=CorpusSettings(rows_per_fragment=1024),
        columns=columns,
    )
    job = freeze(config)
    (fragment,) = job.fragments
    log = tmp_path / "decoded.txt"
    settings = dataclasses.replace(job.probe.settings, sandbox=SandboxSettings(decoder=noting(log)))
    spec = dataclasses.replace(job.probe, settings=settings)
    put(job.fragments, spec, rejected={1: "TIMEOUT", 3: "MEMORY"})
    assert rejected_rows(job.fragments, spec) == {fragment.fragment_id: [1, 3]}
    assert rejected_rows((), spec) == {}

    said: list[str] = []

    def probe(*, again: bool) -> int:
        changed = dataclasses.replace(config, retry_rejected=again)
        return flow.probe(job.fragments, spec, [Node(cpus=2)], changed, said.append)

    assert probe(again=False) == 0
    assert said == [] and not log.exists()
    assert probe(again=True) == 2
    assert said == ["probe: 2 rejected rows are probed again"]
    assert log.read_text().split() == [sha256(IMAGES[1]).hexdigest()]
    table = DeltaTable(spec.table_uri)
    rows = table.to_pyarrow_table().sort_by("row_index").to_pylist()
    assert [(row["row_index"], row["error"], row["width"]) for row in rows] == [
        (0, None, None),
        (1, None, 171),
        (2, None, None),
        (3, "NOT_IMAGE", None),
        (4, None, None),
    ]
    uids = [fragment.row_uid(index) for index in range(5)]
    named = {1: "key-1", 3: "key-3"} if kind == "jsonl" else {}
    assert [row["uid"] for row in rows] == [named.get(index, uid) for index, uid in enumerate(uids)]
    assert probe(again=True) == 1
    assert DeltaTable(spec.table_uri).version() == table.version(), "the fourth is what it was"


def test_rejected_rows_are_not_taken_over_where_they_are_to_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sixth image makes another fragment of the five."""
    monkeypatch.setattr(probe_stage, "stream_receipts", in_this_process)
    config = CurateConfig(
        input=(str(corpus_of(tmp_path, "files")),),
        output=str(tmp_path / "out"),
        corpus=CorpusSettings(rows_per_fragment=1024),
        retry_rejected=True,
    )
    before = freeze(config)
    flow.note_rows(before.probe.table_uri, before.run_id, before.fragments)
    put(before.fragments, before.probe, rejected={1: "TIMEOUT", 3: "MEMORY"})
    (tmp_path / "images" / "5.jpg").write_bytes(encoded(scene(5)))
    job = freeze(config)
    assert flow.probe(job.fragments, job.probe, [Node(cpus=2)], config, lambda _: None) == 3
    rows = DeltaTable(job.probe.table_uri).to_pyarrow_table().sort_by("row_index").to_pylist()
    assert [(row["error"], row["width"]) for row in rows] == [
        *((None, None), (None, 171), (None, None), ("NOT_IMAGE", None), (None, None), (None, 170))
    ]
