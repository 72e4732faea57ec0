"""The page of a training run: the dress and the policy of all pages, and nothing in it that a name could run."""

import json
from pathlib import Path
from typing import Any

from pipelines.page import STYLE
from pipelines.training.report import write_report
from pipelines.training.watch import METRICS, REJECTED
from tests.pipelines.page_cases import HOSTILE, parsed


def stage(folder: Path, rejected: list[str]) -> str:
    """Metrics of two steps, and what was rejected on the way."""
    line: dict[str, Any] = {"step": 1, "samples": 6, "loss": 2.0, "lr/projector": 0.1, "grad_norm": 1.0, "tflops": 0.1}
    line |= {"tokens_per_s": 10.0, "images_per_s": 1.0, "non_padding": 1.0, "data_wait": 0.5, "seconds": 3.0}
    last = line | {"step": 2, "samples": 13, "loss": 1.25, "tokens_per_s": 42.0, "seconds": 1.0, "data_wait": 0.1}
    folder.mkdir()
    (folder / METRICS).write_text("".join(json.dumps(one) + "\n" for one in (line, last)))
    (folder / REJECTED).write_text("".join(json.dumps({"reason": one}) + "\n" for one in rejected))
    return str(folder)


def test_the_page_is_dressed_and_closed_as_the_others_are(tmp_path: Path) -> None:
    output = tmp_path / "a&b"
    output.mkdir()
    stages = {"align": stage(tmp_path / "align", ["TRUNCATED"]), HOSTILE: stage(tmp_path / "second", [HOSTILE])}
    uri = write_report(str(output), stages, {"align": {"learning_rates": {"projector": 0.001}}})
    assert uri == str(output / "train_report.html")
    text = Path(uri).read_text()
    found = parsed(text)
    assert STYLE in text
    named = [attributes for tag, attributes in found.tags if tag == "meta"]
    (policy,) = (one["content"] for one in named if one.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "viewport" in [one.get("name") for one in named]
    assert {"script", "img"}.isdisjoint(tag for tag, _ in found.tags)
    assert found.text.count(f"Training: {output}") == 2, "title and heading"
    rows = text.split("<tr>")
    assert [row for row in rows if "tokens/s" in row] == [
        # 3 seconds at 10 a second and 1 at 42
        "<td>tokens/s</td><td>18</td></tr>"
    ] * 2
    assert next(row for row in rows if row.startswith("<td>rejected")) == "<td>rejected</td><td>1 TRUNCATED</td></tr>"
    assert text.count("<figure>") == 2 * 6


def test_a_run_without_a_step_says_so(tmp_path: Path) -> None:
    (tmp_path / "align").mkdir()
    text = Path(write_report(str(tmp_path), {"align": str(tmp_path / "align")}, {})).read_text()
    assert "No step has been taken yet." in parsed(text).text
