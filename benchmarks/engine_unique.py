"""Captions of different images of mixed sizes, 32 tokens each: the packed engine against `generate` at batch 1 to 8.

python benchmarks/engine_unique.py
"""

import sys

from engine_sides import Ask, compare
from models import photos

NUM_IMAGES = 16


def main() -> int:
    """Measure, and report the ratios."""
    asks = [Ask(photo, "Describe this image in detail.", 32) for photo in photos(NUM_IMAGES)]
    return compare("different images", asks, rounds=1, bars={"best": ">= 1.5", "batch 8": ">= 1.8"})


if __name__ == "__main__":
    sys.exit(main())
