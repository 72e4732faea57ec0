"""Doorway `shards`: what training reads. Bytes as they were found, what is said about them, and the tile plan.

One row for every kept row of `selection`; one that cannot be trained on (its conversation is broken, its file has
become unreadable) is rejected with a reason. What this does *not* do: hold features or token ids, which belong to one
model.
"""

import pyarrow as pa

from schemas.columns import ERROR, ERROR_DETAIL, FRAGMENT_ID, RUN_ID, STATUS, UID, URI

_PLAN = ("heights", "widths", "grid_rows", "grid_cols", "canvas_h", "canvas_w")

SHARD = pa.schema(
    [
        UID,
        URI,
        FRAGMENT_ID,
        RUN_ID,
        STATUS,
        pa.field("source", pa.string()),
        pa.field("images", pa.list_(pa.binary()), nullable=False),
        pa.field("image_uris", pa.list_(pa.string()), nullable=False),
        pa.field("text", pa.string()),
        pa.field("conversations", pa.string()),
        pa.field("metadata", pa.string(), nullable=False),
        *(pa.field(name, pa.list_(pa.int32()), nullable=False) for name in _PLAN),
        pa.field("n_tiles", pa.int32()),
        pa.field("n_image_tokens", pa.int32()),
        pa.field("n_text_tokens", pa.int32()),
        pa.field("tile_size", pa.int32()),
        pa.field("tiles", pa.binary()),
        ERROR,
        ERROR_DETAIL,
    ]
)
"""`fragment_id` names the shard. `images`: encoded bytes, as found, never encoded again. `conversations`: canonical
JSON list of `{"from", "value"}`, checked: roles in turns, an answer last, as many `<image>` as images. `heights` …
`canvas_w`: one for each image; the plan of `llava_core.config.plan_tiles` for the model of the run; grid (0, 0) is a
lone base tile. `n_tiles`, `n_image_tokens`: sums over the images. `n_text_tokens`: as in `scores`, null where there is
no tokenizer. `tile_size` and `tiles` are null unless tiles were asked for: uint8[n_tiles, 3, S, S] in C order, the
images one after the other, each with its base tile first.

Delta calls bytes `binary`; in the files the byte columns are `large_binary`, whose offsets cannot overflow."""

_LARGE = {"images": pa.list_(pa.large_binary()), "tiles": pa.large_binary()}

SHARD_FILE = pa.schema([one.with_type(_LARGE.get(one.name, one.type)) for one in SHARD if one.name != "status"])
"""What a file holds: `status` is in its path, and bytes are large."""
