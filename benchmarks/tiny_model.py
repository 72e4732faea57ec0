"""What the small model reads and sees on held-out drawings: another seed, words and layouts that training never had.

    python benchmarks/tiny_model.py [--num N] [--model FOLDER] [--results FILE]

Fields of receipts, through all tiles and through the base tile alone; words of signs; captions that name every shape
with its colour and no other; chart values within 5 % of the axis; yes/no questions about shapes (F1 of "yes", half of
the questions about absent ones); statements about boxes, true or false. Every question is asked alone, greedily, by the
packed engine. An embedded model that says of itself that it is not trained is not examined, unless `--model` names it.
"""

import argparse
import json
import sys
from pathlib import Path

from report import report
from tiny_exam import Examiner, Figure

NUM = 1_000
BARS = {
    "receipt fields, any-res": ">= 85",
    "sign words": ">= 70",
    "scene captions": ">= 85",
    "chart values": ">= 50",
    "yes/no F1": ">= 80",
}
"""Percent; F1 is 0.80 there."""
GAIN, GAIN_BAR = "receipt fields, any-res less base view", ">= 60"
"""Points."""


def main() -> int:
    """Examine, print a line for each figure and a claim for each bar, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=NUM, help="images of each task")
    parser.add_argument("--model", default=None, help="a checkpoint folder, in place of the embedded model")
    parser.add_argument("--results", type=Path, help="where the figures are written as JSON, for `tiny_card.py`")
    options = parser.parse_args()
    examiner = Examiner(options.model or "tiny", options.num)
    if not examiner.trained and options.model is None:
        for name, bar in {**BARS, GAIN: GAIN_BAR}.items():
            report(f"tiny model: {name}", None, "%", bar, "the embedded model is not trained: its config says so")
        return 0
    figures = examiner.figures()
    for name, figure in figures.items():
        print(f"{name:26} {figure}", flush=True)
    if options.results is not None:
        options.results.write_text(json.dumps({name: str(figure) for name, figure in figures.items()}, indent=1))
    gain = figures["receipt fields, any-res"].value - figures["receipt fields, base view"].value
    figures[GAIN] = Figure(max(gain, 0.0), options.num)
    holds = [
        report(f"tiny model: {name}", 100 * figures[name].value, "%", bar, f"truth of {options.num} held-out images")
        for name, bar in {**BARS, GAIN: GAIN_BAR}.items()
    ]
    return int(not all(holds))


if __name__ == "__main__":
    sys.exit(main())
