"""Scoring 200,000 VQA answers of ten annotators each, on one core: accuracy, its interval, breakdown by answer type.

python benchmarks/score_vqa.py

Answers and references are drawn from words, numbers and phrases with marks, articles and contractions; few of
them are the same, so that nothing is won by remembering. The limit is a minute.
"""

import random
import sys
import time

from report import report

from pipelines.evaluation.benchmarks import find_benchmark
from pipelines.evaluation.items import Item
from pipelines.evaluation.scoring import Reply, join, judge_items, make_result

ANSWERS, PER_IMAGE, SECONDS = 200_000, 5, 60
WORDS = (
    "yes",
    "no",
    "two",
    "red",
    "the",
    "a",
    "dog",
    "dont",
    "t-shirt",
    "1,000",
    "black/white",
    "left",
    "3.5",
    "man's",
)


def main() -> int:
    """Measure, and report the seconds."""
    draw = random.Random(0)
    phrases = [" ".join(draw.choices(WORDS, k=draw.randint(1, 3))) + str(draw.randint(0, 40)) for _ in range(60_000)]
    items = []
    for number in range(ANSWERS):
        known = draw.sample(phrases, 3)
        items.append(
            Item(
                item_id=str(number),
                image=f"{number // PER_IMAGE}.jpg",
                question="What is it?",
                prompt="What is it?",
                references=tuple(draw.choices(known, weights=(6, 3, 1), k=10)),
                category=draw.choice(("yes/no", "number", "other")),
            )
        )
    replies = [Reply(item_id=item.item_id, text=draw.choice((*item.references, "zebra."))) for item in items]
    benchmark = find_benchmark("vqav2")
    started = time.process_time()
    joined = join(items, replies)
    judged = judge_items(benchmark, benchmark.parsers["first line"], joined.pairs)
    result = make_result(benchmark, judged, joined, len(items))
    seconds = time.process_time() - started
    one = result.scores["VQA accuracy"]
    print(f"VQA accuracy {one.value:.2f} [{one.low:.2f}, {one.high:.2f}] of {ANSWERS:,} answers")
    claim = "scoring 200,000 VQA answers with interval and breakdown, processor time"
    return 0 if report(claim, seconds, "s", f"<= {SECONDS}", "a minute on one core") else 1


if __name__ == "__main__":
    sys.exit(main())
