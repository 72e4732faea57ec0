"""Questions in, one row of `answers` for each out, without Ray and without a model."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from llava_core.engine.types import Request, Result
from llava_core.errors import ConfigError
from llava_core.geometry import Size
from pipelines.fragments import CorpusRow
from pipelines.inference.answer import AnswerInquiry
from pipelines.inference.forms import Form, Kind
from pipelines.inference.questions import Question
from pipelines.inference.rows import generate_rows
from pipelines.reasons import ROW_REASONS
from schemas.answer import ANSWER
from tests.pipelines.inference.fakes import FakeDecoder, corpus_row, photo, run_settings, work_of


class ScriptedEngine:
    """Gives each prompt's last line a reply from a script; refuses the image `b"bad"`.

    Args:
        replies: last line of a prompt → reply; the line itself where it is not in it.
    """

    def __init__(self, replies: dict[str, str] | None = None) -> None:
        self.replies = replies or {}
        self.calls: list[list[Request]] = []

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order."""
        self.calls.append(list(requests))
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Result:
        if isinstance(request.images[0], bytes) and request.images[0] == b"bad":
            return Result(request_id=request.request_id, error="CORRUPT", error_detail="bad")
        line = request.prompt.splitlines()[0]
        return Result(
            request_id=request.request_id,
            text=self.replies.get(line, line),
            token_ids=(5, 6, 2),
            finish_reason="stop",
            num_prompt_tokens=len(request.prompt),
            num_image_tokens=11 * len(request.images),
            mean_logprob=-0.25,
            min_logprob=-0.5,
            yes_no_margin=1.5,
            image_sizes=(Size(30, 40),) * len(request.images),
            grids=(Size(2, 1),) * len(request.images),
        )


def question(number: int, *, row: int | None = None, columns: str = "{}", **form: Any) -> Question:
    """A question "Q" and its number."""
    return Question(question_id=f"q{number}", text=f"Q{number}", form=Form(**form), columns=columns, row=row)


def answer(
    rows: Sequence[CorpusRow],
    inquiry: AnswerInquiry,
    engine: ScriptedEngine | None = None,
    asked: Sequence[Question] = (),
) -> pa.Table:
    """What answering makes of rows, with questions of their own."""
    work = work_of(questions=tuple(asked))
    table = generate_rows(rows, engine or ScriptedEngine(), FakeDecoder(), run_settings(chunk_rows=2), inquiry, work)
    assert table.schema == ANSWER
    assert {error for error in table["error"].to_pylist() if error} <= ROW_REASONS
    return table


def everywhere(*questions: Question, prompt: str = "{question}") -> AnswerInquiry:
    """Asks the same of every row."""
    return AnswerInquiry(prompt=prompt, questions=questions)


def test_every_question_of_every_row_is_one_row_in_order_whatever_became_of_it() -> None:
    rows = [
        corpus_row(0),
        corpus_row(1, error="NOT_FOUND", error_detail="gone", images=()),
        corpus_row(2, images=(b"bad",)),
        corpus_row(3, images=()),
    ]
    engine = ScriptedEngine()
    table = answer(rows, everywhere(question(1), question(2)), engine, [question(3, row=2), question(4, row=0)])
    found = [(row["uid"], row["question_id"], row["error"], row["text"]) for row in table.to_pylist()]
    assert found == [
        ("uid0", "q1", None, "Q1"),
        ("uid0", "q2", None, "Q2"),
        ("uid0", "q4", None, "Q4"),
        ("uid1", "q1", "NOT_FOUND", None),
        ("uid1", "q2", "NOT_FOUND", None),
        ("uid2", "q1", "CORRUPT", None),
        ("uid2", "q2", "CORRUPT", None),
        ("uid2", "q3", "CORRUPT", None),
        ("uid3", "q1", "MISSING_PART", None),
        ("uid3", "q2", "MISSING_PART", None),
    ]
    # two rows of the corpus a call; the requests about one image side by side, and of one and the same image
    assert [[one.prompt for one in call] for call in engine.calls] == [["Q1", "Q2", "Q4"], ["Q1", "Q2", "Q3"]]
    assert {one.images for one in engine.calls[0]} == {(b"image 0",)}
    assert [row["question"] for row in table.to_pylist()][:4] == ["Q1", "Q2", "Q4", "Q1"]


def test_rows_that_nobody_asks_about_are_not_looked_at_and_not_in_the_table() -> None:
    inquiry = AnswerInquiry(prompt="{question}", file="/q.jsonl")
    engine = ScriptedEngine()
    rows = [corpus_row(0), corpus_row(1), corpus_row(2, error="EMPTY", images=())]
    assert answer(rows, inquiry, engine, [question(7, row=1)])["uid"].to_pylist() == ["uid1"]
    assert [len(call) for call in engine.calls] == [1, 0]


def test_every_column_of_an_ok_row() -> None:
    inquiry = everywhere(question(1, kind="choice", choices=("no", "maybe")), prompt="{text}\n{question}")
    engine = ScriptedEngine({"A caption": "B"})
    (row,) = answer([corpus_row(3, text="A caption", images=(b"image x", b"image y"))], inquiry, engine).to_pylist()
    prompt = "A caption\nQ1\nA. no\nB. maybe\nAnswer with the option's letter from the given choices directly."
    assert row == {
        "uid": "uid3",
        "uri": "/c/3.jpg",
        "fragment_id": "f1",
        "run_id": "run0",
        "status": "ok",
        "question_id": "q1",
        "kind": "choice",
        "question": "Q1",
        "choices": '["no","maybe"]',
        "prompt": prompt,
        "text": "B",
        "answer": "B",
        "answer_valid": True,
        "answer_detail": None,
        "yes_margin": None,
        "num_images": 2,
        "finish_reason": "stop",
        "num_prompt_tokens": len(prompt),
        "num_image_tokens": 22,
        "num_output_tokens": 3,
        "mean_logprob": -0.25,
        "min_logprob": -0.5,
        "max_tiles": 2,
        "grid_rows": 2,
        "grid_cols": 1,
        "image_height": 30,
        "image_width": 40,
        "model": "tiny",
        "model_revision": "0123456789abcdef",
        "error": None,
        "error_detail": None,
    }


@pytest.mark.parametrize(
    ("kind", "reply", "read", "margin"),
    [
        ("yes_no", "No.", "no", 1.5),
        ("yes_no", "Hm", None, 1.5),
        ("open", "Hm ", "Hm ", None),
        ("short", "Hm.", "Hm", None),
    ],
)
def test_a_reply_that_answers_nothing_is_a_row_that_is_ok(
    kind: Kind, reply: str, read: str | None, margin: float | None
) -> None:
    engine = ScriptedEngine({"Q1": reply})
    (row,) = answer([corpus_row(0)], everywhere(question(1, kind=kind)), engine).to_pylist()
    assert (row["status"], row["text"], row["answer"], row["yes_margin"]) == ("ok", reply, read, margin)
    assert row["answer_valid"] == (read is not None)
    assert (row["answer_detail"] is None) == (read is not None)


def test_json_replies_are_judged_row_by_row() -> None:
    form = {"kind": "json", "schema": '{"type":"array"}'}
    engine = ScriptedEngine({"Q1": "[1,  2]", "Q2": "{}"})
    table = answer([corpus_row(0)], everywhere(question(1, **form), question(2, **form)), engine)
    assert table["answer"].to_pylist() == ["[1,2]", None]
    assert table["answer_valid"].to_pylist() == [True, False]
    assert table["answer_detail"].to_pylist() == [None, "the whole: {} is not of type 'array'"]


def test_prompts_take_columns_of_the_row_then_of_the_question() -> None:
    inquiry = everywhere(question(1, columns='{"n":2,"ocr":"STOP"}'), question(2), prompt="{question} {n} {ocr} {uid}")
    rows = [corpus_row(0, metadata='{"n": 1.5, "ocr": "{n}"}'), corpus_row(1, metadata='{"n": true, "ocr": null}')]
    table = answer(rows, inquiry)
    assert table["prompt"].to_pylist() == ["Q1 2 STOP uid0", "Q2 1.5 {n} uid0", "Q1 2 STOP uid1", None]
    assert table["error"].to_pylist() == [None, None, None, "NULL_FIELD"]
    assert table["error_detail"].to_pylist()[3] == "ocr, which the prompt needs, is empty or missing"


@pytest.mark.parametrize(
    ("text", "images", "prompt", "reason"),
    [
        ("<image>\nWho?", 1, "Who?", None),
        ("Who is <image>", 1, "Who is", None),
        ("<image> <image>\nSame?", 2, "Same?", None),
        ("Same?", 2, "Same?", None),
        ("<image>Same?", 2, None, "TOKEN_MISMATCH"),
        ("<image><image>Who?", 1, None, "TOKEN_MISMATCH"),
        ("Is <image> like <image>?", 2, None, "TOKEN_MISMATCH"),
        ("<image>\n", 1, None, "EMPTY_TEXT"),
    ],
)
def test_places_of_images_are_as_many_as_images(text: str, images: int, prompt: str | None, reason: str | None) -> None:
    inquiry = everywhere(Question(question_id="q", text=text))
    (row,) = answer([corpus_row(0, images=(b"image x",) * images)], inquiry).to_pylist()
    assert (row["prompt"], row["error"], row["question"]) == (prompt, reason, text)


def test_a_column_brings_as_many_rows_as_it_has_questions_and_one_where_it_cannot_be_read() -> None:
    inquiry = AnswerInquiry(prompt="{question}", column="vqa", default=Form(kind="short"))
    rows = [
        corpus_row(0, metadata=json.dumps({"vqa": '["A?", "B?", "C?"]'})),
        corpus_row(1),
        corpus_row(2, error="EMPTY", images=()),
        corpus_row(3, metadata=json.dumps({"vqa": '["A?", ""]'})),
        corpus_row(4, metadata=json.dumps({"vqa": "D?"})),
    ]
    found = [(row["uid"], row["question_id"], row["error"], row["kind"]) for row in answer(rows, inquiry).to_pylist()]
    assert found == [
        ("uid0", "0", None, "short"),
        ("uid0", "1", None, "short"),
        ("uid0", "2", None, "short"),
        ("uid1", "", "NULL_FIELD", "short"),
        ("uid2", "", "EMPTY", "short"),
        ("uid3", "", "EMPTY_TEXT", "short"),
        ("uid4", "0", None, "short"),
    ]


def test_auto_resolution_decodes_an_image_once_for_all_its_questions() -> None:
    pixels = np.zeros((200, 120, 3), np.uint8)
    pixels[:, ::2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    engine = ScriptedEngine()
    rows = [corpus_row(0, images=(file.getvalue(),)), corpus_row(1, images=(photo(40, 50),))]
    inquiry = everywhere(question(1), question(2))
    generate_rows(rows, engine, FakeDecoder(), run_settings(resolution="auto"), inquiry, work_of())
    first, second, third, fourth = engine.calls[0]
    assert first.images[0] is second.images[0]
    assert first.images[0] is not third.images[0]
    assert [one.max_tiles for one in (first, second, third, fourth)] == [None, None, 2, 2]


def test_a_template_is_held_to_what_the_first_rows_have() -> None:
    rows = [corpus_row(0, error="EMPTY"), corpus_row(1, text="t", metadata='{"ocr": "x", "none": null, "vqa": "Who?"}')]
    prompt = "{text} {ocr} {extra} {question}"
    extra = question(1, columns='{"extra":"y"}')
    everywhere(extra, prompt=prompt).check([], lambda: iter(rows))
    AnswerInquiry(prompt=prompt, file="/q").check([work_of(questions=(extra,))], lambda: iter(rows))
    with pytest.raises(ConfigError, match=r"names \{extra\}, which none of the first 1 rows has"):
        everywhere(question(1), prompt="{extra} {question}").check([], lambda: iter(rows))
    # later rows may have what these have not
    everywhere(question(1), prompt="{none} {question}").check([], lambda: iter(rows))
    everywhere(question(1), prompt="{text} {question}").check([], lambda: iter([corpus_row(0)]))
    AnswerInquiry(prompt="{question}", column="none").check([], lambda: iter(rows))
    AnswerInquiry(prompt="{question}", column="vqa").check([], lambda: iter(rows))
    with pytest.raises(ConfigError, match=r"--question-column vqb: .* they have none, ocr, text, uid, uri, vqa"):
        AnswerInquiry(prompt="{question}", column="vqb").check([], lambda: iter(rows))
    # rows that cannot be read say nothing about columns
    AnswerInquiry(prompt="{question}", column="vqb").check([], lambda: iter(rows[:1]))
