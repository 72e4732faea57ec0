"""Questions read from records, columns and files; whatever is wrong with one is said of that one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from llava_core.errors import ConfigError
from pipelines.corpus_sources import local_ref
from pipelines.fragments import CorpusRefused, InputChanged
from pipelines.inference import questions
from pipelines.inference.forms import Form
from pipelines.inference.questions import Question, column_questions, make_question, read_line, read_lines
from pipelines.reasons import ROW_REASONS
from tests.pipelines.inference.fakes import corpus_row

DEFAULT = Form(kind="choice", choices=("x", "y"))


def test_a_record_with_everything() -> None:
    record = {
        "question_id": 7,
        "question": "Whi\u202ech?",
        "choices": ["a", "b\x00"],
        "ocr": "STOP",
        "box": [1],
        "n": 2,
    }
    assert make_question(record, None, Form()) == Question(
        question_id="7",
        text="Which?",
        form=Form(kind="choice", choices=("a", "b")),
        columns='{"n":2,"ocr":"STOP"}',
    )


def test_the_form_is_the_record_s_own_or_the_default() -> None:
    def form(**record: Any) -> Form:
        return make_question({"question": "?", **record}, "0", DEFAULT).form

    assert form() == DEFAULT
    assert form(kind="yes_no") == Form(kind="yes_no")
    assert form(kind="choice") == DEFAULT
    assert form(choices=["p", "q"]) == Form(kind="choice", choices=("p", "q"))
    assert form(schema={"type": "object", "a": 1}) == Form(kind="json", schema='{"a":1,"type":"object"}')


def test_the_question_of_llava_s_files_is_called_text_and_text_alone_is_one() -> None:
    assert make_question({"text": "Why?", "question_id": "q"}, None, Form()).text == "Why?"
    assert make_question("Why?", "5", Form()) == Question(question_id="5", text="Why?")


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        ({"question_id": 1}, "EMPTY_TEXT", "nothing"),
        ({"question_id": 1, "question": " \u200b\n"}, "EMPTY_TEXT", "nothing"),
        ({"question_id": 1, "question": 5}, "SCHEMA", "question is int"),
        ({"question": "?"}, "SCHEMA", "question_id is None"),
        ({"question_id": True, "question": "?"}, "SCHEMA", "question_id is True"),
        ({"question_id": "", "question": "?"}, "SCHEMA", "question_id is ''"),
        ({"question_id": 1, "question": "?", "kind": "essay"}, "SCHEMA", "expected one of open, short"),
        ({"question_id": 1, "question": "?", "kind": ["open"]}, "SCHEMA", "expected one of open, short"),
        ({"question_id": 1, "question": "?", "choices": "ab"}, "SCHEMA", "not a list of texts"),
        ({"question_id": 1, "question": "?", "choices": ["a", 1]}, "SCHEMA", "not a list of texts"),
        ({"question_id": 1, "question": "?", "choices": ["a"]}, "SCHEMA", "expected 2 to 26"),
        ({"question_id": 1, "question": "?", "kind": "json"}, "SCHEMA", "without a schema"),
        ({"question_id": 1, "question": "?", "schema": {"type": 5}}, "SCHEMA", "not a JSON schema"),
        ({"question_id": 1, "question": "?" * 1_000_001}, "TOO_LONG", "1000001 bytes"),
        (["?"], "SCHEMA", "a question is list"),
        (None, "SCHEMA", "a question is NoneType"),
    ],
)
def test_each_fault_of_a_record_has_its_reason(record: object, reason: str, detail: str) -> None:
    with pytest.raises(CorpusRefused) as caught:
        make_question(record, None, Form())
    assert caught.value.reason == reason
    assert detail in caught.value.detail
    assert reason in ROW_REASONS


def test_a_question_survives_the_way_to_a_worker() -> None:
    question = make_question({"question_id": "a", "question": "?", "choices": ["p", "q"], "n": 1}, None, Form())
    assert Question.from_json(json.loads(json.dumps(dataclasses.asdict(question)))) == question


def test_each_human_turn_is_a_question() -> None:
    turns = [("system", "Be kind."), ("human", "<image>\nWho?"), ("gpt", "Ann."), ("human", "Why?")]
    row = corpus_row(1, conversations=json.dumps([{"from": who, "value": what} for who, what in turns]))
    found = column_questions(row, "conversations", Form(kind="short"))
    assert [(one.question_id, one.text, one.form.kind) for one in found] == [
        ("0", "<image>\nWho?", "short"),
        ("1", "Why?", "short"),
    ]


def test_a_text_column_is_one_question_or_a_json_list_of_them() -> None:
    assert [one.text for one in column_questions(corpus_row(1, text="Who?"), "text", Form())] == ["Who?"]
    assert [one.text for one in column_questions(corpus_row(1, text="[vqa] Who?"), "text", Form())] == ["[vqa] Who?"]
    listed = '["Who?", {"question_id": "w", "question": "Which?", "choices": ["a", "b"]}, "Why?"]'
    row = corpus_row(1, metadata=json.dumps({"vqa": listed, "n": 3}))
    found = column_questions(row, "vqa", Form())
    assert [(one.question_id, one.form.kind) for one in found] == [("0", "open"), ("w", "choice"), ("2", "open")]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "NULL_FIELD"),
        ("  ", "NULL_FIELD"),
        ("[]", "NULL_FIELD"),
        (3, "SCHEMA"),
        ('["a", 1]', "SCHEMA"),
        ('["oh', "BAD_JSON"),
        ('["a", ""]', "EMPTY_TEXT"),
        ('[{"question_id": 1, "question": "a"}, {"question_id": "1", "question": "b"}]', "DUP_KEY"),
    ],
)
def test_a_row_whose_column_holds_no_questions_is_refused_as_one(value: object, reason: str) -> None:
    with pytest.raises(CorpusRefused) as caught:
        column_questions(corpus_row(1, metadata=json.dumps({"vqa": value})), "vqa", Form())
    assert caught.value.reason == reason


def test_a_file_is_read_line_by_line_blank_ones_not_counted(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_bytes(
        b'{"question_id": 1, "question": "A?", "image": "a.jpg"}\n\n'
        b'{"question_id": 2, "question": ""}\r\n'
        b"not json\n"
        b'{"question_id": 3, "question": "B?", "uid": "u"}\n'
        b'{"question_id": 4, "question": "C?"}'
    )
    lines = list(read_lines(local_ref(str(file), file.stat()), Form()))
    assert [(one.number, one.question.question_id, one.binding, one.error) for one in lines] == [
        (0, "1", ("image", "a.jpg"), None),
        (1, "2", None, "EMPTY_TEXT"),
        (2, "", None, "BAD_JSON"),
        (3, "3", ("uid", "u"), None),
        (4, "4", None, None),
    ]


@pytest.mark.parametrize(
    ("extra", "detail"),
    [
        ({"image": "a", "uri": "b"}, "expected one of them"),
        ({"image": ["a", "b"]}, "give the file as --input"),
        ({"uid": 5}, "expected one of them"),
        ({"image": ""}, "expected one of them"),
    ],
)
def test_a_question_names_one_image_by_one_name(extra: dict[str, object], detail: str) -> None:
    line = read_line(3, json.dumps({"question_id": "q", "question": "?", **extra}).encode(), Form())
    assert (line.error, line.question.question_id) == ("SCHEMA", "q")
    assert detail in (line.error_detail or "")


@pytest.mark.parametrize(("data", "reason"), [(b"[1]", "BAD_JSON"), (b'{"a": "\xff"}', "BAD_ENCODING")])
def test_a_line_that_is_no_object(data: bytes, reason: str) -> None:
    assert read_line(0, data, Form()).error == reason


def test_files_that_changed_or_are_too_large_stop_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "q.jsonl"
    file.write_bytes(b"{}\n")
    ref = local_ref(str(file), file.stat())
    monkeypatch.setattr(questions, "MAX_FILE_BYTES", 2)
    with pytest.raises(ConfigError, match="at most 2 are read: split it"):
        list(read_lines(ref, Form()))
    monkeypatch.undo()
    file.write_bytes(b"{}\n\n")
    with pytest.raises(InputChanged):
        list(read_lines(ref, Form()))
