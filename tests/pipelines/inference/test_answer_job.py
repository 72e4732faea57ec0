"""What is settled before any cluster work: where questions come from, what the run is called, how many rows it has."""

import json
from pathlib import Path
from typing import Any

import pytest

from llava_core.errors import ConfigError
from pipelines.accounts import Counts
from pipelines.cli import parse
from pipelines.corpus_settings import CorpusColumns
from pipelines.inference.answer_config import AnswerConfig
from pipelines.inference.finish import rows_in
from pipelines.inference.job import InferenceJob, freeze
from pipelines.inference.plan import sample_works
from tests.pipelines.inference.fakes import photo

LINES = (
    {"question_id": 1, "question": "Who?", "image": "0.jpg"},
    {"question_id": 2, "question": "What?", "image": "2.jpg"},
    {"question_id": 3, "question": "Where?", "image": "gone.jpg"},
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three small photos, each with a caption."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(photo(20, 30, seed=number))
        (folder / f"{number}.txt").write_text(f"caption {number}")
    return folder


def write_questions(folder: Path, *lines: dict[str, Any], name: str = "q.jsonl") -> str:
    """Write a file of questions beside a folder."""
    file = folder.parent / name
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(file)


def config(folder: Path, **changes: Any) -> AnswerConfig:
    """A config for a folder, with its output beside it; asks one question unless told otherwise."""
    values = {"input": (str(folder),), "output": str(folder.parent / "out")}
    source = {} if changes.keys() & {"questions", "question", "question_column"} else {"question": ("Who?",)}
    return AnswerConfig(**(values | source | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ()}, "0 sources of questions"),
        ({"question": ("a",), "questions": "q.jsonl"}, "2 sources of questions"),
        ({"prompt": "{text}"}, "no place for {question}"),
        ({"answer_kind": "essay"}, "answer_kind is 'essay'; expected one of 'open'"),
        ({"answer_kind": "choice"}, "choices go with kind 'choice'"),
        ({"choices": ("a",)}, "expected 2 to 26"),
        ({"choices": ("a", "b"), "answer_kind": "open"}, "choices go with kind 'choice'"),
        ({"answer_kind": "json"}, "--schema goes with kind json"),
        ({"schema": "s.json", "answer_kind": "short"}, "--schema goes with kind json"),
        ({"questions": "q.jsonl", "columns": CorpusColumns(uid="id")}, "leave --columns.uid out"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"input": ()}, "input is empty"),
    ],
)
def test_wrong_settings_say_what_was_expected(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **changes)


def test_the_command_line() -> None:
    words = "--input a --output o --question Who? --question Why? --choices x y --limit 4"
    assert parse(AnswerConfig, [*words.split(), "--prompt", "{text} {question}"]) == AnswerConfig(
        input=("a",),
        output="o",
        question=("Who?", "Why?"),
        choices=("x", "y"),
        prompt="{text} {question}",
        limit=4,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "none of its 0 lines is a question"),
        (b"[1]\n{}\n", "none of its 2 lines is a question; line 0: BAD_JSON"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_stops_the_job(corpus: Path, content: bytes | None, message: str) -> None:
    file = corpus.parent / "q.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        freeze(config(corpus, questions=str(file)))


def test_a_folder_is_no_file_of_questions_and_an_empty_question_is_none(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="is 6 files; expected one JSONL file"):
        freeze(config(corpus, questions=str(corpus)))
    with pytest.raises(ConfigError, match="--question: EMPTY_TEXT"):
        freeze(config(corpus, question=("Who?", " ")))


def test_unknown_columns_are_refused_before_any_work(corpus: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"\{txt\}, which none of the first 3 rows has; there are \{question\}, \{text\}"
    ):
        freeze(config(corpus, prompt="{txt} {question}"))
    for caption in corpus.glob("*.txt"):
        caption.unlink()
    freeze(config(corpus, prompt="{text} {question}"))
    with pytest.raises(ConfigError, match="--question-column vqa: the first rows have no such text"):
        freeze(config(corpus, question_column="vqa"))
    freeze(config(corpus, prompt="{text} {question}"))
    assert not (corpus.parent / "out").exists()


def test_a_schema_is_read_from_its_file(corpus: Path) -> None:
    file = corpus.parent / "s.json"
    with pytest.raises(ConfigError, match="--schema"):
        freeze(config(corpus, schema=str(file)))
    file.write_text('{"type": "object"}')
    before = freeze(config(corpus, schema=str(file)))
    assert before.spec.inquiry.identity()["default"]["schema"] == '{"type":"object"}'
    file.write_text('{"type": "array"}')
    assert freeze(config(corpus, schema=str(file))).run_id != before.run_id


def test_rows_are_counted_by_questions(corpus: Path) -> None:
    assert freeze(config(corpus, question=("Who?", "Why?"))).rows_in == 6
    file = write_questions(corpus, *LINES, {"question_id": 4, "question": "All?"})
    job = freeze(config(corpus, questions=file))
    assert (job.rows_in, job.exact) == (2 + 1 + 3, True)
    assert set(job.planned) == {str(corpus), file}
    column = freeze(config(corpus, question_column="text"))
    assert (column.rows_in, column.exact) == (3, False)


def test_rows_that_only_the_corpus_knows_are_those_that_came_of_it(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = freeze(config(corpus, question_column="text"))
    missing: list[Any] = []
    monkeypatch.setattr("pipelines.inference.finish.missing_works", lambda job: missing)
    assert rows_in(job, Counts(ok=7, rejected={"EMPTY": 1})) == 8
    assert rows_in(job, Counts(ok=1, rejected={})) == 3  # each row of the corpus gives one at the least
    missing += job.works
    assert rows_in(job, Counts(ok=7, rejected={})) == 10
    exact = freeze(config(corpus))
    assert rows_in(exact, Counts(ok=7, rejected={})) == 3


def run_ids(folder: Path, *changes: dict[str, Any]) -> list[str]:
    """Names of the runs."""
    return [freeze(config(folder, **change)).run_id for change in changes]


def test_the_run_is_named_by_where_questions_come_from_and_how_they_are_put(corpus: Path) -> None:
    first = write_questions(corpus, *LINES)
    second = write_questions(corpus, *LINES, name="r.jsonl")
    names = run_ids(
        corpus,
        {},
        {"question": ("Why?",)},
        {"question": ("Who?", "Why?")},
        {"answer_kind": "short"},
        {"answer_kind": "yes_no"},
        {"choices": ("a", "b")},
        {"choices": ("b", "a")},
        {"prompt": "So: {question}"},
        {"questions": first},
        {"questions": second},
        {"question_column": "text"},
        {"max_new_tokens": 5},
        {"limit": 2},
    )
    assert len(set(names)) == len(names)
    assert run_ids(corpus, {"batch_size": 3}, {"num_workers": 2}, {"overwrite": True}) == [names[0]] * 3


def work_ids(job: InferenceJob) -> set[str]:
    """Names of a job's work."""
    return {work.work_id for work in job.works}


def test_a_question_that_changes_changes_its_own_work_and_not_the_run(corpus: Path) -> None:
    file = write_questions(corpus, *LINES[:2])
    before = freeze(config(corpus, questions=file))
    write_questions(corpus, LINES[0], {**LINES[1], "question": "Why?"})
    after = freeze(config(corpus, questions=file))
    assert before.run_id == after.run_id
    assert work_ids(before) != work_ids(after)
    # a line that is refused is a fragment of the file; without it the file is still an input, so that it can go stale
    write_questions(corpus, *LINES)
    assert len(freeze(config(corpus, questions=file)).planned[file]) == 1
    assert after.planned[file] == []


def test_a_sample_takes_the_questions_of_its_rows(corpus: Path) -> None:
    job = freeze(config(corpus, question=("Who?", "Why?")))
    assert sum(work.num_rows for work in sample_works(job.works)) == 6
    assert [work.head(1).num_rows for work in job.works] == [2] * len(job.works)
