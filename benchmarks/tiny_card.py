"""Puts a model that `--recipe tiny` trained into the package, with its card: how it came to be and what it can do.

    python jobs/train.py --recipe tiny --output out/tiny
    python benchmarks/tiny_model.py --model out/tiny/model --results out/tiny/exam.json
    python benchmarks/tiny_card.py out/tiny out/tiny/exam.json

A run that went on from the embedded model (`--stages highres --model tiny`) adds to what its card says of its way.
Every number of the card is read from the run's own record and metrics, and from the exam's results.
"""

import argparse
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from tiny_model import BARS, GAIN, GAIN_BAR

from llava_core.checkpoints import revision
from llava_core.errors import ConfigError
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

{way}

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
    results = json.loads(options.results.read_text())
    weights = options.run / "model/model.safetensors"
    short = [f"{name} ({bar})" for name, bar in BARS.items() if _number(results[name]) < _number(bar.lstrip(">= "))]
    gain = _number(results["receipt fields, any-res"]) - _number(results["receipt fields, base view"])
    short += [f"{GAIN} ({GAIN_BAR} points)"] if gain < _number(GAIN_BAR.lstrip(">= ")) else []
    way, curves = _way(options.run, options.note)
    card = CARD.format(
        millions=f"{weights.stat().st_size / 4e6:.1f}",
        short=", ".join(short) or "nothing",
        way="\n".join(way),
        curves="\n".join(curves),
        results="\n".join(f"| {name} | {figure} |" for name, figure in results.items()),
    )
    for name in FILES:
        shutil.copyfile(options.run / "model" / name, ASSETS / name)
    (ASSETS / "README.md").write_text(card)


def _number(text: str) -> float:
    return float(text.split()[0])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _way(run: Path, note: str) -> tuple[list[str], list[str]]:
    """How the model came to be, and the table of its losses: a line for each thing, a row for each stage."""
    record = json.loads((run / "_run/train.json").read_text())
    settings = record["settings"]
    names = [name for name in settings["stages"] if (run / name / "metrics.jsonl").exists()]
    stages = {name: _lines(run / name / "metrics.jsonl") for name in names}
    drawings = {name: ", ".join(settings["stages"][name]["inputs"]).partition("=")[2] for name in names}
    took = {name: duration(sum(line["seconds"] for line in lines)) for name, lines in stages.items()}
    workers = json.loads((run / names[-1] / "model/COMPLETE.json").read_text())["world_size"]
    goes_on = names[0] != tiny()[0].name
    last = settings["stages"][names[-1]]["max_steps"]
    chosen = f" --stages {' '.join(names)} --model tiny" if goes_on else ""
    chosen += f" --limit-steps {last}" if last != tiny()[-1].max_steps else ""
    way = [
        f"- command: `python jobs/train.py --recipe tiny{chosen} --num-workers {workers}`, seed {settings['seed']}, "
        "float32 on CPU",
        "- drawings, by stage: " + "; ".join(f"{name} `{text}`" for name, text in drawings.items()),
        "- steps, and the time in them: "
        + ", ".join(f"{name} {len(lines):,} in {took[name]}" for name, lines in stages.items()),
    ]
    way += [f"- commit {record['versions']['git']}"] if "git" in record["versions"] else []
    way += [f"- {note}"] if note else []
    curves = [_curve(f"{name}, again" if goes_on else name, lines) for name, lines in stages.items()]
    if goes_on:
        if revision(ASSETS) != settings["model"]:
            # another model's way is not in this card, and one that is there already would stand twice
            raise ConfigError(f"the run began from model {settings['model']}, the embedded one is {revision(ASSETS)}")
        _, _, before = (ASSETS / "README.md").read_text().partition("## How it came to be")
        lines = before.partition("## What it can do")[0].splitlines()
        return (
            [*(line for line in lines if line.startswith("- ")), "", "Then, from the model that this made:", "", *way],
            [*(line for line in lines if line.startswith("|")), *curves],
        )
    head = ["| stage |" + "".join(f" {place + 1} |" for place in range(POINTS)), "|---" * (POINTS + 1) + "|"]
    return way, head + curves


def _curve(name: str, lines: list[dict[str, Any]]) -> str:
    """A column for each tenth."""
    cuts = [len(lines) * place // POINTS for place in range(POINTS + 1)]
    means = [
        sum(line["loss"] for line in lines[start:stop]) / (stop - start) for start, stop in itertools.pairwise(cuts)
    ]
    return f"| {name} |" + "".join(f" {mean:.2f} |" for mean in means)


if __name__ == "__main__":
    main()
