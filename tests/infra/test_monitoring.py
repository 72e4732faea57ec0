"""The dashboard and the alarms speak of metrics that a running job exports: scraped from this machine's Ray."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from deltalake import DeltaTable
from skimage.data import astronaut

from pipelines import metrics
from pipelines.inference.config import CaptionConfig
from pipelines.inference.flow import run_job
from pipelines.inference.replies import Replies, Reply
from pipelines.progress import Progress
from tests.e2e.caption_cases import use_engine
from tests.infra.images import ROOT

MONITORING = ROOT / "infra" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "tessera.json").read_text())
GROUPS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {
    **{f"alert {rule['alert']}": rule["expr"] for rule in ALERTS},
    **{f"panel {panel['id']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]},
}
VARIABLE = re.compile(r"label_values\((\w+), (\w+)\)")
Samples = dict[str, list[tuple[dict[str, str], float]]]


def selectors(node: Any) -> Iterator[Any]:
    """Vector selectors of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector if hasattr(node, "vector_selector") else node.vs
    else:
        children = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param")]
        children += list(getattr(node, "args", None) or [])
        for child in children:
            if child is not None and not isinstance(child, str):
                yield from selectors(child)


def used(expression: str) -> set[str]:
    """Names of the metrics that a query reads."""
    # Grafana puts the variable's values in
    parsed = promql_parser.parse(expression.replace("$program", "caption_corpus"))
    return {str(one.name) for one in selectors(parsed)}


def scrape() -> Samples:
    """What this machine's node serves to Prometheus."""
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        text = answer.read().decode()
    found: Samples = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"(ray_tessera_\w+)\{(.*)\} (\S+)", line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            found.setdefault(match[1], []).append((labels, float(match[3])))
    return found


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_every_query_is_one_and_reads_only_ours(place: str) -> None:
    names = used(EXPRESSIONS[place])
    assert names
    assert names <= {metric.exported for metric in metrics.METRICS}


def test_every_label_is_one_of_the_metric() -> None:
    known = {metric.exported: {*metric.labels, "SessionName"} for metric in metrics.METRICS}
    for expression in EXPRESSIONS.values():
        of = [known[name] for name in used(expression)]
        groups = re.findall(r"(?:by|on) \(([^)]*)\)", expression)
        grouped = {word for group in groups for word in re.split(r",\s*", group)}
        assert all(grouped <= labels for labels in of), expression
        for name, matchers in re.findall(r"(ray_tessera_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=", matchers)) <= known[name], expression


def test_every_metric_is_drawn() -> None:
    drawn = {name for panel in PANELS for target in panel["targets"] for name in used(target["expr"])}
    assert drawn == {metric.exported for metric in metrics.METRICS}
    (variable,) = DASHBOARD["templating"]["list"]
    match = VARIABLE.fullmatch(variable["query"]["query"])
    assert match is not None
    assert (match[1], match[2]) == (metrics.START.exported, metrics.START.labels[0])


def test_alarms_say_what_to_do_and_the_three_that_matter_are_there() -> None:
    assert {"TesseraStalled", "TesseraRejectRate", "TesseraDriverCrashLoop", "TesseraEngineCrashLoop"} <= {
        rule["alert"] for rule in ALERTS
    }
    for rule in ALERTS:
        assert {"summary", "action"} <= rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_prometheus_reads_the_ports_that_nodes_serve() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    assert job["dns_sd_configs"] == [{"names": ["head", "worker"], "type": "A", "port": 8080}]
    assert [(MONITORING / name).exists() for name in config["rule_files"]] == [True]


def write_photos(folder: Path) -> None:
    """Two equal photos, another, and a file that is none."""
    from PIL import Image

    folder.mkdir()
    photo = Image.fromarray(astronaut())
    for name, size in (("a", (90, 60)), ("b", (60, 90)), ("c", (90, 60))):
        photo.resize(size).save(folder / f"{name}.png")
    (folder / "d.png").write_bytes(b"a shopping list")


@pytest.mark.ray
def test_a_job_exports_them_all(ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_engine(monkeypatch)
    # a name that no other test of this session has counted under
    monkeypatch.setattr("sys.argv", ["jobs/monitored.py"])
    write_photos(tmp_path / "photos")
    metrics.report_start()  # as `start_ray` does, which has started this session long ago
    words: dict[str, Any] = {"max_new_tokens": 3, "resolution": "low", "num_workers": 1}
    run_job(CaptionConfig(input=(str(tmp_path / "photos"),), output=str(tmp_path / "out"), **words), lambda _: None)
    # what only training says, as its driver hands it on
    step = {"loss": 2.25, "mfu": 0.41, "data_wait": 0.05, "tokens_per_s": 900.0, "images_per_s": 3.5, "rejected": 2}
    metrics.report_step({"stage": "align", "step": 7, **step})
    # what only an engine that dies says
    metrics.report_counts({"engine_restarts": 2})
    wanted = {metric.exported for metric in metrics.METRICS}
    seen: Samples = {}
    until = time.monotonic() + 60
    while not wanted <= seen.keys() and time.monotonic() < until:
        # a gauge is served once after each report of its process
        for name, samples in scrape().items():
            own = [(labels, value) for labels, value in samples if labels["program"] == "monitored"]
            seen |= {name: own} if own else {}
        time.sleep(1)
    assert seen.keys() >= wanted
    for expression in EXPRESSIONS.values():
        assert used(expression) <= seen.keys()

    def total(name: str, **labels: str) -> float:
        return sum(value for found, value in seen[name] if labels.items() <= found.items())

    assert total("ray_tessera_rows_total", status="ok") == 3
    assert total("ray_tessera_rows_total", status="rejected", reason="NOT_IMAGE") == 1
    assert total("ray_tessera_requests_total", reply="known") == 1
    assert total("ray_tessera_requests_total", reply="new") == 3
    captions = [row for row in DeltaTable(tmp_path / "out").to_pyarrow_table().to_pylist() if row["status"] == "ok"]
    for kind, column in (("prompt", "prompt"), ("image", "image"), ("generated", "output")):
        expected = sum(row[f"num_{column}_tokens"] for row in captions)
        assert total("ray_tessera_tokens_total", kind=kind) == expected > 0
    tiles = sum(row["grid_rows"] * row["grid_cols"] + 1 for row in captions)
    assert total("ray_tessera_tiles_total") == tiles >= 3
    assert total("ray_tessera_engine_restarts_total") == 2, "the engine's first start is none"
    assert [value for labels, value in seen["ray_tessera_progress_done"] if labels["unit"] == "images"][-1] == 4
    assert [value for labels, value in seen["ray_tessera_train_mfu"] if labels["stage"] == "align"] == [0.41]


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_that_stalls_is_still_exported(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["jobs/stalled.py"])
    progress = Progress(9, done=2, quiet=True)
    progress.add(3)
    at = time.time()
    # Ray forgets a gauge some 20 seconds after it was set, and takes 10 to serve it
    time.sleep(45)
    seen: Samples = {}
    until = time.monotonic() + 15
    wanted = {metrics.DONE.exported: 5.0, metrics.ALL.exported: 9.0, metrics.MOVED.exported: at}
    while not wanted.keys() <= seen.keys() and time.monotonic() < until:
        for name, samples in scrape().items():
            own = [(labels, value) for labels, value in samples if labels["program"] == "stalled"]
            seen |= {name: own} if own else {}
        time.sleep(1)
    assert {name: seen[name][0][1] for name in wanted} == pytest.approx(wanted, abs=2)
    progress.close()


def test_replies_count_what_is_asked_and_what_is_known() -> None:
    replies = Replies()
    replies.begin()
    assert [replies.expect(("a",)), replies.expect(("a",)), replies.expect(("b",))] == [False, True, False]
    assert (replies.new, replies.known) == (2, 1)
    replies.add(("a",), Reply(None, None))  # type: ignore[arg-type]
    replies.begin()
    assert (replies.new, replies.known) == (0, 0)
    assert [replies.expect(("a",)), replies.expect(("b",))] == [True, False]
    assert (replies.new, replies.known) == (1, 1)


def test_without_ray_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(metrics, "_made", None)
    metrics.report_start()
    metrics.report_rows(3, {"EMPTY": 1})
    metrics.report_progress(1, 2, 0.5, "images", 1.7e9)
