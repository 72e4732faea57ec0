"""The whole way from official files to tables and pages, with an answerer in place of a model, and a judge's stub."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llava_core.errors import ConfigError
from pipelines.evaluation.compare import say_comparison
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.flow import Asked, Asking, run_evaluation
from pipelines.evaluation.judge import JudgeError
from pipelines.parts import write_fragment
from pipelines.tables import commit, open_table
from schemas.answer import ANSWER
from tests.pipelines.evaluation.benchmark_cases import WRITERS


def answering(replies: dict[str, str], *, lost: tuple[str, ...] = (), trained: bool = True) -> Any:
    """Stand in for the answering job: writes the answers table as it does; some ids are rejected."""

    def ask(asking: Asking) -> Asked:
        lines = [json.loads(line) for line in Path(asking.questions).read_text().splitlines()]
        rows = [
            {
                "uid": line["uri"],
                "uri": line["uri"],
                "fragment_id": "f",
                "run_id": "r1",
                "status": "rejected" if line["question_id"] in lost else "ok",
                "question_id": line["question_id"],
                "kind": "open",
                "text": None if line["question_id"] in lost else replies.get(line["question_id"], "yes"),
                "model": "stub",
                "model_revision": "0",
                "error": "NOT_FOUND" if line["question_id"] in lost else None,
            }
            for line in lines
        ]
        table = pa.Table.from_pylist(rows, schema=ANSWER)
        receipt = write_fragment(table, ANSWER, table_uri=asking.answers, fragment_id="f", run_id="r1")
        commit(asking.answers, [receipt], run_id="r1", schema=ANSWER)
        return Asked(run_id="r1", trained=trained)

    return ask


def _no_drawing(folder: Path, split: str, count: int) -> None:
    raise AssertionError("nothing is drawn")


def _run(config: EvaluateConfig, ask: Any) -> list[str]:
    said: list[str] = []
    run_evaluation(config, ask, _no_drawing, said.append)
    return said


def _config(tmp_path: Path, name: str, **more: Any) -> EvaluateConfig:
    folder = tmp_path / "data"
    if not folder.exists():
        folder.mkdir()
        WRITERS[name](folder)
    output = str(more.pop("output", tmp_path / "out"))
    return EvaluateConfig(benchmark=(name,), data=(str(folder),), output=output, **more)


def test_scores_submission_page_and_tables_come_out(tmp_path: Path) -> None:
    said = _run(_config(tmp_path, "nlvr"), answering({"test-1-1-0": "<b>No</b>"}))
    assert any("accuracy" in text and "66.7" in text for text in said)
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert found["complete"] and found["main"] == "accuracy"
    assert found["scores"]["accuracy"]["value"] == pytest.approx(200 / 3)
    assert found["replies_without_answer"] == 1
    assert found["settings"]["parser"] == "true/false" and found["settings"]["model revision"] == "0"
    page = (tmp_path / "out/results.html").read_text()
    assert "&lt;b&gt;No" in page and "<b>No</b>" not in page and "data:image/jpeg" in page
    table = open_table(str(tmp_path / "out/nlvr/scores"))
    assert table is not None
    rows = {row["uid"]: row for row in table.to_pyarrow_dataset().to_table().to_pylist()}
    assert {name: row["score"] for name, row in rows.items()} == {
        "test-1-0-0": 1.0, "test-1-0-3": 1.0, "test-1-1-0": 0.0}  # fmt: skip


def test_a_missing_image_makes_the_score_partial(tmp_path: Path) -> None:
    said = _run(_config(tmp_path, "gqa"), answering({}, lost=("21",)))
    assert any("PARTIAL, 1 of 2 items" in text and "NOT_FOUND" in text for text in said)
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert "scores" not in found and found["partial_scores"] and found["items_without"] == {"NOT_FOUND": 1}
    assert not (tmp_path / "out/gqa/submission.json").exists()
    assert "PARTIAL" in (tmp_path / "out/results.html").read_text()


def test_answers_of_a_file_are_scored_without_a_model(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"question_id": 20, "text": "Yes."}\n{"question_id": "21", "answer": "dog"}\n')

    def nobody(asking: Asking) -> Asked:
        raise AssertionError("nobody is asked")

    _run(_config(tmp_path, "gqa", answers=str(answers)), nobody)
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert found["scores"]["accuracy"]["value"] == 100
    assert json.loads((tmp_path / "out/gqa/submission.json").read_text())[0]["questionId"] == "20"
    answers.write_text('{"question_id": 20}\n')
    with pytest.raises(ConfigError, match="line 0 is no object with question_id and text"):
        _run(_config(tmp_path, "gqa", answers=str(answers)), nobody)


@pytest.mark.parametrize("trained", [True, False])
def test_a_model_that_is_not_trained_is_named_on_the_page(tmp_path: Path, trained: bool) -> None:
    _run(_config(tmp_path, "gqa"), answering({"20": "yes", "21": "dog"}, trained=trained))
    page = (tmp_path / "out/results.html").read_text()
    settings = json.loads((tmp_path / "out/results.json").read_text())["results"][0]["settings"]
    assert ("The model is not trained: its weights are random" in page, "model is not trained" in settings) == (
        (not trained,) * 2
    )


def test_two_runs_are_compared_from_their_tables(tmp_path: Path) -> None:
    _run(_config(tmp_path, "gqa", output=tmp_path / "a"), answering({"20": "yes", "21": "cat"}))
    _run(_config(tmp_path, "gqa", output=tmp_path / "b"), answering({"20": "yes", "21": "dog"}))
    said: list[str] = []
    pair = (str(tmp_path / "a"), str(tmp_path / "b"))
    say_comparison(EvaluateConfig(compare=pair, output=str(tmp_path / "c")), said.append)
    assert "accuracy 50.0 → 100.0, +50.0" in said[0] and "1 better, 0 worse" in said[0]
    found = json.loads((tmp_path / "c/comparison.json").read_text())["gqa"]
    assert found["flipped"] == [{"item": "21", "first": 0.0, "second": 1.0}]
    with pytest.raises(ConfigError, match="no scored benchmark in common"):
        say_comparison(EvaluateConfig(compare=(pair[0], str(tmp_path)), output=str(tmp_path)), said.append)


class _Stub(BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible endpoint: fails once, then gives reviews."""

    asked: list[dict[str, Any]]
    failures = 1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
            return
        type(self).asked.append(body)
        text = body["messages"][-1]["content"]
        review = ("0.5" if "Rome" in text else "good") if "Correctness" in text else "8 6\nAssistant 1 is better."
        answer = json.dumps({"choices": [{"message": {"content": review}}]}).encode()
        self.send_response(200 if self.path == "/v1/chat/completions" else 404)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def judge() -> Iterator[str]:
    _Stub.asked, _Stub.failures = [], 1
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_llava_bench_is_scored_by_a_judge_whose_reviews_are_kept(tmp_path: Path, judge: str) -> None:
    config = _config(tmp_path, "llava-bench", judge_url=judge)
    for _ in range(2):
        _run(config, answering({"0": "A beach.", "1": "Sand."}))
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert {name: one["value"] for name, one in found["scores"].items()} == {
        "relative score": pytest.approx(75), "reference score": 80, "model score": 60}  # fmt: skip
    assert len(_Stub.asked) == 2
    text = _Stub.asked[0]["messages"][1]["content"]
    assert text.startswith("[Context]\nDiamond Head, Hawaii.\n\n[Question]\n")
    assert "[Assistant 1]\nHawaii.\n\n[End of Assistant 1]" in text or "[Assistant 1]\nA coast." in text


def test_a_review_without_a_score_leaves_its_item_without(tmp_path: Path, judge: str) -> None:
    said = _run(_config(tmp_path, "mmvet", judge_url=judge), answering({}))
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert found["items_without"] == {"NOT_JUDGED": 1}
    assert found["partial_scores"]["score"]["value"] == 50
    assert any("PARTIAL, 1 of 2" in text for text in said)


def test_without_a_judge_the_answers_are_written_and_nothing_is_scored(tmp_path: Path) -> None:
    said = _run(_config(tmp_path, "mmvet"), answering({"v1_0": "x = -1"}))
    assert any("no score: 2 of 2 items answered" in text for text in said)
    assert json.loads((tmp_path / "out/mmvet/submission.json").read_text()) == {"v1_0": "x = -1", "v1_1": "yes"}


def test_a_judge_that_does_not_answer_stops_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.evaluation.judge.time.sleep", lambda seconds: None)
    with pytest.raises(JudgeError, match="reviews so far are kept"):
        _run(_config(tmp_path, "mmvet", judge_url="http://127.0.0.1:9/v1"), answering({}))
    with pytest.raises(ConfigError, match="expected http"):
        _run(_config(tmp_path, "mmvet", judge_url="file:///etc"), answering({}))
