"""`jobs/evaluate.py` on drawings, by the embedded model and through Ray, up to the page: whole, again, and cut."""

import functools
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from jobs import evaluate
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.flow import run_evaluation
from tests.e2e.caption_cases import use_engine

pytestmark = pytest.mark.ray
DRAWINGS = 4


def run(output: Path, **settings: Any) -> tuple[dict[str, Any], list[str]]:
    """Run the job as its front door does; the result, and what it said."""
    values: dict[str, Any] = {"num_drawings": DRAWINGS, "num_workers": 1, "max_new_tokens": 24}
    config = EvaluateConfig(output=str(output), **{**values, **settings})
    said: list[str] = []
    run_evaluation(config, functools.partial(evaluate.answer, config=config), evaluate.draw, said.append)
    (result,) = json.loads((output / "results.json").read_text())["results"]
    return result, said


def questions(output: Path) -> dict[str, str]:
    """Item → right answer, from the drawings' own file: every round but the request for a caption."""
    (file,) = (output / "drawings").glob("*/drawn.jsonl")
    found = {}
    for line in file.read_text().splitlines():
        one = json.loads(line)
        for place, task in enumerate(one["truth"]["tasks"]):
            if task != "caption":
                found[f"{one['id']}/{place}"] = one["conversations"][2 * place + 1]["value"]
    return found


def rows(uri: Path, key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in DeltaTable(uri).to_pyarrow_table().to_pylist()}


def same(reply: str, right: str) -> bool:
    return reply.strip().rstrip(".").lower() == right.strip().rstrip(".").lower()


def test_whole_then_again_then_cut_in_half(tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    result, said = run(output)
    right = questions(output)
    answers, scores = rows(output / "drawn/answers", "question_id"), rows(output / "drawn/scores", "uid")
    assert answers.keys() == scores.keys() == right.keys() and len(right) >= 2 * DRAWINGS
    for uid, row in scores.items():
        assert (row["status"], row["reply"], json.loads(row["references"])) == (
            "ok",
            answers[uid]["text"],
            [right[uid]],
        )
        if same(row["reply"], right[uid]):
            assert row["score"] == 1.0, row
        if row["score"] == 1.0 and not any(letter.isdigit() for letter in right[uid]):
            assert same(row["reply"], right[uid]), row
    mean = 100 * statistics.fmean(row["score"] for row in scores.values())
    assert 0 < mean == pytest.approx(result["scores"]["accuracy"]["value"])
    assert (result["complete"], result["items"], result["items_scored"]) == (True, len(right), len(right))
    assert "partial_scores" not in result and result["settings"]["parser"]
    assert any(f"accuracy {mean:.1f}" in text for text in said)
    page = (output / "results.html").read_text()
    assert f"{mean:.1f}" in page and "PARTIAL" not in page and page.count("data:image/") >= 1

    before = {name: DeltaTable(output / name).version() for name in ("drawn/answers", "drawn/scores")}
    again, _ = run(output)
    assert again["scores"] == result["scores"]
    assert DeltaTable(output / "drawn/answers").version() == before["drawn/answers"]
    assert rows(output / "drawn/scores", "uid") == scores

    # how well the model answers has been seen
    use_engine(monkeypatch)
    half, said = run(output, limit=len(right) // 2)
    assert "scores" not in half and not half["complete"] and half["partial_scores"]
    assert 0 < half["items_scored"] < half["items"] == len(right)
    assert any(f"PARTIAL, {half['items_scored']} of {len(right)} items" in text for text in said)
    assert "PARTIAL" in (output / "results.html").read_text()


@pytest.mark.slow
def test_a_run_that_lost_half_of_its_images_is_no_full_score_until_they_are_there(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_engine(monkeypatch)
    folder = tmp_path / "drawings"
    evaluate.draw(folder, "held_out", DRAWINGS)
    lines = [json.loads(line) for line in (folder / "drawn.jsonl").read_text().splitlines()]
    pictures = {folder / one["image"]: (folder / one["image"]).read_bytes() for one in lines[: DRAWINGS // 2]}
    for path in pictures:
        path.unlink()
    lost = {one["id"] for one in lines[: DRAWINGS // 2]}
    result, said = run(tmp_path / "out", data=(str(folder),))
    assert "scores" not in result and not result["complete"]
    gone = {uid for uid, row in rows(tmp_path / "out/drawn/scores", "uid").items() if row["status"] == "rejected"}
    assert gone and {uid.rsplit("/", 1)[0] for uid in gone} == lost
    assert result["items_without"] == {"NOT_FOUND": len(gone)}
    assert result["items_scored"] == result["items"] - len(gone)
    assert any("PARTIAL" in text for text in said)

    for path, data in pictures.items():
        path.write_bytes(data)
    result, _ = run(tmp_path / "out", data=(str(folder),))
    assert result["complete"] and result["items_scored"] == result["items"]

    # calls with other limits have runs of their own: the whole one is there, and is not made again
    answers = tmp_path / "out/drawn/answers"
    whole = result["settings"]["answers run"]
    half, _ = run(tmp_path / "out", data=(str(folder),), limit=result["items"] // 2)
    assert not half["complete"] and half["settings"]["answers run"] != whole
    before = DeltaTable(answers).version()
    again, _ = run(tmp_path / "out", data=(str(folder),))
    assert again["complete"] and again["settings"]["answers run"] == whole
    assert DeltaTable(answers).version() == before
    runs = DeltaTable(answers).to_pyarrow_table(columns=["run_id"])["run_id"].to_pylist()
    assert {name: runs.count(name) for name in runs} == {
        whole: result["items"], half["settings"]["answers run"]: half["items_scored"]}  # fmt: skip
