"""Rows of `scores` and `clusters` that the tests of selecting, sharding and reporting share."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from pipelines.curation.probe_stage import ProbeSpec
from pipelines.fragments import Fragment
from pipelines.parts import write_fragment
from pipelines.tables import commit
from schemas.cluster import CLUSTER
from schemas.score import SCORE

NOTHING: Mapping[int, str] = MappingProxyType({})
GOOD: dict[str, Any] = {
    "source": "web",
    "fragment_id": "f0",
    "row_index": 0,
    "status": "ok",
    "error": None,
    "width": 800,
    "height": 600,
    "aspect": 800 / 600,
    "format": "JPEG",
    "file_bytes": 1000,
    "blur": 300.0,
    "brightness_p05": 0.15,
    "brightness_p99": 0.97,
    "contrast": 0.2,
    "entropy": 7.0,
    "saturation": 0.2,
    "blockiness": 1.0,
    "border": 0.0,
    "text_chars": 40,
    "text_words": 8,
    "repetition": 0.0,
    "script": "Latin",
    "url_share": 0.0,
    "boilerplate_share": 0.0,
    "flagged_share": 0.0,
    "clip_score": 0.3,
    "aesthetic": 6.0,
    "nsfw": 0.01,
    "watermark": 0.02,
    "quality": 0.9,
    "n_tiles": 5,
    "n_image_tokens": 2340,
    "n_text_tokens": 11,
    "model_scores": [],
}
"""A row that no sensible rule drops."""


def scores(*rows: dict[str, Any]) -> pa.Table:
    """Good rows named u0, u1, …, each with what its dictionary changes; a row with an error has no measurements."""
    full = []
    for place, row in enumerate(rows):
        uid = row.get("uid", f"u{place}")
        base = dict(GOOD)
        if row.get("error"):
            base = dict.fromkeys(GOOD) | {"source": "web", "fragment_id": "f0", "row_index": 0, "status": "rejected"}
        full.append({"uid": uid, "uri": f"/corpus/{uid}.jpg", **base, "row_index": place, **row})
    names = ["uid", "uri", *GOOD]
    return pa.table({name: pa.array([row[name] for row in full], SCORE.field(name).type) for name in names})


def clusters(table: pa.Table, **roles: tuple[str, str, str]) -> pa.Table:
    """CLUSTER rows of a scores table: each its own survivor, but for those named with (role, kind, survivor)."""
    rows = []
    for uid in table["uid"].to_pylist():
        role, kind, survivor = roles.get(uid, ("survivor", None, uid))
        distance = None if kind is None else 0.0
        rows.append(
            {
                "uid": uid,
                "cluster_id": min(uid, survivor),
                "survivor_uid": survivor,
                "kind": kind,
                "distance": distance,
                "role": role,
                "flags": [],
            }
        )
    return pa.Table.from_pylist(rows, schema=CLUSTER)


def probed(
    fragment: Fragment, run_id: str, *, rejected: Mapping[int, str] = NOTHING, only: Sequence[int] = ()
) -> pa.Table:
    """SCORE of a fragment as a probe would write it, measured at nothing: some rows rejected, or only some rows."""
    rows = [
        {
            "uid": fragment.row_uid(index),
            "uri": fragment.row_uri(index),
            "fragment_id": fragment.fragment_id,
            "row_index": index,
            "run_id": run_id,
            "status": "rejected" if index in rejected else "ok",
            "error": rejected.get(index),
            "source": "web",
        }
        for index in only or range(fragment.num_rows)
    ]
    return pa.Table.from_pylist(rows, schema=SCORE)


def put(fragments: Iterable[Fragment], spec: ProbeSpec, *, rejected: Mapping[int, str] = NOTHING) -> None:
    """Commit fragments as a probe does, the same rows of each rejected."""
    run_id = spec.settings.run_id
    receipts = [
        write_fragment(
            probed(one, run_id, rejected=rejected),
            SCORE,
            table_uri=spec.table_uri,
            fragment_id=one.fragment_id,
            run_id=run_id,
        )
        for one in fragments
    ]
    commit(spec.table_uri, receipts, run_id=run_id, schema=SCORE)
