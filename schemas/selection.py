"""Doorway `selection`: each row of `scores`, kept or dropped, and why.

`status` is "ok" for a kept row and "rejected" for a dropped one, so that the table's partition parts them; `error` is
then the first reason in the order of `DropReason`, and `failed` lists all. What this does *not* do: hold measurements
(`scores` does) or bytes (`shards` does).
"""

from enum import StrEnum

import pyarrow as pa

from schemas.columns import ERROR, ERROR_DETAIL, FRAGMENT_ID, RUN_ID, STATUS, UID, URI


class DropReason(StrEnum):
    """Why a row is not in the selection. The order is that of the funnel: the first that holds is the row's reason."""

    REJECTED = "REJECTED"
    """The reader or the probe could not use it; `error_detail` has their code."""
    VETOED = "VETOED"
    """A person said so, in the override file."""
    CONTAMINATED = "CONTAMINATED"
    """It shows an evaluation image."""
    DUPLICATE_EXACT = "DUPLICATE_EXACT"
    """Another row has the same bytes or the same pixels, and survives."""
    DUPLICATE_NEAR = "DUPLICATE_NEAR"
    """Another row looks the same, and survives."""
    DUPLICATE_SEMANTIC = "DUPLICATE_SEMANTIC"
    """Another row means the same by its embedding, and survives."""
    TOO_SMALL = "TOO_SMALL"
    """The shorter side has too few pixels."""
    TOO_LARGE = "TOO_LARGE"
    """The longer side has too many pixels."""
    ASPECT = "ASPECT"
    """The longer side is too many times the shorter."""
    FORMAT = "FORMAT"
    """A file format that is not wanted."""
    BLURRED = "BLURRED"
    """Too little variance of the Laplacian."""
    TOO_DARK = "TOO_DARK"
    """Even its brightest pixels are dark."""
    TOO_BRIGHT = "TOO_BRIGHT"
    """Even its darkest pixels are bright."""
    LOW_CONTRAST = "LOW_CONTRAST"
    """Grey levels too close to each other."""
    LOW_ENTROPY = "LOW_ENTROPY"
    """Too few grey levels."""
    OVERSATURATED = "OVERSATURATED"
    """Colours too strong throughout."""
    BLOCKY = "BLOCKY"
    """Strong edges on the 8-pixel grid: compressed too hard."""
    BORDER = "BORDER"
    """Too wide a uniform border."""
    TEXT_TOO_SHORT = "TEXT_TOO_SHORT"
    """Too few characters, or no text."""
    TEXT_TOO_FEW_WORDS = "TEXT_TOO_FEW_WORDS"
    """Too few words."""
    TEXT_TOO_LONG = "TEXT_TOO_LONG"
    """Too many characters."""
    TEXT_REPETITIVE = "TEXT_REPETITIVE"
    """Says the same words again and again."""
    TEXT_SCRIPT = "TEXT_SCRIPT"
    """A script that is not wanted."""
    TEXT_URLS = "TEXT_URLS"
    """Too much of it is web and mail addresses."""
    TEXT_BOILERPLATE = "TEXT_BOILERPLATE"
    """Too much of it is file names and stock phrases."""
    TEXT_FLAGGED = "TEXT_FLAGGED"
    """Too many words of the user's list."""
    CLIP_SCORE = "CLIP_SCORE"
    """Image and text do not belong together."""
    AESTHETIC = "AESTHETIC"
    """Low aesthetic score."""
    NSFW = "NSFW"
    """High score for unsafe content."""
    WATERMARK = "WATERMARK"
    """High score for a watermark."""
    MODEL_SCORE = "MODEL_SCORE"
    """Low score of a model that the probe ran."""
    LOW_QUALITY = "LOW_QUALITY"
    """Low overall quality."""
    TOO_MANY_TOKENS = "TOO_MANY_TOKENS"
    """Needs more image tokens than are wanted."""
    OVER_QUOTA = "OVER_QUOTA"
    """Its source, or whatever key is balanced, has more rows than its cap."""
    MIXTURE = "MIXTURE"
    """Its source, or whatever key is mixed, has more rows than its share of the mixture."""
    OVER_TOTAL = "OVER_TOTAL"
    """More rows are left than are wanted altogether."""


SELECTION = pa.schema(
    [
        UID,
        URI,
        FRAGMENT_ID,
        RUN_ID,
        STATUS,
        pa.field("source", pa.string()),
        pa.field("corpus_fragment", pa.string(), nullable=False),
        pa.field("row_index", pa.int32(), nullable=False),
        pa.field("file_bytes", pa.int64()),
        pa.field("n_tiles", pa.int32()),
        pa.field("n_image_tokens", pa.int32()),
        pa.field("n_text_tokens", pa.int32()),
        pa.field("failed", pa.list_(pa.string()), nullable=False),
        ERROR,
        ERROR_DETAIL,
    ]
)
"""`fragment_id` names a block of this table; `corpus_fragment` the fragment of the corpus that holds the row's bytes,
and `row_index` its row there. `file_bytes`, `n_tiles`, `n_image_tokens` and `n_text_tokens` are those of `scores`, null
where it has none. `failed`: every reason that holds, in the order of `DropReason`, empty for a kept row; balancing only
looks at rows that everything else has kept. `error_detail`: for REJECTED the code of the probe, for duplicates and
contamination the uid of the survivor."""
