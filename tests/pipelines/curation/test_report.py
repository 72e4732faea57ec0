"""The report adds up, draws thresholds where they are, and runs no script but its own."""

import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from llava_core.errors import ConfigError
from pipelines import tables
from pipelines.corpus import plan_corpus
from pipelines.curation.balance import BalanceConfig
from pipelines.curation.overrides import Overrides
from pipelines.curation.report import BINS, Forecast, Grid, Report, histogram, make_report, report_columns
from pipelines.curation.report_page import plot, render_report
from pipelines.curation.report_stage import ReportWork, describe_policy, write_diff, write_report
from pipelines.curation.rules import RulesConfig
from pipelines.curation.select import SelectConfig, select_rows
from pipelines.curation.select_stage import commit_selection, read_rows, read_selection, select_stage, selection_run
from pipelines.curation.survivors import SurvivorPolicy
from pipelines.parts import write_fragment
from schemas.cluster import CLUSTER
from schemas.score import SCORE
from tests.pipelines.curation.score_cases import clusters, scores
from tests.pipelines.curation.shard_cases import kept_rows, write_corpus
from tests.pipelines.page_cases import HOSTILE, parsed

CONFIG = SelectConfig(rules=RulesConfig(min_side=200, min_blur=80))


def table_of(*rows: dict[str, Any]) -> pa.Table:
    """Scores with the columns that only a report reads."""
    given = scores(*[{name: value for name, value in row.items() if name not in ("grid",)} for row in rows])
    grids = [row.get("grid", (2, 2)) for row in rows]
    columns = {"grid_rows": [grid[0] for grid in grids], "grid_cols": [grid[1] for grid in grids]}
    for name, values in columns.items():
        given = given.append_column(name, pa.array(values, pa.int32()))
    return given.append_column("text", pa.array(["a caption"] * len(rows)))


def report_of(table: pa.Table, found: pa.Table, config: SelectConfig = CONFIG) -> Report:
    """The report of a selection."""
    return make_report(table, found, select_rows(table, found, config), config)


def test_figures_by_hand() -> None:
    table = table_of(
        {"source": "docs", "n_image_tokens": 100, "n_text_tokens": 7, "grid": (1, 2)},
        {"source": "docs", "blur": 3.0},
        {"n_image_tokens": 40, "n_text_tokens": None, "grid": (0, 0)},
        {"n_image_tokens": 60, "n_text_tokens": 5, "grid": (1, 2), "script": None},
        {"error": "TRUNCATED", "grid": (None, None)},
    )
    report = report_of(table, clusters(table))
    assert (report.rows, report.kept, report.steps) == (5, 3, (("REJECTED", 1, 4), ("BLURRED", 1, 3)))
    assert [dataclasses.astuple(part) for part in report.compositions["source"]] == [
        ("web", 3, 2, 100, 5),
        ("docs", 2, 1, 100, 7),
    ]
    assert [(part.name, part.rows, part.kept) for part in report.compositions["script"]] == [
        ("Latin", 3, 2),
        ("", 2, 1),
    ]
    assert report.grids == (
        Grid(rows=1, cols=2, count=2, image_tokens=160),
        Grid(rows=0, cols=0, count=1, image_tokens=40),
    )
    for name in report.compositions:
        assert sum(part.rows for part in report.compositions[name]) == 5
        assert sum(part.kept for part in report.compositions[name]) == 3


def test_a_histogram_counts_every_measured_row_and_holds_its_threshold() -> None:
    table = table_of(*[{"blur": 10.0 + number} for number in range(200)], {"blur": None}, {"error": "EMPTY"})
    report = report_of(table, clusters(table))
    (blur,) = [one for one in report.histograms if one.measure == "blur"]
    assert (sum(blur.kept), sum(blur.dropped), blur.missing) == (130, 70, 1)
    assert blur.edges[0] <= 80 <= blur.edges[-1]
    assert [rule.least for rule in blur.rules] == [80]
    below = sum(count for count, edge in zip(blur.kept, blur.edges[1:], strict=True) if edge <= 80)
    above = sum(count for count, edge in zip(blur.dropped, blur.edges, strict=False) if edge >= 80)
    assert (below, above) == (0, 0)
    assert report.histograms[0].measure == "short_side"


def test_whole_numbers_have_bins_of_their_own_and_wide_ranges_a_logarithm() -> None:
    kept = pa.array([True] * 5).to_numpy(zero_copy_only=False)
    few = histogram(table_of(*[{"text_words": words} for words in (1, 2, 2, 5, 9)]), "text_words", kept, CONFIG)
    assert few is not None
    assert few.kept == (1, 2, 0, 0, 1, 0, 0, 0, 1)
    assert few.edges[0] == 1.0
    wide = histogram(table_of(*[{"blur": 10.0**power} for power in range(5)]), "blur", kept, CONFIG)
    assert wide is not None
    assert wide.log
    assert len(wide.kept) == BINS
    assert wide.edges[1] / wide.edges[0] == pytest.approx(wide.edges[-1] / wide.edges[-2])
    flat = histogram(table_of(*[{"blur": 2.5}] * 5), "entropy", kept, CONFIG)
    assert flat is not None
    assert sum(flat.kept) == 5
    assert histogram(table_of(*[{"blur": None}] * 5), "blur", kept, CONFIG) is None


@pytest.mark.parametrize(("blurs", "place"), [((0.0, 160.0), 0.5), ((8.0, 8.0, 800.0), 0.5)])
def test_the_line_stands_at_the_threshold(blurs: tuple[float, ...], place: float) -> None:
    # 80 is half way from 0 to 160, and half way from 8 to 800 on a logarithmic scale
    table = table_of(*[{"blur": blur} for blur in blurs for _ in range(50)])
    (blur,) = [one for one in report_of(table, clusters(table)).histograms if one.measure == "blur"]
    x = re.search(r'<line class="line" x1="([\d.]+)"', plot(blur))
    assert x is not None
    assert float(x[1]) == pytest.approx(360 * place, abs=2)


def test_the_forecast_is_its_formula() -> None:
    # 6 · 1e9 · 3.6e9 / (100e12 · 0.5 · 3600) = 120
    assert Forecast(params_billion=1, peak_tflops=100, utilisation=0.5).gpu_hours(3_600_000_000) == pytest.approx(120)
    assert "6 × 1·10⁹ parameters" in Forecast(params_billion=1).formula
    with pytest.raises(ConfigError, match="utilisation"):
        Forecast(utilisation=0)


def test_clusters_show_the_survivor_first_and_the_farthest_next() -> None:
    table = table_of({}, {}, {}, {}, {})
    rows = clusters(table).to_pylist()
    for row, distance in ((rows[1], 1.0), (rows[2], 3.0)):
        row |= {
            "survivor_uid": "u4",
            "kind": "near",
            "role": "duplicate",
            "distance": distance,
            "flags": ["chain_split"],
        }
    rows[3] |= {"survivor_uid": "eval9", "kind": "exact_pixel", "role": "contaminated", "distance": 0.0}
    report = report_of(table, pa.Table.from_pylist(rows, CLUSTER))
    assert report.num_clusters == 2
    near, seen = report.clusters
    assert [(member.uid, member.role, member.distance) for member in near.members] == [
        ("u4", "survivor", None),
        ("u2", "duplicate", 3.0),
        ("u1", "duplicate", 1.0),
    ]
    assert near.members[1].flags == ("chain_split",)
    assert near.members[0].place is not None
    assert (near.members[0].place.fragment, near.members[0].place.index) == ("f0", 4)
    assert [(member.uid, member.role, member.place is None) for member in seen.members] == [
        ("eval9", "evaluation image", True),
        ("u3", "contaminated", False),
    ]
    page = render_report(report, {}, title="t", lead="l", overrides=Overrides(not_duplicate=frozenset({"u1", "z"})))
    boxes = {a["data-uid"]: "checked" in a for tag, a in parsed(page).tags if tag == "input"}
    assert boxes == {"u2": False, "u1": True, "u3": False}
    (button,) = [attributes for tag, attributes in parsed(page).tags if tag == "button"]
    assert json.loads(button["data-overrides"] or "") == {"not_duplicate": ["u1", "z"], "keep": [], "drop": []}


def test_an_evaluation_image_that_is_in_the_corpus_too_heads_its_copies_and_is_no_survivor() -> None:
    table = table_of({}, {}, {}, {})
    rows = clusters(table).to_pylist()
    # u2 is an evaluation image and has two copies; u3 is one without
    for row, survivor, kind, distance in (
        (rows[0], "u2", "near", 1.0),
        (rows[1], "u2", "near", 3.0),
        (rows[2], "u2", "exact_content", 0.0),
        (rows[3], "u3", "exact_content", 0.0),
    ):
        row |= {"survivor_uid": survivor, "kind": kind, "role": "contaminated", "distance": distance}
    report = report_of(table, pa.Table.from_pylist(rows, CLUSTER))
    assert report.num_clusters == 1
    (cluster,) = report.clusters
    assert cluster.size == 3
    assert [(member.uid, member.role, member.kind, member.distance) for member in cluster.members] == [
        ("u2", "evaluation image", None, None),
        ("u1", "contaminated", "near", 3.0),
        ("u0", "contaminated", "near", 1.0),
    ]
    assert [member.place is None for member in cluster.members] == [False] * 3


def test_hostile_words_stay_words_and_only_our_script_may_run() -> None:
    table = table_of({"source": HOSTILE, "uri": HOSTILE, "uid": 'a"' + HOSTILE}, {"script": HOSTILE, "uid": "b"})
    rows = clusters(table).to_pylist()
    rows[1] |= {
        "survivor_uid": 'a"' + HOSTILE,
        "kind": "near",
        "role": "duplicate",
        "distance": 2.0,
        "flags": [HOSTILE],
    }
    report = report_of(table, pa.Table.from_pylist(rows, CLUSTER))
    page = render_report(report, {"b": b"jpeg"}, title=HOSTILE, lead=HOSTILE)
    found = parsed(page)
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert [attributes["src"] for tag, attributes in found.tags if tag == "img"] == ["data:image/jpeg;base64,anBlZw=="]
    script = re.search(r"<script>(.*?)</script></main>|<script>(.*?)</script>\s*</main>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256((script[1] or script[2]).encode()).digest()).decode()
    policy = next(attributes["content"] for tag, attributes in found.tags if attributes.get("http-equiv"))
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_a_corpus_of_nothing_has_a_page() -> None:
    table = table_of({"error": "EMPTY", "grid": (None, None)})
    page = render_report(report_of(table, clusters(table)), {}, title="t", lead="l")
    assert "REJECTED" in page
    assert "Duplicates" not in parsed(page).text


def test_policies_in_words() -> None:
    assert describe_policy(SurvivorPolicy(order=("quality",))) == "Survivors by quality, then the least uid."


@pytest.fixture
def curated(tmp_path: Path) -> tuple[ReportWork, pa.Table]:
    """Tables of a small corpus as the stages leave them: 12 photos, one a copy of another."""
    write_corpus(tmp_path / "photos", 12)
    fragments = plan_corpus([str(tmp_path / "photos")])
    kept = kept_rows(fragments).to_pylist()
    rows = [
        {"uid": row["uid"], "uri": row["uri"], "fragment_id": row["corpus_fragment"], "row_index": row["row_index"]}
        | {"blur": 10.0 * place, "width": 30, "height": 20}
        for place, row in enumerate(kept)
    ]
    table = table_of(*rows)
    missing = [name for name in SCORE.names if name not in table.column_names]
    for name in missing:
        values = pa.repeat("probe", 12) if name == "run_id" else pa.nulls(12, SCORE.field(name).type)
        table = table.append_column(name, values)
    table = table.select(SCORE.names).cast(SCORE)
    uids = table["uid"].to_pylist()
    found = clusters(table, **{uids[3]: ("duplicate", "near", uids[5])})
    stamps = {"fragment_id": "part0", "run_id": "dedupe", "status": "ok", "error": None, "error_detail": None}
    schema = pa.schema([*CLUSTER, *(SCORE.field(name) for name in stamps)])
    stamped = pa.Table.from_pylist([row | stamps for row in found.to_pylist()], schema)
    for name in table["fragment_id"].unique().to_pylist():
        part = table.filter(pa.compute.equal(table["fragment_id"], name))
        uri = str(tmp_path / "out" / "scores")
        receipt = write_fragment(part, SCORE, table_uri=uri, fragment_id=name, run_id="probe")
        tables.commit(uri, [receipt], run_id="probe", schema=SCORE)
    uri = str(tmp_path / "out" / "clusters")
    receipt = write_fragment(stamped, schema, table_uri=uri, fragment_id="part0", run_id="dedupe")
    tables.commit(uri, [receipt], run_id="dedupe", schema=schema)
    work = ReportWork(
        output=str(tmp_path / "out"),
        scores_run="probe",
        clusters_run="dedupe",
        fragments=tuple(fragments),
        config=SelectConfig(rules=RulesConfig(min_blur=20)),
    )
    return work, table


def test_from_tables_to_tables_to_pages(curated: tuple[ReportWork, pa.Table]) -> None:
    work, _ = curated
    places = [f"{work.output}/{name}" for name in ("scores", "clusters", "selection")]
    first = select_stage(*places, work.config, scores_run="probe", clusters_run="dedupe")
    assert first.table.equals(read_selection(places[2]))
    assert first.table["error"].to_pylist().count(None) == 9
    again = select_stage(*places, work.config, scores_run="probe", clusters_run="dedupe")
    assert (again.run_id, again.report.committed, again.report.version) == (first.run_id, (), first.report.version)
    page = Path(write_report(work)).read_text()
    assert page.count("<figure") == page.count("<img") == 2
    assert "near, distance 0" in page
    assert "then the least uid. Pairs up to 3 bits apart are all found." in page
    stricter = dataclasses.replace(work, config=SelectConfig(rules=RulesConfig(min_blur=90)))
    other = select_stage(*places, stricter.config, scores_run="probe", clusters_run="dedupe")
    assert other.report.version == first.report.version + 1
    uri, lines = write_diff(stricter, first.table, other.table, lead="20 → 90")
    assert lines == ["kept 9 → 3", "BLURRED drops 6 more, 100.0 % from web"]
    assert Path(uri).read_text().count("<img") == 6
    old = read_selection(places[2], version=first.report.version)
    assert old is not None
    assert old.equals(first.table)


def test_a_selection_is_named_by_settings_decisions_and_what_it_reads(curated: tuple[ReportWork, pa.Table]) -> None:
    work, table = curated
    read = [(f"{work.output}/{name}", run) for name, run in (("scores", "probe"), ("clusters", "dedupe"))]
    none = Overrides()
    name = selection_run(work.config, none, read)
    assert name == selection_run(work.config, none, read)
    others = {
        selection_run(dataclasses.replace(work.config, contaminated=False), none, read),
        selection_run(dataclasses.replace(work.config, balance=BalanceConfig(caps={"a": 1})), none, read),
        selection_run(work.config, Overrides(drop=frozenset("x")), read),
        selection_run(work.config, none, [(read[0][0], "probe2"), read[1]]),
        selection_run(work.config, none, read[::-1]),
    }
    assert len(others | {name}) == 6
    tables.commit(read[0][0], (), run_id="probe", schema=SCORE, stale=table["fragment_id"].unique().to_pylist()[:1])
    assert selection_run(work.config, none, read) != name


def test_only_rows_of_the_run_and_columns_that_are_asked_for(curated: tuple[ReportWork, pa.Table]) -> None:
    work, table = curated
    uri = f"{work.output}/scores"
    rows = read_rows(uri, ["uid", "status", "blur"], run_id="probe")
    assert rows.column_names == ["uid", "status", "blur"]
    assert rows.sort_by("uid").equals(table.select(["uid", "status", "blur"]).sort_by("uid"))
    assert read_rows(uri, ["uid"], run_id="other").num_rows == 0
    other = table.slice(0, 1).set_column(SCORE.get_field_index("run_id"), SCORE.field("run_id"), pa.array(["quick"]))
    other = other.set_column(SCORE.get_field_index("fragment_id"), SCORE.field("fragment_id"), pa.array(["g"]))
    receipt = write_fragment(other, SCORE, table_uri=uri, fragment_id="g", run_id="quick")
    tables.commit(uri, [receipt], run_id="quick", schema=SCORE)
    DeltaTable(uri).optimize.compact()
    assert [read_rows(uri, ["uid"], run_id=run).num_rows for run in ("probe", "quick")] == [12, 1]
    with pytest.raises(ConfigError, match="no table at"):
        read_rows(f"{work.output}/none", ["uid"], run_id="probe")
    assert read_selection(f"{work.output}/none") is None
    assert set(report_columns(work.config)) <= set(SCORE.names)


def test_blocks_are_committed_together(curated: tuple[ReportWork, pa.Table], monkeypatch: pytest.MonkeyPatch) -> None:
    work, table = curated
    monkeypatch.setattr("pipelines.curation.select.BLOCK_ROWS", 5)
    selection = select_rows(table, clusters(table), work.config, run_id="r1")
    uri = f"{work.output}/selection"
    report = commit_selection(selection, uri, run_id="r1")
    assert report.committed == ("block-00000", "block-00001", "block-00002")
    smaller = select_rows(table.slice(0, 4), clusters(table), work.config, run_id="r2")
    commit_selection(smaller, uri, run_id="r2")
    now = read_selection(uri)
    assert now is not None
    assert now.equals(smaller)
