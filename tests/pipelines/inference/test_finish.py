"""What leaves the table when a run ends: fragments of files that changed, and of inputs that another one holds."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llava_core.errors import ConfigError
from pipelines import accounts, tables
from pipelines.inference import finish
from pipelines.inference.answer_config import AnswerConfig
from pipelines.inference.config import CaptionConfig, InferenceConfig
from pipelines.inference.job import freeze, missing_works, note_works, with_known
from pipelines.known_rows import take_over, unknown_rows
from pipelines.parts import write_fragment


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six files in a folder, one beside it; nothing decodes them."""
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    for number in range(6):
        (folder / "a" / f"{number}.jpg").write_text(f"photo {number}")
    (folder / "z.jpg").write_text("another")
    return folder


def captioning(*inputs: Path, **changes: Any) -> CaptionConfig:
    """A config of captioning some inputs into the table beside the corpus."""
    root = next(path.parent for path in (inputs[0], *inputs[0].parents) if path.name == "in")
    return CaptionConfig(input=tuple(map(str, inputs)), output=str(root / "out"), **changes)


def run(config: InferenceConfig) -> tuple[int, int]:
    """Run a job without a model; how many rows it made, and how many fragments it took out."""
    job = freeze(config)
    spec = job.spec
    place: dict[str, Any] = {"table_uri": spec.table_uri, "run_id": job.run_id}
    stale = finish.stale_fragments(job)
    missing = with_known(job, missing_works(job))
    finish.begin_record(job, config)
    note_works(job)
    receipts, made = [], 0
    for work in missing:
        part, places = unknown_rows(work.fragment, work.known)
        rows = [
            {
                "uid": work.fragment.row_uid(places[index]),
                "uri": part.row_uri(index),
                "fragment_id": work.work_id,
                "run_id": job.run_id,
                "status": "ok",
                "model": "m",
                "model_revision": "r",
                "prompt": "p",
                "text": "t",
                **({"question_id": "0", "kind": "open"} if "question_id" in spec.inquiry.schema.names else {}),
            }
            for index in range(part.num_rows)
        ]
        made += len(rows)
        table = take_over(work.fragment, work.known, pa.Table.from_pylist(rows, schema=spec.inquiry.schema), **place)
        receipts.append(write_fragment(table, spec.inquiry.schema, fragment_id=work.work_id, **place))
    tables.commit(receipts=receipts, schema=spec.inquiry.schema, **place)
    tables.commit(receipts=(), schema=spec.inquiry.schema, stale=stale, **place)
    accounts.check_accounts(finish.count(job), job.rows_in)
    return made, len(stale)


def rows_of(config: InferenceConfig) -> Counter[str]:
    """Rows of the table by the last two parts of their uri."""
    table = tables.open_table(config.output)
    assert table is not None
    uris = tables.dataset(table).to_table(columns=["uri"])["uri"].to_pylist()
    return Counter("/".join(Path(uri).parts[-2:]) for uri in uris)


A = {f"a/{number}.jpg": 1 for number in range(6)}
ALL = A | {"in/z.jpg": 1}


def test_a_folder_around_an_earlier_input_takes_its_rows_over(corpus: Path) -> None:
    part, whole = captioning(corpus / "a"), captioning(corpus)
    assert run(part) == (6, 0)
    assert rows_of(part) == A
    assert run(whole) == (1, 1)
    assert rows_of(whole) == ALL
    assert run(whole) == (0, 0)


def test_a_part_of_an_earlier_input_is_refused_until_both_are_named(corpus: Path) -> None:
    part, whole = captioning(corpus / "a" / "[0-3].jpg"), captioning(corpus)
    run(whole)
    with pytest.raises(ConfigError, match=rf"rows of {corpus}/a/\[0-3\].jpg from an earlier call for {corpus}, .*both"):
        run(part)
    assert rows_of(whole) == ALL
    both = captioning(corpus / "a" / "[0-3].jpg", corpus)
    assert run(both)[0] == 0
    assert rows_of(both) == ALL


def test_inputs_that_share_nothing_stay_beside_each_other(corpus: Path) -> None:
    run(captioning(corpus / "a"))
    assert run(captioning(corpus / "z.jpg")) == (1, 0)
    assert rows_of(captioning(corpus)) == ALL
    assert run(captioning(corpus / "a")) == (0, 0)


def test_a_container_that_changed_leaves_whatever_input_named_it(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"image": "x.jpg"}\n' * 3)
    assert run(captioning(folder / "rows.jsonl")) == (3, 0)
    (folder / "rows.jsonl").write_text('{"image": "x.jpg"}\n' * 5)
    assert run(captioning(folder)) == (5, 1)
    assert sum(rows_of(captioning(folder)).values()) == 5


def test_work_with_questions_of_its_own_overlaps_too(corpus: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question_id": 1, "question": "Why?"}\n')
    part, whole = (
        AnswerConfig(input=(str(one),), output=str(tmp_path / "out"), questions=str(questions))
        for one in (corpus / "a", corpus)
    )
    assert run(part) == (6, 0)
    assert run(whole) == (7, 1)
    assert rows_of(whole) == ALL


def test_a_limit_that_falls_elsewhere_is_another_run(corpus: Path) -> None:
    one = freeze(captioning(corpus, limit=3))
    assert one.run_id != freeze(captioning(corpus / "a", limit=3)).run_id
    assert one.run_id == freeze(captioning(corpus, limit=3, batch_size=3)).run_id
