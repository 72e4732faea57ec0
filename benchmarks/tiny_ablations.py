"""The document's ablations at the small model's scale: tiles, projector depth, clean against noisy data.

    python benchmarks/tiny_ablations.py [--steps N] [--seeds N] [--num N] [--processes N] [--only NAME ...]

    single view / 2×2 / any-res(5)      tiles that the model has, in training and in the exam
    projector 1 / 2 / 3                 linear layers
    clean / noisy                       30 % of training drawings with another drawing's answers

Every variant begins as LLaVA does, with a tower and a language model that are trained (the embedded model's, or
those of `--parts`) and a projector that is new. The stages `align` and `instruct` of the recipe `tiny` train it, short
ones of at most `--steps` steps, on receipts, scenes and signs alone. Everything but what is compared is equal, the
steps too, so a variant with fewer tiles takes less time. What this cannot tell: the language model has learned from
any-res(5), clean data and two layers before, which a language model of text alone has not.

Each run is a process with its share of the cores, and is not done again once done. The table has each seed's result
and, in brackets, the 95 % interval of all of them together (Wilson, over questions: seeds are too few for one over
seeds).
"""

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tiny_exam import Examiner, Figure

from llava_core.checkpoints import load_model, resolve_model, revision
from llava_core.checkpoints.fresh import PINPOINTS, new_model, word_tokenizer
from pipelines.synthetic.source import VERSION
from pipelines.training.config import TrainConfig
from pipelines.training.job import settle
from pipelines.training.loop import StageWork, run_stage
from pipelines.training.recipes import tiny
from pipelines.training.sources import index_inputs

DRAWINGS = "pipelines.synthetic.source:Drawings=receipt:2,scene:2,sign;seed=2"
RESULT = "result.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row of the table."""

    name: str
    """What it is called."""
    pinpoints: tuple[tuple[int, int], ...] = PINPOINTS
    """Canvases, in tiles."""
    projector_layers: int = 2
    """Linear layers of the connector."""
    noise: float = 0.0
    """Share of drawings with another's answers."""


VARIANTS = (
    Variant(name="single view", pinpoints=()),
    Variant(name="2x2", pinpoints=((2, 2),)),
    Variant(name="any-res(5), projector 2, clean"),
    Variant(name="projector 1", projector_layers=1),
    Variant(name="projector 3", projector_layers=3),
    Variant(name="noisy", noise=0.3),
)
BY_NAME = {one.name: one for one in VARIANTS}


def beginning(variant: Variant, seed: int, parts: str, folder: Path) -> str:
    """A model of a variant with trained parts and a new projector, written once."""
    target = folder / "start"
    if not (target / "config.json").exists():
        model = new_model(seed, variant.projector_layers, variant.pinpoints)
        trained = load_model(parts)
        model.image_processor.load_state_dict(trained.image_processor.state_dict())
        model.language_model.load_state_dict(trained.language_model.state_dict())
        model.save_pretrained(target, tokenizer=word_tokenizer())
    return str(target)


def works(variant: Variant, seed: int, options: argparse.Namespace, folder: Path) -> list[StageWork]:
    """The stages of one run."""
    config = TrainConfig(
        recipe="tiny",
        model=beginning(variant, seed, options.parts, folder),
        output=str(folder),
        stages=("align", "instruct"),
        limit_steps=options.steps,
        seed=seed,
    )
    align, instruct = settle(config).works
    drawings = f"{DRAWINGS};noise={variant.noise}"
    return [reading(align, drawings + ";grid"), reading(instruct, drawings)]


def reading(work: StageWork, drawings: str) -> StageWork:
    """A stage that reads other drawings, under an identity of its own."""
    stage = dataclasses.replace(work.stage, inputs=(drawings,))
    identity = f"{work.identity};{drawings}"
    return dataclasses.replace(
        work, stage=stage, inputs=index_inputs(stage.inputs), identity=identity, folder=work.output
    )


def run_one(variant: Variant, seed: int, options: argparse.Namespace, folder: Path) -> None:
    """Train one variant with one seed, examine it, and write what came out."""
    started = time.monotonic()
    for work in works(variant, seed, options, folder):
        run_stage(work, torch.device("cpu"))
    seconds = time.monotonic() - started
    examiner = Examiner(folder / "model", options.num)
    receipts = examiner.receipts()
    figures = {
        "receipt fields": receipts["receipt fields, any-res"],
        "base view": receipts["receipt fields, base view"],
        **examiner.signs(),
        "scene captions": examiner.captions(),
        "yes/no F1": examiner.presence(),
    }
    values = {name: dataclasses.astuple(figure) for name, figure in figures.items()}
    (folder / RESULT).write_text(json.dumps({"seconds": seconds, "figures": values}))


def finished(variant: Variant, seed: int, options: argparse.Namespace) -> Path:
    """The file that a run ends with; it is made by a process of its own where it is not there."""
    parts = revision(resolve_model(options.parts))
    # what the drawings and the recipe are, so that results of others are not taken for these
    made_of = hashlib.sha256(f"{VERSION};{DRAWINGS};{tiny()}".encode()).hexdigest()[:8]
    name = f"{variant.name.replace(' ', '-')}-{seed}-{options.steps}-{options.num}-{parts}-{made_of}"
    folder = Path(options.output) / name
    result = folder / RESULT
    if result.exists():
        return result
    folder.mkdir(parents=True, exist_ok=True)
    words = ["--run", variant.name, str(seed), str(folder), "--parts", options.parts]
    words += ["--steps", str(options.steps), "--num", str(options.num)]
    threads = max(1, (os.cpu_count() or 1) // options.processes)
    with (folder / "log.txt").open("w") as log:
        subprocess.run(
            [sys.executable, __file__, *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    minutes = json.loads(result.read_text())["seconds"] / 60
    print(f"{variant.name}, seed {seed}: trained in {minutes:.1f} min", flush=True)
    return result


def table(results: dict[str, list[Path]]) -> str:
    """The results as a table in Markdown: percent, each seed's and the interval of all."""
    lines = []
    for name, paths in results.items():
        found = [json.loads(path.read_text()) for path in paths]
        figures = {figure: pooled([Figure(*one["figures"][figure]) for one in found]) for figure in found[0]["figures"]}
        if not lines:
            lines = ["| | " + " | ".join(figures) + " |", "|---" * (len(figures) + 1) + "|"]
        lines.append(f"| {name} | " + " | ".join(figures.values()) + " |")
    return "\n".join(lines)


def pooled(figures: list[Figure]) -> str:
    """Each seed's value, and the interval of all together."""
    count = sum(one.count for one in figures)
    mean = sum(one.value * one.count for one in figures) / max(count, 1)
    each = " ".join(f"{100 * one.value:.1f}" for one in figures)
    return f"{each} {str(Figure(mean, count)).partition('% ')[2].partition(' of')[0]}"


def main() -> int:
    """Run every variant with every seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="tiny", help="a model, for its tower and its language model")
    parser.add_argument("--output", default="out/ablations")
    parser.add_argument("--steps", type=int, default=400, help="most steps of each stage")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--num", type=int, default=200, help="held-out images of each task")
    parser.add_argument("--processes", type=int, default=2, help="runs at once")
    parser.add_argument("--only", nargs="*", choices=BY_NAME, metavar="NAME")
    parser.add_argument("--run", nargs=3, metavar=("NAME", "SEED", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        name, seed, folder = options.run
        run_one(BY_NAME[name], int(seed), options, Path(folder))
        return 0
    chosen = [one for one in VARIANTS if not options.only or one.name in options.only]
    with ThreadPoolExecutor(options.processes) as pool:
        pairs = [(one, seed) for seed in range(options.seeds) for one in chosen]
        paths = list(pool.map(lambda pair: finished(*pair, options), pairs))
    results = {one.name: paths[place :: len(chosen)] for place, one in enumerate(chosen)}
    print(
        f"\nat most {options.steps} steps a stage, {options.seeds} seeds, {options.num} images of each task; percent\n"
    )
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
