"""Trains align, instruct and highres from shards or LLaVA JSON, and says what each stage's loss did.

    python examples/train_three_stages.py --data out/drawn/drawn.jsonl --trained out/trained

The how-to is `docs/how-to/train.md`.
"""

import functools
import json
import sys
from pathlib import Path

import tyro

from pipelines import cli
from pipelines.training.config import TrainConfig
from pipelines.training.flow import train


def main(data: str, trained: Path, model: str = "tiny", limit_steps: int | None = None, batch_size: int = 128) -> int:
    """Train, and read the metrics.

    Args:
        data: a table `shards`, LLaVA JSON, or another corpus with texts.
        trained: folder to write.
        model: what the first stage begins with.
        limit_steps: stop each stage after so many steps.
        batch_size: samples of a step.
    """
    say = functools.partial(print, flush=True)
    config = TrainConfig(
        input=(data,), output=str(trained), model=model, limit_steps=limit_steps, batch_size=batch_size
    )
    code = cli.run(lambda: train(config, say))
    if code == 0:
        for stage in config.chosen:
            lines = [json.loads(line) for line in (trained / stage.name / "metrics.jsonl").read_text().splitlines()]
            say(f"{stage.name}: {len(lines)} steps, loss {lines[0]['loss']:.3f} to {lines[-1]['loss']:.3f}")
        say(f"the model is in {trained / 'model'}")
    return code


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
