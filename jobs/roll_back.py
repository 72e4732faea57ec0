"""Brings back what a curation gave at an earlier time.

    python jobs/roll_back.py --output s3://bucket/curated
    python jobs/roll_back.py --output s3://bucket/curated --to 2026-11-25T03:00

The first lists versions and their times, the second brings back the selection and the shards that stood then, as new
versions. Pause the schedule first: the next run with the same settings would make its own selection again.
"""

import functools
import sys

from pipelines import cli
from pipelines.rollback import RollbackConfig, roll_back


def main() -> int:
    """Do what the command line describes, and return the exit code."""
    say = functools.partial(print, flush=True)
    config = cli.parse(RollbackConfig)
    return cli.run(lambda: roll_back(config, say))


if __name__ == "__main__":
    sys.exit(main())
