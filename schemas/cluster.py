"""Doorway `clusters`: which rows show the same picture, which of them survives, and why the others do not.

One row for every row of `scores` that was deduplicated, alone in its cluster or not, so that rows in = survivors +
duplicates + contaminated. What this does *not* do: drop anything; `select` reads `role`.
"""

from enum import StrEnum

import pyarrow as pa

from schemas.columns import UID


class ClusterKind(StrEnum):
    """How a row is related to its survivor, the strongest relation that holds."""

    EXACT_CONTENT = "exact_content"
    """The same bytes."""
    EXACT_PIXEL = "exact_pixel"
    """The same pixels, in other bytes."""
    NEAR = "near"
    """It looks the same: perceptual hashes that differ in few bits."""
    SEMANTIC = "semantic"
    """It means the same by its embedding."""


class ClusterRole(StrEnum):
    """What becomes of a row."""

    SURVIVOR = "survivor"
    """It stays: alone in its cluster, or the one that is kept of it."""
    DUPLICATE = "duplicate"
    """It goes, for its survivor is the same picture."""
    CONTAMINATED = "contaminated"
    """It goes, for it shows an evaluation image."""


class ClusterFlag(StrEnum):
    """What a reader of the table should know about a row."""

    LOW_INFORMATION = "low_information"
    """Its perceptual hash says too little to be matched; only exact copies of it are found."""
    NO_PHASH = "no_phash"
    """It has no perceptual hash, because the probe rejected it."""
    BUCKET_CAPPED = "bucket_capped"
    """Its hash lies in a bucket too full to be searched pair by pair: near-duplicates of it may be missing."""
    CHAIN_SPLIT = "chain_split"
    """It hangs together with other survivors through a chain of near-duplicates, and was parted from them because the
    ends of the chain are too far from one another."""
    INDEXED = "indexed"
    """Its survivor belongs to an earlier run, so `survivor_uid` is not a row of this run."""
    VETOED = "vetoed"
    """A person said that it is nobody's duplicate."""


CLUSTER = pa.schema(
    [
        UID,
        pa.field("cluster_id", pa.string(), nullable=False),
        pa.field("survivor_uid", pa.string(), nullable=False),
        pa.field("kind", pa.string()),
        pa.field("distance", pa.float32()),
        pa.field("role", pa.string(), nullable=False),
        pa.field("flags", pa.list_(pa.string()), nullable=False),
    ]
)
"""`cluster_id` is the least uid of the cluster, or the id that the survivor had in an earlier run; `survivor_uid` the
row that is kept (itself for a survivor, the evaluation image for a contaminated row). `kind` and `distance` are null
for a survivor; `distance` is 0 for exact copies, the Hamming distance of 64-bit pHashes for near, 1 - cosine for
semantic."""
