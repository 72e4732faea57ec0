"""The whole way from official files to tables and pages, with an answerer in place of a model, and a judge's stub."""

import hashlib
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
from pipelines.storage import read_bytes, read_json
from pipelines.tables import commit, open_table
from schemas.answer import ANSWER
from tests.pipelines.evaluation.benchmark_cases import WRITERS
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server  # noqa: F401


def answering(replies: dict[str, str], *, lost: tuple[str, ...] = (), trained: bool = True) -> Any:
    """Stand in for the answering job: writes the answers table as it does; some ids are rejected."""

    def ask(asking: Asking) -> Asked:
        lines = [json.loads(line) for line in read_bytes(asking.questions).splitlines()]
        run_id = hashlib.sha256(repr((asking.questions, replies, lost)).encode()).hexdigest()[:16]
        rows = [
            {
                "uid": line["uri"],
                "uri": line["uri"],
                "fragment_id": "f",
                "run_id": run_id,
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
        receipt = write_fragment(table, ANSWER, table_uri=asking.answers, fragment_id="f", run_id=run_id)
        commit(asking.answers, [receipt], run_id=run_id, schema=ANSWER)
        return Asked(run_id=run_id, trained=trained)

    return ask


def _no_drawing(folder: Path, split: str, count: int) -> None:
    raise AssertionError("nothing is drawn")


def _run(config: EvaluateConfig, ask: Any) -> list[str]:
    said: list[str] = []
    run_evaluation(config, ask, _no_drawing, said.append)
    return said


def _config(tmp_path: Path, name: str, **more: Any) -> EvaluateConfig:
    folder = tmp_path / str(more.pop("data", "data"))
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
    assert len(rows) == 18
    assert {name for name, row in rows.items() if row["score"] == 0.0} == {f"test-1-1-{order}" for order in range(6)}


def test_a_missing_image_makes_the_score_partial(tmp_path: Path) -> None:
    said = _run(_config(tmp_path, "gqa"), answering({}, lost=("21",)))
    assert any("PARTIAL, 1 of 2 items" in text and "NOT_FOUND" in text for text in said)
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert "scores" not in found and found["partial_scores"] and found["items_without"] == {"NOT_FOUND": 1}
    assert not (tmp_path / "out/gqa/submission").exists()
    assert "PARTIAL" in (tmp_path / "out/results.html").read_text()


def test_answers_of_a_file_are_scored_without_a_model(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"question_id": 20, "text": "Yes."}\n{"question_id": "21", "answer": "dog"}\n')

    def nobody(asking: Asking) -> Asked:
        raise AssertionError("nobody is asked")

    _run(_config(tmp_path, "gqa", answers=str(answers)), nobody)
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert found["scores"]["accuracy"]["value"] == 100
    assert json.loads((tmp_path / "out/gqa/submission/submission.json").read_text())[0]["questionId"] == "20"
    answers.write_text('{"question_id": 20}\n')
    with pytest.raises(ConfigError, match="line 0 is no object with question_id and text"):
        _run(_config(tmp_path, "gqa", answers=str(answers)), nobody)
    answers.write_text('{"question_id": 20, "text": "Yes."}\n{"question_id": 21, "text": 7}\n')
    with pytest.raises(ConfigError, match="line 1 has int for its text"):
        _run(_config(tmp_path, "gqa", answers=str(answers)), nobody)


def test_an_answer_that_is_null_is_none(tmp_path: Path) -> None:
    """Question 9 of VQAv2 is how many, and VQA's rules read the word "none" as 0."""
    answers = tmp_path / "answers.jsonl"
    said = {7: "yes", 9: None, 8: "red"}
    answers.write_text("".join(json.dumps({"question_id": key, "text": text}) + "\n" for key, text in said.items()))
    _run(_config(tmp_path, "vqav2", answers=str(answers)), answering({}))
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert not found["complete"] and found["items_without"] == {"NOT_ANSWERED": 1}
    table = open_table(str(tmp_path / "out/vqav2/scores"))
    assert table is not None
    rows = {row["uid"]: row for row in table.to_pyarrow_dataset().to_table().to_pylist()}
    assert (rows["9"]["status"], rows["9"]["reply"], rows["9"]["error_detail"]) == (
        "rejected",
        None,
        "its text is null",
    )


def test_another_limit_leaves_the_files_of_earlier_calls_as_they_are(tmp_path: Path) -> None:
    """A run is bound to its files, their times too: one that was written again would be another corpus."""
    asked: list[Asking] = []

    def ask(asking: Asking) -> Asked:
        asked.append(asking)
        found: Asked = answering({})(asking)
        return found

    def stamps(asking: Asking) -> list[int]:
        return [Path(uri).stat().st_mtime_ns for uri in (asking.images, asking.questions)]

    _run(_config(tmp_path, "gqa"), ask)
    before = stamps(asked[0])
    _run(_config(tmp_path, "gqa", limit=1), ask)
    _run(_config(tmp_path, "gqa"), ask)
    whole, cut, again = asked
    assert whole == again and stamps(whole) == before
    assert {cut.images, cut.questions}.isdisjoint((whole.images, whole.questions)) and cut.answers == whole.answers
    assert [len(read_bytes(one.questions).splitlines()) for one in asked] == [2, 1, 2]
    # the prompts of the questions alone: the images are the same
    asked.clear()
    WRITERS["textvqa"](tmp_path / "data")
    for more in ({}, {"ocr_tokens": True}):
        _run(_config(tmp_path, "textvqa", **more), ask)
    assert asked[0].images == asked[1].images and asked[0].questions != asked[1].questions


def test_a_limit_takes_from_a_file_of_answers_to_all_what_it_asks_for(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    said = {"20": "yes", "21": "dog", "22": "?"}
    answers.write_text("".join(json.dumps({"question_id": key, "text": text}) + "\n" for key, text in said.items()))
    _run(_config(tmp_path, "gqa", answers=str(answers), limit=1), answering({}))
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert found["partial_scores"]["accuracy"]["value"] == 100 and found["items_scored"] == 1
    assert found["trouble"] == {"answers to ids that are no item's: 1": "'22'"}
    answers.write_text('{"question_id": 21, "text": "dog"}\n')
    _run(_config(tmp_path, "gqa", answers=str(answers), limit=1), answering({}))
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert found["items_without"] == {"NOT_ANSWERED": 1}


def test_the_submission_of_an_earlier_call_does_not_stay_beside_other_scores(tmp_path: Path) -> None:
    folder = tmp_path / "out/pope/submission"
    _run(_config(tmp_path, "pope"), answering({}))
    assert {path.name for path in folder.iterdir()} == {
        f"answers_{kind}.jsonl" for kind in ("random", "popular", "adversarial")}  # fmt: skip
    _run(_config(tmp_path, "pope"), answering({}, lost=("random/3",)))
    assert not folder.exists()
    assert json.loads((tmp_path / "out/pope/results.json").read_text())["items_scored"] == 11


def test_what_a_submission_needs_is_missed_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.evaluation.submissions.find_spec", lambda name: None)
    asked: list[Asking] = []
    with pytest.raises(ConfigError, match=r"xlsx files: pip install .*evaluate"):
        _run(_config(tmp_path, "mmbench"), asked.append)
    assert not asked
    _run(_config(tmp_path, "gqa", data="other"), answering({}))


@pytest.fixture
def store(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    """A folder of a store, whose keys are in the environment."""
    for name, value in s3_bucket.delta_options.items():
        monkeypatch.setenv(name, value)
    return f"{s3_bucket.uri}/evaluated"


def test_an_output_in_a_store_holds_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, judge: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    asked: list[Asking] = []
    drawn: list[int] = []

    def ask(asking: Asking) -> Asked:
        asked.append(asking)
        found: Asked = answering({})(asking)
        return found

    def draw(folder: Path, split: str, count: int) -> None:
        drawn.append(count)
        WRITERS["drawn"](folder)

    for _ in range(2):
        run_evaluation(EvaluateConfig(output=store, num_drawings=3), ask, draw, print)
    assert drawn == [3] and asked[0] == asked[1]
    assert asked[0].image_root == f"{store}/drawings/held_out-3"
    assert asked[0].images.startswith(f"{store}/drawn/images-") and asked[0].answers == f"{store}/drawn/answers"
    assert len(read_bytes(f"{store}/drawings/held_out-3/images/2.png")) > 50
    assert b"data:image/jpeg" in read_bytes(f"{store}/results.html")
    for lost in ((), ("1",)):
        _run(_config(tmp_path, "llava-bench", output=store, judge_url=judge), answering({}, lost=lost))
    assert len(_Stub.asked) == 2
    assert read_json(f"{store}/llava-bench/results.json")["items_scored"] == 1
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{store}/llava-bench/submission/answers.jsonl")
    assert list((tmp_path / "here").iterdir()) == []


def test_an_output_below_the_home_folder_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    _run(_config(tmp_path, "gqa", output="~/out"), answering({}))
    assert {path.name.partition("-")[0] for path in (tmp_path / "home/out/gqa").iterdir()} == {
        "answers", "images", "questions", "results.json", "scores", "submission"}  # fmt: skip


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
    refused: str | None = None
    """What stands in requests that are refused."""
    code = 400

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
            return
        type(self).asked.append(body)
        text = body["messages"][-1]["content"]
        if type(self).refused is not None and type(self).refused in text and self.code != 200:
            self.send_error(self.code)
            return
        review = ("0.5" if "Rome" in text else "good") if "Correctness" in text else "8 6\nAssistant 1 is better."
        if type(self).refused is not None and type(self).refused in text:
            review = None  # as content filters answer, too
        answer = json.dumps({"choices": [{"message": {"content": review}}]}).encode()
        self.send_response(200 if self.path == "/v1/chat/completions" else 404)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def judge() -> Iterator[str]:
    _Stub.asked, _Stub.failures, _Stub.refused, _Stub.code = [], 1, None, 400
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


@pytest.mark.parametrize("code", [400, 200])
def test_an_item_that_the_judge_refuses_is_left_without_and_asked_again(tmp_path: Path, judge: str, code: int) -> None:
    """One request of two; the other's review is kept."""
    _Stub.refused, _Stub.code, _Stub.failures = "A coast.", code, 0
    config = _config(tmp_path, "llava-bench", judge_url=judge)
    _run(config, answering({"0": "A beach.", "1": "Sand."}))
    found = json.loads((tmp_path / "out/results.json").read_text())["results"][0]
    assert found["items_without"] == {"NOT_JUDGED": 1} and not found["complete"]
    assert found["partial_scores"]["relative score"]["value"] == pytest.approx(75)
    table = open_table(str(tmp_path / "out/llava-bench/scores"))
    assert table is not None
    rows = {row["uid"]: row for row in table.to_pyarrow_dataset().to_table().to_pylist()}
    assert ("HTTP 400" if code == 400 else "has no text") in rows["1"]["error_detail"]
    _run(config, answering({"0": "A beach.", "1": "Sand."}))
    assert ["A coast." in one["messages"][1]["content"] for one in _Stub.asked].count(True) == 2
    assert len(_Stub.asked) == 3
    _Stub.refused = None
    _run(config, answering({"0": "A beach.", "1": "Sand."}))
    assert json.loads((tmp_path / "out/results.json").read_text())["results"][0]["complete"]


@pytest.mark.parametrize(("code", "refused"), [(400, "Question"), (401, "A coast.")])
def test_a_judge_that_refuses_all_or_who_asks_stops_the_job(
    tmp_path: Path, judge: str, code: int, refused: str
) -> None:
    _Stub.refused, _Stub.code, _Stub.failures = refused, code, 0
    with pytest.raises(JudgeError, match=f"HTTP {code}"):
        _run(_config(tmp_path, "llava-bench", judge_url=judge), answering({}))


def test_without_a_judge_the_answers_are_written_and_nothing_is_scored(tmp_path: Path) -> None:
    said = _run(_config(tmp_path, "mmvet"), answering({"v1_0": "x = -1"}))
    assert any("no score: 2 of 2 items answered" in text for text in said)
    assert json.loads((tmp_path / "out/mmvet/submission/submission.json").read_text()) == {
        "v1_0": "x = -1",
        "v1_1": "yes",
    }


def test_a_judge_that_does_not_answer_stops_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.evaluation.judge.time.sleep", lambda seconds: None)
    with pytest.raises(JudgeError, match="reviews so far are kept"):
        _run(_config(tmp_path, "mmvet", judge_url="http://127.0.0.1:9/v1"), answering({}))
    with pytest.raises(ConfigError, match="expected http"):
        _run(_config(tmp_path, "mmvet", judge_url="file:///etc"), answering({}))
