"""ANSWER: one row for each question of an answering run, answered or rejected; `(run_id, uid, question_id)` is unique.

Like `caption`, without clock or machine.
"""

import pyarrow as pa

from schemas.columns import ERROR, ERROR_DETAIL, FRAGMENT_ID, RUN_ID, STATUS, UID, URI
from schemas.generated import GENERATED

ANSWER = pa.schema(
    [
        UID,
        URI,
        FRAGMENT_ID,
        RUN_ID,
        STATUS,
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("question", pa.string()),
        pa.field("choices", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("text", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("answer_valid", pa.bool_()),
        pa.field("answer_detail", pa.string()),
        pa.field("yes_margin", pa.float32()),
        pa.field("num_images", pa.int32()),
        *GENERATED,
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_revision", pa.string(), nullable=False),
        ERROR,
        ERROR_DETAIL,
    ]
)
"""`uid`, `uri`: the image row that was asked about; for a question that could not be bound to one, the line of the
questions' file. `question_id` is empty in the one row that stands for all questions of a row that could not be read.
`kind`: "open", "short", "choice", "yes_no" or "json". `choices`: JSON list of the options, the first is A.
`prompt`: everything that the model was asked, the image's places left out.

`text` is the reply as it came. `answer` is what was read out of it: the reply itself (open), without a full stop at
its end (short), the option's letter (choice), "yes" or "no" (yes_no), canonical JSON (json). Where nothing fitting was
found, or the JSON does not fit its schema, the row is still `ok`, because the model did reply: `answer` is null,
`answer_valid` false and `answer_detail` says why. `yes_margin`: log-probability of "yes" less that of "no" where the
reply begins, null unless the engine measures it. Everything from `text` to `image_width` is null in a rejected row."""
