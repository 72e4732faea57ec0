"""Groups of items that are right only together, where some of their items have no reply."""

from pathlib import Path

import pytest

from llava_core.errors import ConfigError
from pipelines.evaluation.benchmarks import find_benchmark
from pipelines.evaluation.compare import compare_runs, read_judged
from pipelines.evaluation.items import Item, Judged
from pipelines.evaluation.scoring import Reply, Result, join, judge_items, make_result, result_rows
from pipelines.parts import write_fragment
from pipelines.upkeep import replace_table
from schemas.result import RESULT

# a: whole and right; b: whole and wrong in one; c: right in what it has, one of three lost
GROUPS = {"a": "yyy", "b": "ynn", "c": "yy-"}
PAIRS = {"a": "yy", "b": "yn", "c": "y-"}


def _items(groups: dict[str, str], right: str, category: str = "") -> list[Item]:
    return [
        Item(
            item_id=f"{name}/{place}",
            image=f"{name}{place}",
            question="?",
            prompt="?",
            references=(right,),
            choices=("cat", "dog"),
            category=category,
            group=name,
        )
        for name, given in groups.items()
        for place in range(len(given))
    ]


def _run(name: str, groups: dict[str, str], right: str, wrong: str, category: str = "") -> tuple[list[Judged], Result]:
    """Replies of a benchmark: "y" is right, "n" wrong, "-" none."""
    benchmark, items = find_benchmark(name), _items(groups, right, category)
    given = [one for text in groups.values() for one in text]
    texts = {"y": right, "n": wrong}
    replies = [Reply(item_id=item.item_id, text=texts.get(one)) for item, one in zip(items, given, strict=True)]
    joined = join(items, replies)
    judged = judge_items(benchmark, next(iter(benchmark.parsers.values())), joined.pairs)
    return judged, make_result(benchmark, judged, joined, len(items))


def _values(result: Result) -> dict[str, float]:
    return {name: one.value for name, one in result.scores.items()}


def test_a_group_that_lacks_items_has_no_part_in_what_they_are_together() -> None:
    _, circular = _run("mmbench-circular", GROUPS, "A", "B")
    assert _values(circular) == {"circular accuracy": 50.0, "accuracy": pytest.approx(600 / 8)}
    _, nlvr = _run("nlvr", GROUPS, "true", "false")
    assert _values(nlvr) == {"accuracy": pytest.approx(600 / 8), "consistency": 50.0}
    assert not nlvr.complete


def test_acc_plus_of_mme_is_of_images_with_both_questions() -> None:
    _, result = _run("mme", PAIRS, "yes", "no", category="OCR")
    # acc: 4 of 5 questions; acc+: 1 of the 2 images that have both
    assert _values(result) == {"perception": pytest.approx(80 + 50)}
    _, alone = _run("mme", {"a": "y-", "b": "-y"}, "yes", "no", category="OCR")
    assert _values(alone) == {"perception": pytest.approx(100)}


def test_where_no_group_is_whole_there_is_no_score_of_groups() -> None:
    _, result = _run("mmbench-circular", {"a": "yy-", "b": "-n"}, "A", "B")
    assert _values(result) == {"accuracy": pytest.approx(200 / 3)}
    assert result.constant is None


def _table(folder: Path, groups: dict[str, str]) -> str:
    """A table of scores, as an evaluation writes it."""
    benchmark, items = find_benchmark("mmbench-circular"), _items(groups, "A")
    texts = {"y": "A", "n": "B"}
    given = [texts.get(one) for text in groups.values() for one in text]
    joined = join(items, [Reply(item_id=item.item_id, text=one) for item, one in zip(items, given, strict=True)])
    judged = judge_items(benchmark, next(iter(benchmark.parsers.values())), joined.pairs)
    order = [item.item_id for item in items]
    rows = result_rows(benchmark, "dev", judged, joined.gaps, order=order, run_id="1")
    uri = str(folder)
    receipt = write_fragment(rows, RESULT, table_uri=uri, fragment_id="items", run_id="1")
    replace_table(uri, [receipt], run_id="1", schema=RESULT)
    return uri


def test_two_runs_are_compared_by_groups_that_are_whole_in_both(tmp_path: Path) -> None:
    before = read_judged(_table(tmp_path / "before", {"a": "yyy", "b": "yny", "c": "yyy"}))
    # of c, one was not even asked for: its other items are right, and the group is nobody's
    after = read_judged(_table(tmp_path / "after", {"a": "yy-", "b": "yyy", "c": "yy"}))
    found = compare_runs(find_benchmark("mmbench-circular"), before, after)
    assert (found.difference.first, found.difference.second) == (0.0, 100.0)
    assert (len(found.pairs), found.only) == (7, (2, 0))
    with pytest.raises(ConfigError, match="no group of items of mmbench-circular is whole in both runs"):
        compare_runs(find_benchmark("mmbench-circular"), before[:3], after[:2])
