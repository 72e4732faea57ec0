"""CORPUS: a row as readers hand it on, before anything has decoded its images."""

import pyarrow as pa

from schemas.columns import ERROR, ERROR_DETAIL, UID, URI

CORPUS = pa.schema(
    [
        UID,
        URI,
        pa.field("index", pa.int32(), nullable=False),
        pa.field("images", pa.list_(pa.large_binary()), nullable=False),
        pa.field("image_uris", pa.list_(pa.string()), nullable=False),
        pa.field("text", pa.string()),
        pa.field("conversations", pa.string()),
        pa.field("metadata", pa.string(), nullable=False),
        ERROR,
        ERROR_DETAIL,
    ]
)
"""`index`: row within its fragment. `images`: encoded bytes, as found. `image_uris`: where each came from.
`conversations`: canonical JSON list of {"from", "value"}. `metadata`: JSON object of the remaining scalars.
`error`: a `CorpusReason` or `BAD_BASE64`; then `images` is empty."""
