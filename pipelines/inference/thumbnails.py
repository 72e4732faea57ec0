"""Small pictures of some rows of a run, for its pages, read again from the corpus they came from.

What this does *not* do: choose rows, or decode in this process (`pipelines.pictures`).
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipelines.corpus import read_fragment
from pipelines.fragments import Fragment, InputChanged, make_fragment
from pipelines.inference.stage import StageSpec
from pipelines.pictures import thumbnails
from pipelines.storage import corpus_options

log = logging.getLogger(__name__)

SIDE = 480
"""Longest side of a thumbnail, pixels: about twice what a card shows."""


def read_thumbnails(
    rows: Sequence[Mapping[str, Any]], fragments: Mapping[str, Fragment], spec: StageSpec, *, side: int = SIDE
) -> dict[str, bytes]:
    """Read the first image of some rows and make it small.

    Args:
        rows: of the table, with `uid` and `fragment_id`.
        fragments: where their images are, by `fragment_id`; rows of others have no picture.
        spec: of the run's stage.
        side: longest side, pixels.

    Returns:
        uid → JPEG, for as many rows as the corpus gives again; of an image that is cut off what there is of it.
    """
    wanted = {row["uid"] for row in rows}
    files: dict[str, bytes] = {}
    for name in dict.fromkeys(row["fragment_id"] for row in rows if row["fragment_id"] in fragments):
        fragment = fragments[name]
        options = corpus_options(fragment.root, spec.storage_options, *spec.corpus.places)
        part = narrow(fragment, wanted)
        try:
            for row in read_fragment(part, storage_options=options, columns=spec.columns, settings=spec.corpus):
                if row.uid in wanted and row.images:
                    files[row.uid] = row.images[0]
        except InputChanged as error:
            log.warning("no more pictures of fragment %s: %s", name, error)
    made = zip(files, thumbnails(list(files.values()), spec.sandbox, side=side, broken=True), strict=True)
    return {uid: picture for uid, picture in made if picture is not None}


def narrow(fragment: Fragment, uids: Collection[str]) -> Fragment:
    """Leave out of a fragment of files those that nobody asks for, so that they are not read; others stay whole."""
    if fragment.kind != "files":
        return fragment
    rows = tuple(row for index, row in enumerate(fragment.rows) if fragment.row_uid(index) in uids)
    return make_fragment(kind="files", source=fragment.source, root=fragment.root, rows=rows)
