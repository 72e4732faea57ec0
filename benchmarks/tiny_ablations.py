"""The document's ablations at the small model's scale: tiles, projector depth, clean against noisy data.

    python benchmarks/tiny_ablations.py --tower FOLDER [--steps N] [--seeds N] [--num N] [--only NAME ...]

    single view / 2×2 / any-res(5)      tiles that the model has, in training and in the exam
    projector 1 / 2 / 3                 linear layers
    clean / noisy                       30 % of training drawings with another drawing's answers

Every variant begins with one tower (`--tower`: the model of stage `see` of `jobs/train.py --recipe tiny`) and runs the
recipe's other stages, at most `--steps` steps each; everything but what is compared is equal. Runs that are done are
not done again. The table has each seed's result and, in brackets, the 95 % interval of all of them together (Wilson,
over questions: seeds are too few for one over seeds).
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from tiny_exam import Examiner, Figure

from llava_core.checkpoints import load_model
from llava_core.checkpoints.fresh import PINPOINTS, new_model, word_tokenizer
from pipelines.training.config import TrainConfig
from pipelines.training.job import settle
from pipelines.training.loop import StageWork, run_stage
from pipelines.training.sources import index_inputs


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One column of the table."""

    name: str
    """What it is called."""
    pinpoints: tuple[tuple[int, int], ...] = PINPOINTS
    """Canvases, in tiles."""
    projector_layers: int = 2
    """Linear layers of the connector."""
    noise: float = 0.0
    """Share of drawings with another's answers."""


REFERENCE = Variant(name="any-res(5), 2 layers, clean")
VARIANTS = (
    Variant(name="single view", pinpoints=()),
    Variant(name="2x2", pinpoints=((2, 2),)),
    REFERENCE,
    Variant(name="projector 1", projector_layers=1),
    Variant(name="projector 3", projector_layers=3),
    Variant(name="noisy", noise=0.3),
)


def beginning(variant: Variant, seed: int, tower: str, folder: Path) -> str:
    """A new model of a variant with the tower that has learned to see, written once."""
    target = folder / "start"
    if not (target / "config.json").exists():
        model = new_model(seed, variant.projector_layers, variant.pinpoints)
        model.image_processor.load_state_dict(load_model(tower).image_processor.state_dict())
        model.save_pretrained(target, tokenizer=word_tokenizer())
    return str(target)


def works(variant: Variant, seed: int, steps: int, tower: str, folder: Path) -> tuple[StageWork, ...]:
    """The stages of one run."""
    config = TrainConfig(
        recipe="tiny",
        model=beginning(variant, seed, tower, folder),
        output=str(folder),
        stages=("align", "instruct", "highres"),
        limit_steps=steps,
        seed=seed,
    )
    found = settle(config).works
    if not variant.noise:
        return found
    noise = f";noise={variant.noise}"
    noisy = [config_of(work, inputs=tuple(uri + noise for uri in work.stage.inputs), mark=noise) for work in found]
    return tuple(noisy)


def config_of(work: StageWork, *, inputs: tuple[str, ...], mark: str) -> StageWork:
    """A stage that reads other inputs, under an identity of its own."""
    stage = dataclasses.replace(work.stage, inputs=inputs)
    return dataclasses.replace(work, stage=stage, inputs=index_inputs(inputs), identity=work.identity + mark)


def result(variant: Variant, seed: int, options: argparse.Namespace) -> dict[str, Figure]:
    """Train one variant with one seed, and examine it."""
    folder = Path(options.output) / f"{variant.name.replace(' ', '-')}-{seed}-{options.steps}"
    print(f"── {variant.name}, seed {seed}", flush=True)
    for work in works(variant, seed, options.steps, options.tower, folder):
        run_stage(dataclasses.replace(work, folder=work.output), torch.device("cpu"))
    return Examiner(folder / "model", options.num).figures()


def pooled(figures: list[Figure]) -> str:
    """Each seed's value, and the interval of all together."""
    count = sum(one.count for one in figures)
    mean = sum(one.value * one.count for one in figures) / max(count, 1)
    each = " ".join(f"{100 * one.value:.1f}" for one in figures)
    return f"{each}  → {Figure(mean, count)}"


def main() -> int:
    """Run every variant with every seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", required=True, help="the model of stage `see`")
    parser.add_argument("--output", default="out/ablations")
    parser.add_argument("--steps", type=int, default=600, help="most steps of each stage")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--num", type=int, default=200, help="held-out images of each task")
    parser.add_argument("--only", nargs="*", choices=[one.name for one in VARIANTS])
    options = parser.parse_args()
    chosen = [one for one in VARIANTS if not options.only or one.name in options.only]
    table = {one.name: [result(one, seed, options) for seed in range(options.seeds)] for one in chosen}
    print(f"\nat most {options.steps} steps a stage, {options.seeds} seeds, {options.num} images of each task")
    for name, runs in table.items():
        print(f"\n{name}")
        for figure in runs[0]:
            print(f"  {figure:26} {pooled([run[figure] for run in runs])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
