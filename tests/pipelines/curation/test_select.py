"""Every row has one decision; the first reason is the funnel's; order and blocks do not show."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_core.errors import ConfigError
from pipelines.curation import recipes, select
from pipelines.curation.balance import BalanceConfig
from pipelines.curation.overrides import Overrides, parse_overrides, read_overrides
from pipelines.curation.rules import RulesConfig
from pipelines.curation.select import SelectConfig, count_reasons, funnel, score_columns, select_rows
from pipelines.errors import TableError
from schemas.cluster import ClusterKind
from schemas.selection import SELECTION, DropReason
from tests.pipelines.curation.score_cases import GOOD, clusters, scores

RULES = RulesConfig(min_side=200, min_blur=80)
CONFIG = SelectConfig(rules=RULES)


def decided(selection: pa.Table) -> dict[str, tuple[str | None, list[str], str | None]]:
    """uid → (first reason, all reasons, detail)."""
    return {row["uid"]: (row["error"], row["failed"], row["error_detail"]) for row in selection.to_pylist()}


def test_each_way_to_be_dropped() -> None:
    table = scores(
        {},
        {"error": "TRUNCATED"},
        {"blur": 1.0, "height": 100},
        {"blur": 1.0},
        {},
        {"blur": 2.0},
        {},
        {},
    )
    found = clusters(
        table,
        u3=("duplicate", "near", "u0"),
        u4=("duplicate", "exact_pixel", "u0"),
        u5=("contaminated", "near", "eval1"),
        u6=("duplicate", "semantic", "u0"),
    )
    selection = select_rows(table, found, CONFIG, run_id="r", overrides=Overrides(drop=frozenset({"u7"})))
    assert selection.schema.equals(SELECTION)
    assert decided(selection) == {
        "u0": (None, [], None),
        "u1": ("REJECTED", ["REJECTED"], "TRUNCATED"),
        "u2": ("TOO_SMALL", ["TOO_SMALL", "BLURRED"], None),
        "u3": ("DUPLICATE_NEAR", ["DUPLICATE_NEAR", "BLURRED"], "u0"),
        "u4": ("DUPLICATE_EXACT", ["DUPLICATE_EXACT"], "u0"),
        "u5": ("CONTAMINATED", ["CONTAMINATED", "BLURRED"], "eval1"),
        "u6": ("DUPLICATE_SEMANTIC", ["DUPLICATE_SEMANTIC"], "u0"),
        "u7": ("VETOED", ["VETOED"], None),
    }
    assert selection["status"].to_pylist() == ["ok", *["rejected"] * 7]
    assert set(selection["run_id"].to_pylist()) == {"r"}


def test_what_the_probe_measured_travels() -> None:
    table = scores({"fragment_id": "f9", "file_bytes": 77, "n_tiles": 3, "n_image_tokens": 1948, "source": "docs"})
    (row,) = select_rows(table, clusters(table), CONFIG).to_pylist()
    assert (row["corpus_fragment"], row["file_bytes"], row["n_tiles"], row["n_image_tokens"], row["source"]) == (
        *("f9", 77, 3, 1948, "docs"),
    )
    assert row["uri"] == "/corpus/u0.jpg"


def test_kinds_of_duplicates_and_contamination_can_be_let_in() -> None:
    table = scores({}, {}, {}, {})
    found = clusters(
        table,
        u1=("duplicate", "exact_content", "u0"),
        u2=("duplicate", "near", "u0"),
        u3=("contaminated", "exact_content", "e"),
    )
    config = SelectConfig(duplicates=(ClusterKind.EXACT_CONTENT,), contaminated=False)
    assert {uid: row[0] for uid, row in decided(select_rows(table, found, config)).items()} == {
        "u0": None,
        "u1": "DUPLICATE_EXACT",
        "u2": None,
        "u3": None,
    }
    with pytest.raises(ConfigError, match="names \\['cousin'\\]"):
        SelectConfig(duplicates=("cousin",))  # type: ignore[arg-type]


def test_people_overrule() -> None:
    table = scores({"blur": 1.0}, {}, {"blur": 1.0}, {"error": "EMPTY"}, {})
    found = clusters(
        table, u1=("duplicate", "near", "u0"), u2=("duplicate", "near", "u0"), u4=("contaminated", "near", "e")
    )
    overrides = Overrides(keep=frozenset({"u0", "u3"}), not_duplicate=frozenset({"u1", "u2", "u4"}))
    assert {uid: row[0] for uid, row in decided(select_rows(table, found, CONFIG, overrides=overrides)).items()} == {
        "u0": None,
        "u1": None,
        "u2": "BLURRED",
        "u3": "REJECTED",
        "u4": None,
    }


def test_a_kept_row_is_not_thinned_out_and_counts_for_no_cap() -> None:
    table = scores(*[{} for _ in range(400)])
    config = SelectConfig(balance=BalanceConfig(caps={"web": 100}))
    forced = frozenset({f"u{place}" for place in range(50)})
    selection = select_rows(table, clusters(table), config, overrides=Overrides(keep=forced))
    by_uid = decided(selection)
    assert all(by_uid[uid][0] is None for uid in forced)
    others = sum(row[0] is None for uid, row in by_uid.items() if uid not in forced)
    # 100 of the other 350 are expected, ± sqrt(350 · 2/7 · 5/7) = 8.5; measured 98
    assert 75 <= others <= 125
    assert {row[0] for row in by_uid.values()} == {None, "OVER_QUOTA"}


def test_balancing_looks_only_at_what_is_left() -> None:
    table = scores(*[{"blur": 1.0 if place % 2 else 300.0} for place in range(200)])
    config = SelectConfig(rules=RULES, balance=BalanceConfig(caps={"*": 100}))
    counts = count_reasons(select_rows(table, clusters(table), config))
    assert counts == {"kept": 100, "BLURRED": 100}


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 40))
def test_order_and_chunks_do_not_show_and_nothing_is_lost(random: Any, size: int) -> None:
    rng = np.random.default_rng(random.randrange(2**32))
    rows: list[dict[str, Any]] = [
        {
            "blur": float(rng.integers(0, 160)),
            "height": int(rng.integers(100, 400)),
            "source": random.choice(["a", "b", None]),
            **({"error": "EMPTY"} if rng.random() < 0.2 else {}),
        }
        for _ in range(size)
    ]
    table = scores(*rows)
    config = SelectConfig(rules=RULES, balance=BalanceConfig(caps={"*": 5}, total=8))
    found = clusters(table, **{f"u{n}": ("duplicate", "near", "u0") for n in range(1, size) if rng.random() < 0.2})
    expected = select_rows(table, found, config)
    order = rng.permutation(size)
    cut = size // 3
    shuffled = table.take(pa.array(order, pa.int64()))
    shuffled = pa.concat_tables([shuffled.slice(0, cut), shuffled.slice(cut)])
    again = select_rows(shuffled, found.take(pa.array(order[::-1].copy(), pa.int64())), config)
    assert again.equals(expected)
    counts = count_reasons(expected)
    assert counts.total() == size
    assert counts["kept"] == expected["status"].to_pylist().count("ok")
    for row in expected.to_pylist():
        assert (row["error"] is None) == (row["failed"] == [])
        assert row["error"] is None or row["error"] == row["failed"][0]
        places = [list(DropReason).index(DropReason(reason)) for reason in row["failed"]]
        assert places == sorted(places)


def test_blocks_are_named_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "BLOCK_ROWS", 2)
    table = scores({}, {}, {})
    names = select_rows(table, clusters(table), CONFIG)["fragment_id"].to_pylist()
    assert names == ["block-00000", "block-00000", "block-00001"]


def test_broken_tables_are_refused() -> None:
    table = scores({}, {}, {"error": "EMPTY"})
    found = clusters(table)
    with pytest.raises(TableError, match="1 rows of scores are not in clusters, u1"):
        select_rows(table, found.filter(pa.array([True, False, False])), CONFIG)
    with pytest.raises(TableError, match="twice in scores"):
        select_rows(scores({"uid": "a"}, {"uid": "a"}), found, CONFIG)
    with pytest.raises(TableError, match="twice in clusters"):
        select_rows(table, pa.concat_tables([found, found]), CONFIG)
    with pytest.raises(TableError, match=r"\['blur'\]"):
        select_rows(table.drop_columns(["blur"]), found, CONFIG)


def test_only_the_columns_that_are_looked_at() -> None:
    assert score_columns(SelectConfig())[-1] == "n_text_tokens"
    config = SelectConfig(rules=RULES, balance=BalanceConfig(key="format", caps={"*": 3}))
    assert score_columns(config)[-4:] == ["width", "height", "blur", "format"]


def test_the_funnel_goes_down_to_what_is_kept() -> None:
    counts = Counter({"kept": 5, "BLURRED": 2, "REJECTED": 1, "TOO_SMALL": 3})
    assert funnel(counts) == [("REJECTED", 1, 10), ("TOO_SMALL", 3, 7), ("BLURRED", 2, 5)]


@pytest.mark.parametrize("recipe", [recipes.permissive, recipes.datacomp_basic, recipes.llava_highres])
def test_recipes_keep_a_good_row_and_drop_a_tiny_one(recipe: Any) -> None:
    table = scores({}, {"height": 20, "width": 21})
    assert [row["error"] for row in select_rows(table, clusters(table), recipe()).to_pylist()] == [None, "TOO_SMALL"]


def test_datacomp_keeps_its_published_limits() -> None:
    rows = [{"height": 200, "width": 600, "aspect": 3.0, "text_words": 3, "text_chars": 6}]
    for change in ({"height": 199}, {"width": 601, "aspect": 601 / 200}, {"text_words": 2}, {"text_chars": 5}):
        rows.append(rows[0] | change)
    table = scores(*rows)
    reasons = [row["error"] for row in select_rows(table, clusters(table), recipes.datacomp_basic()).to_pylist()]
    assert reasons == [None, "TOO_SMALL", "ASPECT", "TEXT_TOO_FEW_WORDS", "TEXT_TOO_SHORT"]


def test_an_override_file(tmp_path: Any) -> None:
    path = tmp_path / "overrides.json"
    path.write_text('{"drop": ["b", "a"], "not_duplicate": ["c"]}')
    overrides = read_overrides(str(path))
    assert overrides == Overrides(drop=frozenset("ab"), not_duplicate=frozenset("c"))
    assert parse_overrides(overrides.to_json()) == overrides
    assert read_overrides(None) == Overrides()
    for text, words in (
        ("[1]", "hold list"),
        ('{"drip": []}', "drip"),
        ('{"drop": "ab"}', "drop is not a list"),
        ("{", "not JSON"),
        ('{"drop": ["a"], "keep": ["a"]}', "keep and drop the same"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_overrides(str(path))
    with pytest.raises(ConfigError, match="is not there"):
        read_overrides(str(tmp_path / "none.json"))


def test_the_good_row_is_good_by_all_recipes_strictest_thresholds() -> None:
    assert GOOD["n_image_tokens"] == 2340
    strict = dataclasses.replace(recipes.llava_highres().rules, missing="drop")
    table = scores({})
    assert select_rows(table, clusters(table), SelectConfig(rules=strict))["error"].to_pylist() == [None]
