"""A small corpus, a small model and stages that the tests of training share.

The corpus has images of several sizes and aspect ratios, samples without image, with two, and with two that are wrong.
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llava_core.checkpoints.save import save_model
from llava_core.checkpoints.untrained import byte_tokenizer, fill, untrained_config, write_untrained
from llava_core.model import model_class
from llava_core.processor import LLaVAProcessor
from pipelines.training.loop import StageWork
from pipelines.training.packing import Cost, cost_of
from pipelines.training.samples import Sample, Sampler
from pipelines.training.sources import index_inputs, open_source
from pipelines.training.stages import Stage

SIZES = ((60, 80), (120, 50), (56, 56), (100, 170), (40, 150))
"""Height, width, in turn."""


def write_model(folder: Path, seed: int = 0) -> Path:
    """The untrained model of `llava_core`, in our layout."""
    write_untrained(folder / "untrained", seed)
    return folder / "untrained"


def png(height: int, width: int, seed: int) -> bytes:
    """An image of noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def turns(*texts: str) -> list[dict[str, str]]:
    """LLaVA JSON's turns, the human first."""
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def write_both(folder: Path, num_rows: int, *, wrong: bool = True) -> Path:
    """Write the model, and a corpus in `corpus` below it; see `write_corpus`."""
    write_model(folder)
    write_corpus(folder / "corpus", num_rows, wrong=wrong)
    return folder


def write_corpus(folder: Path, count: int = 40, *, wrong: bool = True) -> str:
    """LLaVA JSON: each seventh sample has no image, each eleventh two; with `wrong`, one is missing and one cut."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for n in range(count):
        (folder / f"{n}.png").write_bytes(png(*SIZES[n % len(SIZES)], seed=n))
        row: dict[str, Any] = {"id": f"s{n}", "image": f"{n}.png"}
        row["conversations"] = turns("<image>\nWhat is it?", f"Number {n}.", "And now?", "Still " + "so " * (n % 9))
        if n % 7 == 0:
            row = {"id": f"s{n}", "conversations": turns("Who are you?", f"Nobody {n}.")}
        elif n % 11 == 0:
            row |= {"image": [f"{n}.png", "1.png"], "conversations": turns("<image>\n<image>\nSame?", f"No, {n}.")}
        rows.append(row)
    if wrong:
        (folder / "cut.png").write_bytes((folder / "1.png").read_bytes()[:900])
        rows.insert(5, {"id": "gone", "image": "gone.png", "conversations": turns("<image>\nWhat?", "Gone.")})
        rows.insert(9, {"id": "cut", "image": "cut.png", "conversations": turns("<image>\nWhat?", "Cut.")})
    (folder / "data.json").write_text(json.dumps(rows))
    return str(folder / "data.json")


def write_video_model(folder: Path, **settings: Any) -> Path:
    """The untrained model as one of the family that sees video, some settings changed."""
    tokenizer = byte_tokenizer()
    config = dataclasses.replace(
        untrained_config(), family="llava_onevision", video_token_id=len(tokenizer), **settings
    )
    model = model_class(config)(config)
    fill(model, 0)
    save_model(model, folder / "video", tokenizer=tokenizer)
    return folder / "video"


def write_mixed(folder: Path, *, frames: int = 3, seed: int = 0) -> str:
    """Two videos of other lengths, a pair of images, one image, and words alone."""
    folder.mkdir()
    rows = []
    for number, count in enumerate((frames, frames + 2, 2, 1, 0)):
        names = [f"{number}-{place}.png" for place in range(count)]
        for place, name in enumerate(names):
            (folder / name).write_bytes(png(40 + 8 * number, 64, seed=seed + 10 * number + place))
        said = "<video>\nWhat moves?" if number < 2 else "<image>\n" * count + "What is it?"
        rows.append({"id": f"m{number}", "conversations": turns(said, f"It is number {number}.")})
        if names:
            rows[-1]["image"] = names if count > 1 else names[0]
    (folder / "data.json").write_text(json.dumps(rows))
    return str(folder / "data.json")


def stage(name: str = "highres", **settings: Any) -> Stage:
    """A stage in float32 that trains everything."""
    rates = {"vision_tower": 1e-3, "projector": 2e-3, "newline": 2e-3, "language_model": 3e-3}
    values: dict[str, Any] = {"learning_rates": rates, "batch_size": 6, "precision": "float32", "row_tokens": 600}
    return Stage(name=name, **{**values, **settings})


def work(model: Path, inputs: Sequence[str], output: Path, one: Stage, number: int = 0, **settings: Any) -> StageWork:
    """A stage ready to run."""
    values: dict[str, Any] = {"identity": f"{one.name}-1", "seed": 3, "checkpoint_steps": 1_000}
    return StageWork(
        stage=one,
        number=number,
        model=str(model),
        inputs=index_inputs(inputs),
        output=str(output / one.name),
        folder=str(output / one.name),
        **{**values, **settings},
    )


def samples_of(inputs: str, model: Path, one: Stage) -> tuple[list[Sample], LLaVAProcessor, Cost]:
    """Every usable sample of an input, in its own order."""
    processor = LLaVAProcessor.from_pretrained(model)
    source, sampler = open_source(index_inputs([inputs])[0]), Sampler(processor, one)
    made = [sampler(row) for unit in range(len(source.units)) for row in source.read(unit)]
    return [one for one in made if isinstance(one, Sample)], processor, cost_of(processor.config, 1)
