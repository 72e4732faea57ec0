"""CAPTION: one row for each input row of a captioning run, captioned or rejected.

No clock and no machine in it: the same rows give the same bytes, so that a retried fragment writes the same file.
"""

import pyarrow as pa

from schemas.columns import ERROR, ERROR_DETAIL, FRAGMENT_ID, RUN_ID, STATUS, UID, URI
from schemas.generated import GENERATED

CAPTION = pa.schema(
    [
        UID,
        URI,
        FRAGMENT_ID,
        RUN_ID,
        STATUS,
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        *GENERATED,
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_revision", pa.string(), nullable=False),
        ERROR,
        ERROR_DETAIL,
    ]
)
"""Everything between `prompt` and `model` is null in a rejected row."""
