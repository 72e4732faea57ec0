"""Eight questions about each image, 16 tokens each: the packed engine, which sees an image once, against `generate`.

python benchmarks/engine_questions.py
"""

import sys

from engine_sides import Ask, compare
from models import photos

NUM_IMAGES = 3
QUESTIONS = (
    "What is in this picture?",
    "What colour is the background?",
    "How many people are there?",
    "Is there an animal? Answer yes or no.",
    "What is written here?",
    "Where was it taken?",
    "What time of day is it?",
    "Describe the largest object in one sentence.",
)


def main() -> int:
    """Measure, and report the ratio."""
    asks = [Ask(photo, question, 16) for photo in photos(NUM_IMAGES) for question in QUESTIONS]
    return compare("8 questions on each image", asks, rounds=1, bars={"best": ">= 5"})


if __name__ == "__main__":
    sys.exit(main())
