"""Five questions about each image, as an evaluation asks them, against as many requests that share nothing.

python benchmarks/evaluation_cost.py

Both sides are this engine with the same weights, prompts, batch size and 4 tokens of answer. One call has all questions
of an image side by side; the peer asks the first question of every image, forgets everything, asks the second, and on.
What an image costs does not depend on how many there are, so a few stand for a thousand.
"""

import sys
import time

from engine_sides import Ask, Sides
from models import photos
from report import report

from llava_core.prompts import SHORT_SUFFIX

NUM_IMAGES, NUM_TOKENS, ROUNDS, BAR = 3, 4, 1, 4
QUESTIONS = (
    "What is in this picture?",
    "What colour is the background?",
    "How many people are there?",
    "Is there an animal?",
    "What is written here?",
)


def main() -> int:
    """Measure, and report the ratio."""
    sides = Sides()
    pictures = list(photos(NUM_IMAGES))
    together = [Ask(one, f"{text}\n{SHORT_SUFFIX}", NUM_TOKENS) for one in pictures for text in QUESTIONS]
    apart = [[Ask(one, f"{text}\n{SHORT_SUFFIX}", NUM_TOKENS) for one in pictures] for text in QUESTIONS]
    sides.ours(together[:1])
    best = {"together": float("inf"), "apart": float("inf")}
    for _ in range(ROUNDS):
        started = time.perf_counter()
        sides.ours(together)
        middle = time.perf_counter()
        for asks in apart:
            sides.ours(asks)
        best["together"] = min(best["together"], middle - started)
        best["apart"] = min(best["apart"], time.perf_counter() - middle)
    each = {name: seconds / len(together) for name, seconds in best.items()}
    print(f"{each['together']:.3f} s an answer together, {each['apart']:.3f} s apart, {len(together)} answers")
    claim = "an evaluation of 5 questions an image, against requests that share nothing"
    held = report(claim, best["apart"] / best["together"], "x", f">= {BAR}", "the same engine, nothing shared")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
