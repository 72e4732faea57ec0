"""`--retry-rejected`: rejected rows are made again, whatever they are called and however many come of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import tables
from pipelines.corpus import read_fragment
from pipelines.corpus_settings import CorpusColumns
from pipelines.fragments import rejected_row
from pipelines.inference import flow
from pipelines.inference.answer_config import AnswerConfig
from pipelines.inference.config import CaptionConfig, InferenceConfig
from pipelines.inference.job import freeze, missing_works
from pipelines.inference.retry import rejected_works
from pipelines.inference.rows import generate_rows
from pipelines.parts import write_fragment
from tests.pipelines.inference.fakes import FakeDecoder, photo
from tests.pipelines.inference.test_answer import ScriptedEngine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two records of two questions each; the image of the second is not there yet."""
    lines = [{"image": f"{name}.png", "key": f"key-{name}", "asks": json.dumps(["Who?", "Why?"])} for name in "ab"]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "a.png").write_bytes(photo(20, 30))
    return tmp_path


def answering(folder: Path) -> AnswerConfig:
    """A config of answering the questions that the records bring along."""
    return AnswerConfig(input=(str(folder / "rows.jsonl"),), output=str(folder / "out"), question_column="asks")


def make(config: InferenceConfig, *, again: bool = False, given_up: bool = False) -> None:
    """Make what is missing, or the rejected rows again, with an engine that repeats the question."""
    job = freeze(config)
    spec = job.spec
    sent = rejected_works(job) if again else missing_works(job)
    receipts = []
    for work in sent:
        rows: Any = read_fragment(work.fragment, settings=spec.corpus, columns=spec.columns)
        if given_up:
            rows = [rejected_row(work.fragment, at, "DECODER_CRASH", None) for at in range(work.fragment.num_rows)]
        made = generate_rows(rows, ScriptedEngine(), FakeDecoder(), spec.settings, spec.inquiry, work)
        place: dict[str, Any] = {"table_uri": spec.table_uri, "fragment_id": work.work_id, "run_id": job.run_id}
        receipts.append(write_fragment(made, spec.inquiry.schema, **place))
    flow.collect(receipts, job, sent, 60.0)


def found(config: InferenceConfig, *columns: str) -> list[tuple[Any, ...]]:
    """The table's rows, sorted."""
    table = tables.open_table(config.output)
    assert table is not None
    rows = tables.dataset(table).to_table(columns=list(columns)).to_pylist()
    return sorted((tuple(row.values()) for row in rows), key=repr)


def test_a_row_that_can_be_read_now_brings_all_its_questions(folder: Path) -> None:
    config = answering(folder)
    make(config)
    asked = ("question_id", "error", "text")
    assert found(config, *asked) == [("", "NOT_FOUND", None), ("0", None, "Who?"), ("1", None, "Why?")]
    (folder / "b.png").write_bytes(photo(30, 20))
    make(config, again=True)
    assert found(config, *asked) == [("0", None, "Who?"), ("0", None, "Who?"), ("1", None, "Why?"), ("1", None, "Why?")]
    make(config, again=True)
    assert len(found(config, "uid")) == 4


def test_questions_of_a_row_that_can_no_longer_be_read_stay_as_many(folder: Path) -> None:
    config = answering(folder)
    (folder / "b.png").write_bytes(b"bad")
    make(config)
    rejected = [("0", "CORRUPT"), ("0", None), ("1", "CORRUPT"), ("1", None)]
    assert found(config, "question_id", "error") == rejected
    (folder / "b.png").unlink()
    make(config, again=True)
    assert found(config, "question_id", "error") == [(one, error and "NOT_FOUND") for one, error in rejected]
    (folder / "b.png").write_bytes(photo(30, 20))
    make(config, again=True)
    assert found(config, "question_id", "error") == [("0", None), ("0", None), ("1", None), ("1", None)]


def test_rows_that_nobody_read_are_found_by_their_place(folder: Path) -> None:
    (folder / "b.png").write_bytes(photo(30, 20))
    place = {"input": (str(folder / "rows.jsonl"),), "output": str(folder / "out")}
    config = CaptionConfig(**place, columns=CorpusColumns(uid="key"))  # type: ignore[arg-type]
    make(config, given_up=True)
    assert [error for _, error in found(config, "uid", "error")] == ["DECODER_CRASH"] * 2
    make(config, again=True)
    assert found(config, "uid", "error") == [("key-a", None), ("key-b", None)]


def test_of_rows_with_one_uid_those_that_are_fine_stay_as_they_are(folder: Path) -> None:
    """Of three records "42" one can be read; with it a record of its own name, which cannot."""
    names = (("b", "42"), ("a", "42"), ("b", "7"), ("b", "42"))
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({"image": f"{one}.png", "key": key}) for one, key in names))
    place = {"input": (str(folder / "rows.jsonl"),), "output": str(folder / "out")}
    config = CaptionConfig(**place, columns=CorpusColumns(uid="key"))  # type: ignore[arg-type]
    make(config)
    asked = ("uri", "uid", "error")
    rows = str(folder / "rows.jsonl")
    before = [(f"{rows}#{at}", key, None if one == "a" else "NOT_FOUND") for at, (one, key) in enumerate(names)]
    assert found(config, *asked) == before
    make(config, again=True)
    assert found(config, *asked) == before
    (folder / "b.png").write_bytes(photo(30, 20))
    make(config, again=True)
    assert found(config, *asked) == [(uri, key, None) for uri, key, _ in before]
