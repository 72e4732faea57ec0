"""The lean towards yes, where answers are short texts and references are many."""

from pipelines.evaluation.benchmarks import find_benchmark
from pipelines.evaluation.hallucination import YesBias, yes_biases
from pipelines.evaluation.items import Item, Judged
from pipelines.evaluation.scoring import judge_items


def _judged(reply: str, *references: str) -> Judged:
    item = Item(item_id="1", image="a", question="Is it?", prompt="Is it?", references=references)
    return Judged(item=item, reply=reply, answer=reply, values=(0.0,))


def test_answers_with_punctuation_are_yes_and_no_as_they_are_scored() -> None:
    gqa = find_benchmark("gqa")
    items = [_judged("", word).item for word in ("yes", "no", "no", "yes", "yes")]
    replies = ["Yes.", "yes!", "**No**", "no, sir", "No."]
    judged = judge_items(gqa, next(iter(gqa.parsers.values())), list(zip(items, replies, strict=True)))
    # of two noes one is seen as yes, of three yeses one is denied and one has an answer that is neither
    assert yes_biases(judged) == [YesBias(category="", asked=5, said_yes=2, is_yes=3, false_yes=1, false_no=1)]


def test_the_truth_is_what_most_annotators_say() -> None:
    judged = [
        _judged("yes", "no", "yes", "yes"),
        _judged("no", "yes", "no", "no", "2"),
        _judged("no", "yes", "two", "two"),  # most say neither: no question of yes or no
        _judged("no"),
    ]
    assert yes_biases(judged) == [YesBias(category="", asked=2, said_yes=1, is_yes=1, false_yes=0, false_no=0)]
