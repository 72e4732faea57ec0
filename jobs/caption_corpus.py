"""Captions every image of a corpus into a Delta table.

    python jobs/caption_corpus.py --input photos/ s3://bucket/shards/*.tar --output out/captions
    ray job submit --working-dir . -- python jobs/caption_corpus.py --input s3://bucket/photos --output s3://bucket/out

`--help` lists every setting. Run the same command again to do what is missing; after success it does nothing.
"""

import functools
import sys

from pipelines import cli
from pipelines.inference.config import CaptionConfig
from pipelines.inference.flow import run_job


def main() -> int:
    """Run the job that the command line describes, and return its exit code."""
    say = functools.partial(print, flush=True)
    config = cli.parse(CaptionConfig)
    return cli.run(lambda: run_job(config, say))


if __name__ == "__main__":
    sys.exit(main())
