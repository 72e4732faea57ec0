"""CAPTION: one row for each input row of a captioning run, captioned or rejected.

No clock and no machine in it: the same rows give the same bytes, so that a retried fragment writes the same file.
"""

import pyarrow as pa

from schemas.columns import ERROR, ERROR_DETAIL, FRAGMENT_ID, RUN_ID, STATUS, UID, URI

CAPTION = pa.schema(
    [
        UID,
        URI,
        FRAGMENT_ID,
        RUN_ID,
        STATUS,
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("num_prompt_tokens", pa.int32()),
        pa.field("num_image_tokens", pa.int32()),
        pa.field("num_output_tokens", pa.int32()),
        pa.field("mean_logprob", pa.float32()),
        pa.field("min_logprob", pa.float32()),
        pa.field("grid_rows", pa.int32()),
        pa.field("grid_cols", pa.int32()),
        pa.field("image_height", pa.int32()),
        pa.field("image_width", pa.int32()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_revision", pa.string(), nullable=False),
        ERROR,
        ERROR_DETAIL,
    ]
)
"""`finish_reason`: "stop" or "length". Log probabilities: natural, of the generated tokens. `grid_rows`, `grid_cols`:
tiles of the first image's grid, (0, 0) for a lone base tile. `image_height`, `image_width`: its pixels, decoded and
turned upright. Everything between `prompt` and `model` is null in a rejected row."""
