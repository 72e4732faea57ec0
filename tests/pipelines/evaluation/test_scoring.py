"""Replies brought to items, results of partial runs, statistics, comparison."""

import json
from pathlib import Path

import numpy as np
import pytest

from llava_core.errors import ConfigError
from pipelines.evaluation.benchmarks import BENCHMARKS, find_benchmark
from pipelines.evaluation.compare import compare_runs, comparison_line, render_comparison
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import Item, Judged
from pipelines.evaluation.output import score_line
from pipelines.evaluation.scoring import Reply, join, judge_items, make_result
from pipelines.evaluation.statistics import Tally, bootstrap, compare
from pipelines.evaluation.totals import tally
from schemas.result import ResultReason
from tests.pipelines.evaluation.benchmark_cases import items_of, perfect, scored


def _items(count: int) -> list[Item]:
    return [
        Item(item_id=str(n), image=f"{n // 2}.jpg", question="Is it?", prompt="Is it?", references=("yes",))
        for n in range(count)
    ]


def _judged(scores: list[float]) -> list[Judged]:
    return [
        Judged(item=item, reply="r", answer="r", values=(score,))
        for item, score in zip(_items(len(scores)), scores, strict=True)
    ]


def test_every_kind_of_trouble_is_named_and_counted() -> None:
    replies = [
        Reply(item_id="0", text="yes"),
        Reply(item_id="0", text="yes"),
        Reply(item_id="1", text="yes"),
        Reply(item_id="1", text="no"),
        Reply(item_id="2", error="NOT_FOUND", error_detail="gone"),
        Reply(item_id="77", text="yes"),
    ]
    found = join(_items(5), replies)
    assert [item.item_id for item, _ in found.pairs] == ["0"]
    assert [(gap.item.item_id, gap.error) for gap in found.gaps] == [
        ("1", ResultReason.TWO_ANSWERS),
        ("2", "NOT_FOUND"),
        ("3", ResultReason.NOT_ANSWERED),
        ("4", ResultReason.NOT_ANSWERED),
    ]
    assert (found.unknown, found.repeated) == (("77",), ("0",))
    benchmark = find_benchmark("gqa")
    judged = judge_items(benchmark, benchmark.parsers["first line"], found.pairs)
    result = make_result(benchmark, judged, found, 5)
    assert not result.complete
    assert result.gaps == {"TWO_ANSWERS": 1, "NOT_FOUND": 1, "NOT_ANSWERED": 2}
    assert score_line(result).startswith("PARTIAL, 1 of 5 items: accuracy 100.0")
    assert any("77" in ids for what, ids in result.named.items() if "no item's" in what)


@pytest.mark.parametrize(
    "name", [one.name for one in BENCHMARKS if "first line" in one.parsers and one.name != "drawn"]
)
def test_a_reply_that_explains_itself_is_scored_whole_as_the_tools_do(name: str) -> None:
    benchmark = find_benchmark(name)
    item = Item(item_id="1", image="a.jpg", question="Is it?", prompt="Is it?", references=("yes",) * 10)
    found = {}
    for parser in (next(iter(benchmark.parsers)), "first line"):
        [one] = judge_items(benchmark, benchmark.parsers[parser], [(item, " yes\nThe man wears a hat and a coat. ")])
        found[parser] = (one.answer, one.score)
    assert found == {"whole reply": ("yes\nThe man wears a hat and a coat.", 0.0), "first line": ("yes", 1.0)}


def test_answers_of_another_split_are_refused() -> None:
    with pytest.raises(ConfigError, match="none of the 2 answers is about an item of this split"):
        join(_items(3), [Reply(item_id="v1", text="a"), Reply(item_id="v2", text="a")])


def test_a_limited_run_is_partial_although_every_item_asked_has_a_reply(tmp_path: Path) -> None:
    benchmark = find_benchmark("gqa")
    items = items_of("gqa", tmp_path)
    judged, joined, _ = scored(benchmark, items[:1], perfect)
    assert not make_result(benchmark, judged, joined, len(items)).complete


def test_without_references_nothing_is_scored(tmp_path: Path) -> None:
    items = [Item(item_id="1", image="a", question="?", prompt="?")]
    _, _, result = scored(find_benchmark("vqav2"), items, lambda item: "yes")
    assert not result.scores and not result.complete
    assert score_line(result) == "no score: 1 of 1 items answered, none can be scored here"


def test_intervals_draw_images_with_all_their_questions() -> None:
    metric = find_benchmark("gqa").metric
    # both questions of an image are right or wrong together: as if there were half as many
    pairs = tally(_judged([1, 1, 0, 0] * 50), metric)
    assert pairs.parts.shape == (100, 1, 2)
    alone = Tally(units=tuple(map(str, range(200))), categories=("",), parts=np.repeat(pairs.parts / 2, 2, axis=0))
    wide, narrow = (bootstrap(one, metric.total)["accuracy"] for one in (pairs, alone))
    assert wide.value == narrow.value == 50
    # 1.96 * 50 / sqrt(100) = 9.8 on each side, against 6.9
    assert wide.high - wide.low == pytest.approx(19.6, abs=3)
    assert narrow.high - narrow.low == pytest.approx(13.9, abs=2)


def test_a_difference_within_chance_is_not_significant_and_a_large_one_is() -> None:
    metric = find_benchmark("gqa").metric
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, 400).astype(float).tolist()
    same = [value if place % 10 else 1 - value for place, value in enumerate(base)]
    better = [1.0 if place % 4 == 0 else value for place, value in enumerate(base)]
    first, second, third = (tally(_judged(one), metric) for one in (base, same, better))
    assert compare(first, second, metric.total, "accuracy").p_value > 0.05
    found = compare(first, third, metric.total, "accuracy")
    assert found.p_value < 0.001 and found.low > 0
    assert compare(first, first, metric.total, "accuracy").p_value == 1.0


def test_a_comparison_shows_what_flipped_worst_first() -> None:
    one = compare_runs(find_benchmark("gqa"), _judged([1, 1, 0, 0, 1]), _judged([1, 0, 1, 0, 1])[:4])
    assert [before.item.item_id for before, _ in one.flipped] == ["1", "2"]
    assert one.only == (1, 0)
    assert "of 4 items 1 better, 1 worse" in comparison_line(one)
    page = render_comparison([one], "<before>", "after")
    assert "&lt;before&gt;" in page and page.index(">1</td>") < page.index(">2</td>")
    with pytest.raises(ConfigError, match="no scored item in common"):
        compare_runs(find_benchmark("gqa"), _judged([1]), [])


def test_the_constant_answer_is_the_most_frequent_reference(tmp_path: Path) -> None:
    _, _, result = scored(find_benchmark("nlvr"), items_of("nlvr", tmp_path), lambda item: "false")
    assert result.scores["accuracy"].value == pytest.approx(100 / 3)
    assert result.constant == ("true", pytest.approx(200 / 3))


def test_categories_have_their_own_scores(tmp_path: Path) -> None:
    _, _, result = scored(find_benchmark("chartqa"), items_of("chartqa", tmp_path), lambda item: "40")
    assert result.categories == {"augmented": (2, 50.0), "human": (1, 0.0)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"benchmark": ("vqa3",)}, "expected one of vqav2"),
        ({"benchmark": ("pope",)}, "pope needs a folder"),
        ({"benchmark": ("pope", "nlvr"), "data": ("x",)}, "NAME=FOLDER"),
        ({"benchmark": ("pope",), "data": ("x",), "split": "val"}, "pope has coco"),
        ({"benchmark": ("pope",), "data": ("x",), "parser": "loose"}, 'pope has "llava", "strict"'),
        ({"benchmark": ("pope",), "data": ("x",), "ocr_tokens": True}, "pope has none"),
        ({"compare": ("a",)}, "expected two"),
        ({"benchmark": ("drawn", "drawn")}, "each once"),
        ({"limit": 0}, "limit"),
        ({"benchmark": ("drawn", "drawn-captions"), "answers": "a.jsonl"}, "one --benchmark"),
    ],
)
def test_wrong_settings_are_refused_on_the_driver(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EvaluateConfig(**settings)  # type: ignore[arg-type]


def test_folders_go_to_their_benchmarks() -> None:
    config = EvaluateConfig(benchmark=("drawn", "nlvr", "pope"), data=("pope=p", "n"))
    assert config.folders == {"pope": "p", "nlvr": "n"}
    assert json.dumps(config.handed_on())
