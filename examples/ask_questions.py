"""Asks two questions of every image of a corpus, and tallies the answers.

    python examples/ask_questions.py --photos out/demo/images --answers out/answers

The how-to is `docs/how-to/ask.md`.
"""

import functools
import json
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import tyro

from pipelines import cli
from pipelines.inference.answer_config import AnswerConfig
from pipelines.inference.flow import run_job

QUESTIONS = (
    {"question_id": "person", "question": "Is there a person?", "kind": "yes_no"},
    {"question_id": "where", "question": "Where was it taken?", "choices": ["indoors", "outdoors", "in space"]},
)


def main(photos: str, answers: Path, model: str = "tiny", max_new_tokens: int = 8) -> int:
    """Write the questions, ask them, tally.

    Args:
        photos: folder, file or URI of images.
        answers: the table to write; the questions go beside it.
        model: "tiny", a checkpoint folder, or a hub name.
        max_new_tokens: most tokens of a reply.
    """
    say = functools.partial(print, flush=True)
    file = answers.with_name("questions.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    config = AnswerConfig(
        input=(photos,), questions=str(file), output=str(answers), model=model, max_new_tokens=max_new_tokens
    )
    code = cli.run(lambda: run_job(config, say))
    if code == 0:
        columns = ["question_id", "answer", "answer_valid", "error"]
        rows = pl.read_delta(str(answers), columns=columns).to_dicts()
        for question in QUESTIONS:
            mine = [row for row in rows if row["question_id"] == question["question_id"]]
            tally = Counter(row["error"] or (row["answer"] if row["answer_valid"] else "unclear") for row in mine)
            say(f"{question['question_id']}: {dict(sorted(tally.items()))}")
    return code


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
