"""Trains a model through the stages of a recipe, from shards or LLaVA JSON.

    python jobs/train.py --input out/curated/shards --output out/trained --model llava-hf/llava-v1.6-mistral-7b-hf
    ray job submit --working-dir . -- python jobs/train.py --input s3://bucket/shards --output s3://bucket/trained

`--help` lists every setting. Run the same command again to go on where it was; after success it does nothing.
"""

import functools
import sys

from pipelines import cli
from pipelines.training.config import TrainConfig
from pipelines.training.flow import train


def main() -> int:
    """Run the job that the command line describes, and return its exit code."""
    say = functools.partial(print, flush=True)
    config = cli.parse(TrainConfig)
    return cli.run(lambda: train(config, say))


if __name__ == "__main__":
    sys.exit(main())
