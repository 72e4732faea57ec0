"""Small pictures of single rows for pages, read again from the corpus.

A picture that cannot be had is left out, with a log line: pages show the row without it. What this does *not* do:
choose rows.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.corpus_settings import DEFAULT_COLUMNS, DEFAULT_SETTINGS, CorpusColumns, CorpusSettings
from pipelines.curation.shard import read_pieces
from pipelines.curation.shard_plan import narrow_piece
from pipelines.fragments import Fragment, InputChanged
from pipelines.pictures import thumbnails
from pipelines.storage import StorageOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPlace:
    """Where a row's picture is."""

    uid: str
    """The row."""
    fragment: str
    """Its fragment of the corpus."""
    index: int
    """Its row there."""


def read_thumbnails(
    places: Iterable[RowPlace],
    fragments: Sequence[Fragment],
    *,
    storage_options: StorageOptions | None = None,
    columns: CorpusColumns = DEFAULT_COLUMNS,
    corpus: CorpusSettings = DEFAULT_SETTINGS,
) -> dict[str, bytes]:
    """Read the first image of some rows and make it small.

    Args:
        places: the rows, in any order.
        fragments: the frozen corpus.
        storage_options: see `storage.storage_options`; None reads the environment.
        columns: where rows keep their images.
        corpus: how the corpus is read.

    Returns:
        uid → JPEG of at most `pictures.SIDE` a side, for as many rows as the corpus gives again.
    """
    by_id = {one.fragment_id: one for one in fragments}
    groups: dict[str, list[RowPlace]] = {}
    for place in dict.fromkeys(places):
        if place.fragment in by_id:
            groups.setdefault(place.fragment, []).append(place)
    files: dict[str, bytes] = {}
    for name, group in groups.items():
        ordered = sorted(group, key=lambda place: place.index)
        piece = narrow_piece(by_id[name], [place.index for place in ordered], [place.uid for place in ordered])
        try:
            for row in read_pieces([piece], storage_options, columns, corpus):
                if row.images:
                    files[row.uid] = row.images[0]
        except InputChanged as error:
            log.warning("no more pictures of fragment %s: %s", name, error)
    made = zip(files, thumbnails(list(files.values())), strict=True)
    return {uid: picture for uid, picture in made if picture is not None}
