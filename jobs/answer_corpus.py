"""Answers questions about the images of a corpus into a Delta table, one row for each question.

    python jobs/answer_corpus.py --input photos/ --questions questions.jsonl --output out/answers
    python jobs/answer_corpus.py --input photos/ --question "Is there a person?" --answer-kind yes_no --output out/is
    python jobs/answer_corpus.py --input vqa.jsonl --question-column question --output out/vqa

`--help` lists every setting. Run the same command again to do what is missing; after success it does nothing.
"""

import functools
import sys

from pipelines import cli
from pipelines.inference.answer_config import AnswerConfig
from pipelines.inference.flow import run_job


def main() -> int:
    """Run the job that the command line describes, and return its exit code."""
    say = functools.partial(print, flush=True)
    config = cli.parse(AnswerConfig)
    return cli.run(lambda: run_job(config, say))


if __name__ == "__main__":
    sys.exit(main())
