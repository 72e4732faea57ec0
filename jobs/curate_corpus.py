"""Turns a raw image-text corpus into training shards, with a reason for every row that is not in them.

    python jobs/curate_corpus.py --input photos/ s3://bucket/shards/*.tar --output out/curated --recipe datacomp_basic
    ray job submit --working-dir . -- python jobs/curate_corpus.py --input s3://bucket/raw --output s3://bucket/curated

`--help` lists every setting. The same command again does nothing; on a corpus that has grown, only what is new is read;
with other thresholds, no image is.
"""

import functools
import sys

from pipelines import cli
from pipelines.curation.config import CurateConfig
from pipelines.curation.flow import curate_corpus


def main() -> int:
    """Run the job that the command line describes, and return its exit code."""
    say = functools.partial(print, flush=True)
    config = cli.parse(CurateConfig)
    return cli.run(lambda: curate_corpus(config, say))


if __name__ == "__main__":
    sys.exit(main())
