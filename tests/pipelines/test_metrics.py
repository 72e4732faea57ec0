"""What is counted where, and under which labels; that Ray serves it is in tests/infra/test_monitoring.py."""

import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipelines import metrics
from pipelines.inference.replies import Replies
from pipelines.inference.stage import InferenceStage
from pipelines.metrics import METRICS, Metric
from pipelines.parts import Receipt
from pipelines.stages import FragmentStage

JOB = {"program": "caption_corpus"}
Told = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What Ray would be told: (exported name, value, labels)."""
    seen: Told = []

    def made(metric: Metric) -> Any:
        def take(value: float, labels: dict[str, str]) -> None:
            assert labels.keys() == set(metric.labels)
            seen.append((metric.exported, value, labels))

        return SimpleNamespace(set=take) if metric.kind == "gauge" else SimpleNamespace(inc=take)

    monkeypatch.setattr(metrics, "_made", made)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("sys.argv", ["/app/jobs/caption_corpus.py", "--input", "x"])
    return seen


def test_names_are_ours_and_told_apart() -> None:
    assert len({metric.exported for metric in METRICS}) == len(METRICS) == 17
    assert all(metric.name.startswith("tessera_") for metric in METRICS)
    assert metrics.ROWS.exported == "ray_tessera_rows_total"
    assert metrics.DONE.exported == "ray_tessera_progress_done"


def test_progress_says_how_far_and_how_long(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_started", [])
    metrics.report_progress(30, 90, 4.0, "images", 1.7e9 + 5)
    labels = {"program": "caption_corpus", "unit": "images"}
    values = {name: value for name, value, _ in told}
    assert all(found == labels for _, _, found in told)
    assert values == {
        "ray_tessera_progress_done": 30,
        "ray_tessera_progress_expected": 90,
        "ray_tessera_progress_rate": 4.0,
        "ray_tessera_progress_eta_seconds": 15.0,
        "ray_tessera_progress_moved_seconds": 1.7e9 + 5,
    }
    told.clear()
    metrics.report_progress(0, 90, 0.0, "images", 1.7e9)
    assert "ray_tessera_progress_eta_seconds" not in {name for name, _, _ in told}, "no rate, no time"


def test_progress_repeats_when_the_job_started(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_started", [])
    metrics.report_progress(1, 2, 1.0, "images", 1.7e9)
    assert "ray_tessera_job_start_seconds" not in {name for name, _, _ in told}
    metrics.report_start()
    metrics.report_progress(2, 2, 1.0, "images", 1.7e9)
    found = [value for name, value, _ in told if name == "ray_tessera_job_start_seconds"]
    assert len(found) == 2
    assert found[0] == found[1]


def test_rows_are_counted_by_reason(told: Told) -> None:
    metrics.report_rows(7, {"TRUNCATED": 2, "EMPTY": 1})
    metrics.report_rows(0, {})
    found = [(value, labels["status"], labels["reason"]) for _, value, labels in told]
    assert found == [(7, "ok", ""), (2, "rejected", "TRUNCATED"), (1, "rejected", "EMPTY")]


class Fake(FragmentStage):
    """Counts two things for each row of work."""

    def do(self, work: Mapping[str, Any]) -> Receipt:
        self.counts["tiles"] += 2 * work["rows"]
        self.counts["tokens/image"] += 5
        return Receipt(fragment_id="f", run_id="r", files=(), ok=work["rows"], rejected={})


def test_what_a_stage_counts_travels_with_its_receipt(told: Told) -> None:
    stage = Fake()
    answers = [stage({"work": json.dumps({"rows": rows})}) for rows in (3, 4)]
    for answer in answers:
        metrics.report_counts(json.loads(answer["counts"]))
    assert told == [
        ("ray_tessera_tiles_total", 6, JOB),
        ("ray_tessera_tokens_total", 5, {**JOB, "kind": "image"}),
        ("ray_tessera_tiles_total", 8, JOB),
        ("ray_tessera_tokens_total", 5, {**JOB, "kind": "image"}),
    ]


def test_the_engines_stage_counts_its_rows() -> None:
    stage = object.__new__(InferenceStage)
    stage.counts, stage.replies, stage._restarts = Counter(), Replies(), 1
    stage.replies.new, stage.replies.known = 2, 1
    stage._engine = Future()
    stage._engine.set_result(SimpleNamespace(restarts=4))  # type: ignore[arg-type]
    columns = {
        "num_prompt_tokens": [100, 40, None],
        "num_image_tokens": [90, 30, None],
        "num_output_tokens": [8, 5, None],
        "grid_rows": [2, 0, None],
        "grid_cols": [3, 0, None],
    }
    rows = pa.table({name: pa.array(values, pa.int32()) for name, values in columns.items()})
    stage._count(rows)
    expected = {"tokens/prompt": 140, "tokens/image": 120, "tokens/generated": 13, "tiles": 7 + 1}
    assert stage.counts == expected | {"requests/new": 2, "requests/known": 1, "engine_restarts": 3}
    stage._count(rows)
    assert stage.counts["engine_restarts"] == 0, "only new ones"
    assert stage.counts.keys() == metrics.COUNTS.keys()


def test_a_training_step_is_told_as_far_as_it_is_known(told: Told) -> None:
    metrics.report_step({"stage": "align", "step": 3, "loss": 2.5, "data_wait": 0.1, "grad_norm": 1.0})
    assert told == [
        ("ray_tessera_train_loss", 2.5, {**JOB, "stage": "align"}),
        ("ray_tessera_train_data_wait", 0.1, {**JOB, "stage": "align"}),
    ]
