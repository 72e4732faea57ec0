"""Curates a corpus, then again with a stricter threshold, for which no image is read.

    python examples/curate.py --corpus out/raw/corpus --curated out/curated

The how-to is `docs/how-to/curate.md`.
"""

import dataclasses
import functools
import sys
from collections import Counter

import polars as pl
import tyro

from pipelines import cli
from pipelines.curation.config import CurateConfig
from pipelines.curation.flow import curate_corpus
from pipelines.curation.rules import RulesConfig


def main(corpus: str, curated: str, min_blur: float = 150.0) -> int:
    """Curate twice, and say what was dropped.

    Args:
        corpus: folder, file or URI of images and texts.
        curated: folder of the tables.
        min_blur: of the second run.
    """
    say = functools.partial(print, flush=True)
    config = CurateConfig(input=(corpus,), output=curated, recipe="permissive")
    for wanted in (config, dataclasses.replace(config, rules=RulesConfig(min_blur=min_blur))):
        code = cli.run(lambda now=wanted: curate_corpus(now, say))  # type: ignore[misc]
        if code:
            return code
        rows = pl.read_delta(f"{curated}/selection", columns=["error"]).to_dicts()
        dropped = Counter(row["error"] for row in rows if row["error"])
        say(f"kept {len(rows) - dropped.total()} of {len(rows)}; dropped {dict(sorted(dropped.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
