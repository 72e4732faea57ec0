"""What a change drops and lets in, by reason and source, in lines and on a page that nothing in a corpus can harm."""

from typing import Any

import pyarrow as pa

from pipelines.curation.diff import GONE, NEW, SAMPLES, Change, describe, diff_selections, render_diff
from pipelines.curation.rules import RulesConfig
from pipelines.curation.select import SelectConfig, select_rows
from schemas.selection import SELECTION
from tests.pipelines.curation.score_cases import clusters, scores
from tests.pipelines.page_cases import HOSTILE, parsed


def selected(table: pa.Table, **rules: Any) -> pa.Table:
    """A selection by some thresholds."""
    return select_rows(table, clusters(table), SelectConfig(rules=RulesConfig(**rules)))


def test_what_a_threshold_drops_and_lets_in() -> None:
    rows = [{"blur": 10.0 * number, "source": "web" if number % 4 else "docs"} for number in range(20)]
    table = scores(*rows, {"height": 90, "source": None})
    before, after = selected(table, min_blur=50, min_side=100), selected(table, min_blur=120)
    diff = diff_selections(before, after)
    assert (diff.kept_before, diff.kept_after) == (15, 9)
    assert diff.changes == (
        Change(direction="dropped", reason="BLURRED", source="web", rows=6),
        Change(direction="added", reason="TOO_SMALL", source="", rows=1),
        Change(direction="dropped", reason="BLURRED", source="docs", rows=1),
    )
    assert describe(diff) == [
        "kept 15 → 9",
        "BLURRED drops 7 more, 85.7 % from web",
        "TOO_SMALL lets in 1 again, 100.0 % from no source",
    ]
    assert diff.kept_after == diff.kept_before - diff.rows("dropped") + diff.rows("added")
    names = {sample.place.uid for sample in diff.samples if sample.direction == "dropped"}
    assert names == {f"u{number}" for number in range(5, 12)}
    (added,) = [sample for sample in diff.samples if sample.direction == "added"]
    assert (added.place.uid, added.place.fragment, added.place.index) == ("u20", "f0", 20)


def test_rows_that_came_and_went() -> None:
    before, after = (
        selected(scores({}, {}, {"blur": 1.0}), min_blur=5),
        selected(scores({}, {"uid": "new"}), min_blur=5),
    )
    found = {(change.direction, change.reason): change.rows for change in diff_selections(before, after).changes}
    assert found == {("dropped", GONE): 1, ("added", NEW): 1}


def test_no_change() -> None:
    one = selected(scores({}, {"blur": 1.0}), min_blur=5)
    diff = diff_selections(one, one)
    assert (diff.changes, diff.samples) == ((), ())
    assert describe(diff) == ["kept 1 → 1", "no row changes"]
    assert "Dropped now" not in render_diff(diff, {}, title="t", lead="l")
    empty = SELECTION.empty_table()
    assert diff_selections(empty, empty).kept_after == 0


def test_samples_are_bounded_and_always_the_same() -> None:
    table = scores(*[{"blur": 10.0} for _ in range(50)])
    before, after = selected(table), selected(table, min_blur=20)
    first = diff_selections(before, after).samples
    assert len(first) == SAMPLES
    turned = after.take(pa.array(range(49, -1, -1)))
    assert set(diff_selections(before.take(pa.array(range(49, -1, -1))), turned).samples) == set(first)


def test_the_page_shows_pictures_and_escapes_words() -> None:
    table = scores({"blur": 1.0, "uri": "/d/" + HOSTILE.replace("/", ""), "source": HOSTILE}, {"blur": 1.0})
    diff = diff_selections(selected(table), selected(table, min_blur=20))
    page = render_diff(diff, {"u0": b"jpeg"}, title=HOSTILE, lead=HOSTILE)
    found = parsed(page)
    assert "script" not in {tag for tag, _ in found.tags}
    assert [attributes["src"] for tag, attributes in found.tags if tag == "img"] == ["data:image/jpeg;base64,anBlZw=="]
    assert page.count("<figure>") == 2
    assert "Dropped now (2)" in found.text
    policy = next(attributes["content"] for tag, attributes in found.tags if attributes.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
