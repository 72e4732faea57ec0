"""What the page of results lists as not fully right."""

from pipelines.evaluation.items import Item, Judged
from pipelines.evaluation.results_page import lost_items


def judged(name: str, answer: str | None, score: float, *references: str) -> Judged:
    item = Item(item_id=name, image="", question="", prompt="", references=references)
    return Judged(item=item, reply=answer or "", answer=answer, values=(score,))


def test_what_lost_most_comes_first_and_full_marks_are_left_out() -> None:
    # an answer that one of ten annotators gave has a part of the marks
    items = [judged("a", "red", 0.3, "red", "blue"), judged("b", "no", 1.0, "no"), judged("c", None, 0.0, "two")]
    assert [one.item.item_id for one in lost_items(items)] == ["c", "a"]


def test_a_caption_that_beats_1_in_cider_is_still_wrong_unless_it_equals_a_reference() -> None:
    items = [
        judged("near", "a red star", 6.2, "a blue star", "one blue star"),
        judged("equal", "two dogs", 7.5, "a dog", "two dogs"),
        judged("far", "a cat", 0.4, "a green sign"),
    ]
    assert [one.item.item_id for one in lost_items(items)] == ["far", "near"]
    assert lost_items(items[1:2]) == []
