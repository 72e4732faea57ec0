"""Doorway `scores` of an evaluation: each item of a benchmark with its reply, the answer read out of it, and its score.

One row for every item; one that has no reply to score is rejected with a reason. What this does *not* do: hold a
benchmark's total, which is no mean of rows for all of them (`results.json` has it).
"""

from enum import StrEnum

import pyarrow as pa

from schemas.columns import ERROR, ERROR_DETAIL, FRAGMENT_ID, RUN_ID, STATUS, UID, URI


class ResultReason(StrEnum):
    """Why an item has no score, beside the reasons for which a question was not answered."""

    NOT_ANSWERED = "NOT_ANSWERED"
    """No answer has its id: the run or the file is half finished."""
    TWO_ANSWERS = "TWO_ANSWERS"
    """A file of answers has two different ones."""
    NOT_JUDGED = "NOT_JUDGED"
    """The judge gave no score that can be read."""


RESULT = pa.schema(
    [
        UID,
        URI,
        FRAGMENT_ID,
        RUN_ID,
        STATUS,
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        # among the first 32 columns, of which Delta keeps statistics: rejected rows are counted from them
        ERROR,
        ERROR_DETAIL,
        pa.field("unit", pa.string(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
        pa.field("question", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("references", pa.string()),
        pa.field("facts", pa.string()),
        pa.field("reply", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("values", pa.string()),
    ]
)
"""`uid`: the item's id; `uri`: its image, "data:" where the benchmark's file holds it. `unit`: what is drawn for
intervals. `place`: in the benchmark's order. `references`, `facts`, `values`: JSON, see `pipelines.evaluation.items`.
`answer` is null where the reply gives none; the score is then that of no answer. Everything from `reply` on is null in
a rejected row, and `score` and `values` also where nobody but a test server knows the references."""
