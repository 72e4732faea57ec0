"""The dashboard and the alarms speak of metrics that a running job exports: scraped from this machine's Ray."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from pipelines import metrics
from pipelines.inference.replies import Replies, Reply
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
    metrics.report_progress(1, 2, 0.5, "images")


def test_progress_reports_each_second_and_at_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.progress import Progress

    told: list[tuple[int, int, float, str]] = []
    monkeypatch.setattr(metrics, "report_progress", lambda *values: told.append(values))
    now = [100.0]
    progress = Progress(50, done=10, unit="steps", quiet=True, clock=lambda: now[0])
    for seconds in (0.5, 0.6, 0.1):
        now[0] += seconds
        progress.add(4)
    progress.close()
    assert [(done, expected) for done, expected, *_ in told] == [(10, 50), (18, 50), (22, 50)]
    assert told[-1][2] == pytest.approx(12 / 1.2)
