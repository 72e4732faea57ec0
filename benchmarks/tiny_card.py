"""Puts a model that `--recipe tiny` trained into the package, with its card: how it came to be and what it can do.

    python jobs/train.py --recipe tiny --output out/tiny
    python benchmarks/tiny_model.py --model out/tiny/model --results out/tiny/exam.json
    python benchmarks/tiny_card.py out/tiny out/tiny/exam.json

Every number of the card is read from the run's own record and metrics, and from the exam's results.
"""

import argparse
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_model import BARS

from pipelines.progress import duration
from pipelines.training.recipes import tiny

ASSETS = Path(__file__).parents[1] / "llava_core/assets/tiny"
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
POINTS = 10
"""Rows of each loss curve."""
CARD = """# tiny, the embedded model

A LLaVA-NeXT of {millions} million parameters, trained to read drawn receipts, signs and charts, to describe drawn
scenes of coloured shapes and to tell whether a statement about boxes of blocks is true; how well it does stands below.
It is here so that every job runs without a download. On photographs it is out of its depth: it answers in the words of
drawings, whatever the photograph shows. It knows English questions of the kinds in its training and no others, and is
of no use beyond trying Tessera out.

## How it came to be

Trained from nothing by Tessera's own code, on drawings that `pipelines/synthetic` makes as they are asked for; no
photograph, no text and no weights from elsewhere.

- command: `python jobs/train.py --recipe tiny --num-workers {workers}`, seed {seed}, float32 on CPU
- drawings, by stage: {data}
- steps, and the time in them: {times}
{note}
## The loss on its way

Mean over each tenth of a stage.

{curves}

## What it can do

`python benchmarks/tiny_model.py` on held-out drawings (another seed; words and layouts that training never had),
greedy, each question alone; 95 % intervals.

| | right |
|---|---|
{results}

Lines and values of receipts, and letters of signs where there is room, are laid clear of the edges between tiles; what
an edge cuts is read less well.
Chart values are twentieths of their axis, right within one. Statements are as often false as true, so that guessing has
50 %; of what is counted aloud only the verdict is marked. Short of what it was made for, in percent: {short}.
"""


def main() -> None:
    """Write the card, and copy the model beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of the training job")
    parser.add_argument("results", type=Path, help="of the exam")
    parser.add_argument("--note", default="", help="what the run's record does not say, a sentence or two")
    options = parser.parse_args()
    record = json.loads((options.run / "_run/train.json").read_text())
    settings = record["settings"]["stages"]
    stages = {stage.name: _lines(options.run / stage.name / "metrics.jsonl") for stage in tiny()}
    results = json.loads(options.results.read_text())
    inputs = {name: ", ".join(settings[name]["inputs"]) for name in stages}
    weights = options.run / "model/model.safetensors"
    short = [f"{name} ({bar})" for name, bar in BARS.items() if _number(results[name]) < _number(bar.lstrip(">= "))]
    card = CARD.format(
        note=f"- {options.note}\n" if options.note else "",
        millions=f"{weights.stat().st_size / 4e6:.1f}",
        seed=record["settings"]["seed"],
        workers=json.loads((options.run / tiny()[-1].name / "model/COMPLETE.json").read_text())["world_size"],
        short=", ".join(short) or "nothing",
        data="; ".join(f"{name} `{text.partition('=')[2]}`" for name, text in inputs.items()),
        times=", ".join(
            f"{name} {len(lines):,} in {duration(sum(line['seconds'] for line in lines))}"
            for name, lines in stages.items()
        ),
        curves="\n".join(_curve(stages)),
        results="\n".join(f"| {name} | {figure} |" for name, figure in results.items()),
    )
    for name in FILES:
        shutil.copyfile(options.run / "model" / name, ASSETS / name)
    (ASSETS / "README.md").write_text(card)


def _number(text: str) -> float:
    return float(text.split()[0])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _curve(stages: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """A row for each stage, a column for each tenth."""
    rows = ["| stage |" + "".join(f" {place + 1} |" for place in range(POINTS)), "|---" * (POINTS + 1) + "|"]
    for name, lines in stages.items():
        cuts = [len(lines) * place // POINTS for place in range(POINTS + 1)]
        means = [
            sum(line["loss"] for line in lines[start:stop]) / (stop - start) for start, stop in itertools.pairwise(cuts)
        ]
        rows.append(f"| {name} |" + "".join(f" {mean:.2f} |" for mean in means))
    return rows


if __name__ == "__main__":
    main()
