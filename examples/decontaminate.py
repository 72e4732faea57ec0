"""Keeps evaluation images, and what looks like them, out of a training corpus, and lists what it took out.

    python examples/decontaminate.py --corpus out/raw/corpus --evaluation out/evaluation --curated out/clean

The how-to is `docs/how-to/decontaminate.md`.
"""

import functools
import sys

import polars as pl
import tyro

from pipelines import cli
from pipelines.curation.config import CurateConfig
from pipelines.curation.flow import curate_corpus


def main(corpus: str, evaluation: str, curated: str) -> int:
    """Curate against the evaluation images, and name the rows that show one.

    Args:
        corpus: folder, file or URI of images and texts.
        evaluation: the same of evaluation images, or a table `scores` of them.
        curated: folder of the tables.
    """
    say = functools.partial(print, flush=True)
    config = CurateConfig(input=(corpus,), output=curated, against=(evaluation,))
    code = cli.run(lambda: curate_corpus(config, say))
    if code == 0:
        columns = ["uid", "uri", "error", "error_detail"]
        rows = pl.read_delta(f"{curated}/selection", columns=columns).to_dicts()
        found = {row["uid"]: row["uri"] for row in rows if row["error"] == "CONTAMINATED"}
        clusters = pl.read_delta(f"{curated}/clusters", columns=["uid", "kind", "distance"]).to_dicts()
        for row in sorted((row for row in clusters if row["uid"] in found), key=lambda row: found[row["uid"]]):
            say(f"{found[row['uid']]}: {row['kind']}, {row['distance']:.0f} bits")
        say(f"{len(found)} of {len(rows)} rows show an evaluation image")
    return code


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
