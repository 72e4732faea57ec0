"""Curates a corpus and notes what is decoded: `python -m tests.e2e.curate_driver CORPUS OUTPUT LOG PAUSE`.

PAUSE seconds pass before each image is decoded, so that a test can end all of it half way; each receipt is committed as
it comes. What this does *not* do: end anything by itself (`test_curate_killed`).
"""

import functools
import sys
from pathlib import Path
from typing import Any

from pipelines import commits
from pipelines.corpus_settings import CorpusSettings
from pipelines.curation import job
from pipelines.curation.config import CurateConfig
from pipelines.curation.flow import curate_corpus
from pipelines.sandbox import SandboxSettings
from tests.pipelines.hostile import noting

SMALL = CorpusSettings(rows_per_fragment=5)


def main(corpus: str, output: str, log: str, pause: float) -> None:
    """Run the job with one worker."""

    def with_notes(**values: Any) -> SandboxSettings:
        return SandboxSettings(**values, decoder=noting(Path(log), pause))

    commits.COMMIT_SECONDS = commits.COMMIT_SHARE = 0.0
    job.SandboxSettings = with_notes  # type: ignore[assignment,misc]
    config = CurateConfig(input=(corpus,), output=output, corpus=SMALL, num_workers=1)
    curate_corpus(config, functools.partial(print, flush=True))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
