"""Answering from a folder and a file of questions to a table, in this process, on the shared Ray."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars
import pytest
from deltalake import DeltaTable

from pipelines.fragments import make_uid
from pipelines.inference.answer_config import AnswerConfig
from pipelines.inference.flow import run_job
from pipelines.inference.job import freeze
from tests.e2e.caption_cases import BAD, SMALL, corpus_files, use_engine, write_corpus

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

COUNT = 9
LINES: tuple[dict[str, Any], ...] = (
    {"question_id": "dog", "question": "Is there a dog?", "kind": "yes_no"},  # asked of all 12
    {"question_id": 1, "image": "00.png", "question": "Which?", "choices": ["cat", "dog"]},
    {"question_id": 2, "image": "00.png", "question": "<image>\nWhat?"},
    {"question_id": 3, "image": "a/words.png", "question": "What?"},  # not an image
    {"question_id": 4, "image": "gone.png", "question": "What?"},
    {"question_id": 1, "image": "00.png", "question": "Again?"},
    {"question_id": 5, "image": "a/01.jpg", "question": "<image><image>?"},
    {"question_id": 6, "image": "a/01.jpg", "question": ""},
    {"question_id": 7, "image": "a/01.jpg", "question": "Count.", "schema": {"required": ["count"], "type": "object"}},
)


def config(folder: Path, **changes: Any) -> AnswerConfig:
    """A quick run over a folder, with its output beside it."""
    values: dict[str, Any] = {"input": (str(folder),), "output": str(folder.parent / "out"), "max_new_tokens": 3}
    return AnswerConfig(**(values | {"corpus": SMALL} | changes))


def run(settings: AnswerConfig) -> list[str]:
    """Run the job and return what it said."""
    said: list[str] = []
    run_job(settings, said.append)
    return said


def figures(said: list[str]) -> dict[str, int]:
    """The first lines of the closing table."""
    return {
        label.strip(): int(figure) for label, _, figure in (line.rpartition(" ") for line in said[-1].splitlines()[:3])
    }


def write_questions(file: Path, *lines: dict[str, Any]) -> str:
    """Write a file of questions."""
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(file)


def rows_of(output: Path) -> list[dict[str, Any]]:
    """The table's rows; no question of an image is in it twice, and rows of an image are of one fragment."""
    rows: list[dict[str, Any]] = DeltaTable(output).to_pyarrow_table().to_pylist()
    assert max(Counter((row["run_id"], row["uid"], row["question_id"]) for row in rows).values()) == 1
    fragments = {(row["run_id"], row["uid"], row["fragment_id"]) for row in rows}
    assert len(fragments) == len({(run_id, uid) for run_id, uid, _ in fragments})
    return rows


def test_a_file_of_questions_becomes_a_table_and_a_changed_line_its_own_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = write_corpus(tmp_path / "photos", COUNT), tmp_path / "out"
    file = write_questions(tmp_path / "q.jsonl", *LINES)
    settings = config(folder, questions=file)
    job = freeze(settings)
    assert len(job.works) >= 4
    said = run(settings)
    rows = rows_of(output)
    total = len(corpus_files(COUNT)) + len(LINES) - 1
    assert len(rows) == total == job.rows_in
    assert figures(said) == {"rows in": total, "ok": total - 8, "rejected": 8}
    assert "answers/s" in said[-1]

    def name(row: dict[str, Any]) -> str:
        return str(row["uri"]).removeprefix(f"{folder}/").removeprefix(f"{tmp_path}/")

    errors = {(name(row), row["question_id"]): row["error"] for row in rows if row["error"]}
    assert errors == {
        **{(bad, "dog"): reason for bad, (_, reason) in BAD.items()},
        ("a/words.png", "3"): "NOT_IMAGE",
        ("q.jsonl#4", "4"): "UNKNOWN_IMAGE",
        ("q.jsonl#5", "1"): "DUP_KEY",
        ("a/01.jpg", "5"): "TOKEN_MISMATCH",
        ("q.jsonl#7", "6"): "EMPTY_TEXT",
    }
    found = {(name(row), row["question_id"]): row for row in rows}
    first = found["00.png", "1"]
    assert first["uid"] == make_uid(f"{folder}/00.png", "") == found["00.png", "2"]["uid"]
    assert first["prompt"].splitlines()[:3] == ["Which?", "A. cat", "B. dog"]
    assert (found["00.png", "2"]["prompt"], found["00.png", "2"]["answer_valid"]) == ("What?", True)
    assert (found["a/01.jpg", "7"]["answer_valid"], found["a/01.jpg", "7"]["status"]) == (False, "ok")
    assert all(row["num_output_tokens"] >= 1 for row in rows if row["status"] == "ok")
    assert (output / "gallery.html").read_text().count("<figure>") == total - len(errors)
    (record,) = (output / "_run").glob("*.json")
    assert json.loads(record.read_text())["job"] == "answer_corpus"
    assert "nothing was missing" in run(settings)[-1]

    # what the model makes of a question has been seen
    use_engine(monkeypatch)
    version = DeltaTable(output).version()
    write_questions(tmp_path / "q.jsonl", *LINES[:4], *LINES[5:8], {**LINES[8], "question": "Count again."})
    said = run(settings)
    again = {(name(row), row["question_id"]): row for row in rows_of(output)}
    assert len(again) == total - 1
    assert ("q.jsonl#4", "1") in again  # the line moved up
    assert again["a/01.jpg", "7"]["question"] == "Count again."
    assert "were taken out" in said[-2]
    kept = {row["fragment_id"] for row in rows} & {row["fragment_id"] for row in again.values()}
    assert len(kept) >= len(job.works) - 2
    assert DeltaTable(output).version() > version


def test_a_column_of_the_corpus_asks_as_often_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_engine(monkeypatch)
    write_corpus(tmp_path / "photos", 3)
    records = [
        {"image": "photos/00.png", "vqa": '["Who?", "Why?"]', "ocr": "STOP"},
        {"image": ["photos/00.png", "photos/a/01.jpg"], "vqa": "<image><image>Same?", "ocr": "GO"},
        {"image": "photos/00.png", "ocr": "?"},
        {"image": "photos/gone.png", "vqa": "Who?", "ocr": "?"},
    ]
    source = write_questions(tmp_path / "rows.jsonl", *records)
    settings = config(
        tmp_path / "photos", input=(source,), question_column="vqa", answer_kind="short", prompt="{ocr} {question}"
    )
    said = run(settings)
    assert "at least 4 rows" in said[1]
    assert figures(said) == {"rows in": 5, "ok": 3, "rejected": 2}
    suffix = "\nAnswer the question using a single word or phrase."
    found = [
        (row["uri"].rpartition("#")[2], row["question_id"], row["prompt"], row["num_images"], row["error"])
        for row in sorted(rows_of(tmp_path / "out"), key=lambda row: (row["uri"], row["question_id"]))
    ]
    assert found == [
        ("0", "0", f"STOP Who?{suffix}", 1, None),
        ("0", "1", f"STOP Why?{suffix}", 1, None),
        ("1", "0", f"GO Same?{suffix}", 2, None),
        ("2", "", None, None, "NULL_FIELD"),
        ("3", "", None, None, "NOT_FOUND"),
    ]
    again = run(settings)
    assert "nothing was missing" in again[-1]
    assert figures(again) == figures(said)


def test_questions_of_the_command_line_are_runs_of_their_own_and_can_be_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_engine(monkeypatch)
    folder, output = write_corpus(tmp_path / "photos", 2), tmp_path / "out"
    settings = config(folder, question=("Who?", "Is it?"), answer_kind="yes_no")
    said = run(config(folder, question=("Who?", "Is it?"), answer_kind="yes_no", plan=True))
    lines = dict(line.split(maxsplit=1) for line in said[-1].splitlines())
    assert float(lines["answers/s"]) > 0
    assert "10 in " in said[-1]  # 2 photos and 3 broken files, 2 questions each
    assert not output.exists()
    run(settings)
    run(config(folder, question=("Why?",)))
    frame = polars.read_delta(str(output)).group_by("run_id", "status").len().sort("len")
    assert frame["len"].to_list() == [2, 3, 4, 6]
