"""A driver with an engine of `tests.pipelines.inference.poison`: `poison_driver.py INPUT OUTPUT STALL_TIMEOUT`.

For a test of what leaves workers busy: they end with this process, which has a Ray of its own.
"""

import sys
from dataclasses import replace

from pipelines.corpus_settings import CorpusSettings
from pipelines.inference import flow
from pipelines.inference.config import CaptionConfig
from pipelines.inference.job import InferenceJob, freeze
from tests.e2e.caption_cases import caption_config


def freeze_poisoned(config: CaptionConfig) -> InferenceJob:
    """The job, its engine another one, which may hang for longer than a config allows: for good, as far as it knows."""
    job = freeze(config)
    engine = "tests.pipelines.inference.poison:engine"
    return replace(job, spec=replace(job.spec, engine_factory=engine, engine_timeout=600.0))


if __name__ == "__main__":
    folder, output, stall_timeout = sys.argv[1:]
    flow.freeze = freeze_poisoned  # type: ignore[assignment]
    limits = {"stall_timeout": float(stall_timeout), "engine_timeout": 1.0}
    flow.run_job(caption_config(folder, output, **limits, corpus=CorpusSettings(), ray_address="local"), print)
