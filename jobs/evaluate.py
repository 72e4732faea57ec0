"""Runs benchmarks of the LLaVA papers and scores the answers as the benchmarks' own tools do.

    python jobs/evaluate.py
    python jobs/evaluate.py --benchmark pope --data data/pope --model llava-hf/llava-v1.6-mistral-7b-hf
    python jobs/evaluate.py --benchmark drawn nlvr --data nlvr=data/nlvr
    python jobs/evaluate.py --compare out/before out/after

`--help` lists every setting; the same command does what is missing. Rooms meet in tables, so this job joins three.
"""

import functools
import sys
from pathlib import Path

from pipelines import cli
from pipelines.corpus_settings import CorpusSettings
from pipelines.evaluation.compare import say_comparison
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.flow import Asked, Asking, run_evaluation
from pipelines.inference.answer_config import AnswerConfig
from pipelines.inference.flow import run_job
from pipelines.inference.job import freeze
from pipelines.synthetic.drawn import DrawnConfig, write_drawn

SEED = 20261125
"""Of the drawings: one that no training recipe uses."""
say = functools.partial(print, flush=True)


def answer(asking: Asking, config: EvaluateConfig) -> Asked | None:
    """Run the answering job; None after --plan."""
    settings = AnswerConfig(
        input=(asking.images,),
        questions=asking.questions,
        output=asking.answers,
        max_new_tokens=asking.max_new_tokens,
        corpus=CorpusSettings(image_root=asking.image_root),
        retry_rejected=True,  # an image that is there now, a store that answers again
        **config.handed_on(),
    )
    run_job(settings, say)
    job = freeze(settings)
    return None if config.plan else Asked(run_id=job.run_id, trained=job.trained)


def draw(folder: Path, split: str, count: int) -> None:
    """Draw pictures."""
    write_drawn(folder, count, DrawnConfig(seed=SEED, split="train" if split == "train" else "held_out"))


def main() -> int:
    """Run the job that the command line describes, and return its exit code."""
    config = cli.parse(EvaluateConfig)
    if config.compare:
        return cli.run(lambda: say_comparison(config, say))
    return cli.run(lambda: run_evaluation(config, functools.partial(answer, config=config), draw, say))


if __name__ == "__main__":
    sys.exit(main())
