"""Doorway `scores`: what the probe found out about each row of a corpus; everything later is decided on it alone.

One row for every input row, measured or rejected. No clock and no machine in it: the same rows give the same bytes, so
that a retried fragment writes the same file. What this does *not* do: say which rows are kept; that is `selection`.
"""

import pyarrow as pa

from schemas.columns import ERROR, ERROR_DETAIL, FRAGMENT_ID, RUN_ID, STATUS, UID, URI

CARRIED = ("clip_score", "aesthetic", "nsfw", "watermark")
"""Columns that are taken over from a corpus that brings them."""

_PIXELS = [
    pa.field("blur", pa.float32()),
    pa.field("brightness_p01", pa.float32()),
    pa.field("brightness_p05", pa.float32()),
    pa.field("brightness_p50", pa.float32()),
    pa.field("brightness_p95", pa.float32()),
    pa.field("brightness_p99", pa.float32()),
    pa.field("contrast", pa.float32()),
    pa.field("entropy", pa.float32()),
    pa.field("saturation", pa.float32()),
    pa.field("blockiness", pa.float32()),
    pa.field("border", pa.float32()),
]
_TEXT = [
    pa.field("num_turns", pa.int32()),
    pa.field("text_chars", pa.int32()),
    pa.field("text_words", pa.int32()),
    pa.field("repetition", pa.float32()),
    pa.field("script", pa.string()),
    pa.field("url_share", pa.float32()),
    pa.field("boilerplate_share", pa.float32()),
    pa.field("flagged_share", pa.float32()),
]
_PLAN = [
    pa.field("grid_rows", pa.int32()),
    pa.field("grid_cols", pa.int32()),
    pa.field("canvas_h", pa.int32()),
    pa.field("canvas_w", pa.int32()),
    pa.field("n_tiles", pa.int32()),
    pa.field("n_image_tokens", pa.int32()),
    pa.field("n_text_tokens", pa.int32()),
]

SCORE = pa.schema(
    [
        UID,
        URI,
        FRAGMENT_ID,
        pa.field("row_index", pa.int32(), nullable=False),
        RUN_ID,
        STATUS,
        # among the first 32 columns, of which Delta keeps statistics: rejected rows are counted from them
        ERROR,
        ERROR_DETAIL,
        pa.field("source", pa.string(), nullable=False),
        pa.field("content_hash", pa.binary()),
        pa.field("pixel_hash", pa.binary()),
        pa.field("phash", pa.int64()),
        pa.field("low_information", pa.bool_()),
        pa.field("num_images", pa.int32()),
        pa.field("file_bytes", pa.int64()),
        pa.field("format", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("aspect", pa.float32()),
        pa.field("probe_scale", pa.float32()),
        *_PIXELS,
        pa.field("quality", pa.float64()),
        pa.field("text", pa.string()),
        *_TEXT,
        *(pa.field(name, pa.float32()) for name in CARRIED),
        pa.field("model_scores", pa.map_(pa.string(), pa.float32())),
        *_PLAN,
        pa.field("embedding", pa.list_(pa.float32())),
    ]
)
"""`row_index`: the row within its fragment. `source`: where the row comes from, for composition, quotas and survivors.

Hashes are 16 bytes; of several images they are hashes of the hashes, and `phash` is null. `phash` holds the 64 bits
as a signed number. `num_images`, `file_bytes`, `n_tiles` and `n_image_tokens` are of all images of the row; `format`,
`width`, `height` (pixels, upright), what follows from them and what is measured on pixels are of the first one.

`aspect`: longest side over shortest. `probe_scale`: decoded over true size. Pixel columns: see
`pipelines.curation.measures`. `quality`: what decides between copies of equal size, higher is better. `text`: the start
of caption or conversation, for people; a row without any has null here and the measures of an empty text. Text columns:
see `pipelines.curation.text_measures`; `num_turns` is null for a plain caption. `CARRIED`: as the corpus has them, null
where it has none. `model_scores`: by name, of scorers that were asked for. `n_text_tokens`: by the model's tokenizer,
else a quarter of the UTF-8 bytes.
`embedding`: the corpus' own, or of a scorer that gives one; semantic duplicates are found by it. All of it is null in a
rejected row, but for what says which row it is and why."""
