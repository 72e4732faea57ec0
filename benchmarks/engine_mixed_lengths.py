"""Answers that end after 4 to 128 tokens: the packed engine, which refills, against `generate`, which waits.

python benchmarks/engine_mixed_lengths.py
"""

import sys

import numpy as np
from engine_sides import Ask, compare
from models import photos

NUM_IMAGES = 16


def main() -> int:
    """Measure, and report the ratio."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(4), np.log(128), NUM_IMAGES)).round().astype(int)
    asks = [
        Ask(photo, "Describe this image.", int(length))
        for photo, length in zip(photos(NUM_IMAGES), lengths, strict=True)
    ]
    return compare("answers of 4 to 128 tokens", asks, rounds=1, bars={"best": ">= 1.5"})


if __name__ == "__main__":
    sys.exit(main())
