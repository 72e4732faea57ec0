"""Corpora for tests: images that are told apart by their bytes, tars and Parquet files with chosen faults."""

import gzip
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.corpus import plan_corpus, read_fragment
from pipelines.corpus_settings import DEFAULT_COLUMNS, DEFAULT_SETTINGS, CorpusColumns, CorpusSettings
from pipelines.fragments import CorpusRow, Fragment


def read_all(
    *inputs: str | Path,
    limit: int | None = None,
    columns: CorpusColumns = DEFAULT_COLUMNS,
    settings: CorpusSettings = DEFAULT_SETTINGS,
    options: Mapping[str, Any] | None = None,
) -> list[CorpusRow]:
    """Plan, send each fragment through JSON as a cluster would, read it, and check what holds for every fragment."""
    plan = plan_corpus(
        [str(one) for one in inputs], limit=limit, storage_options=options, columns=columns, settings=settings
    )
    rows: list[CorpusRow] = []
    for fragment in plan:
        travelled = Fragment.from_json(fragment.to_json())
        assert travelled == fragment
        part = list(read_fragment(travelled, storage_options=options, columns=columns, settings=settings))
        assert len(part) == fragment.num_rows <= 1024
        assert [row.index for row in part] == list(range(fragment.num_rows))
        assert all((row.error is None) or not row.images for row in part)
        rows += part
    assert len({row.uid for row in rows}) == len(rows)
    return rows


def image(number: int) -> bytes:
    """Bytes that stand for an image; readers do not decode."""
    return b"\xff\xd8" + str(number).encode() * (number + 1)


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    """One member for `tar_bytes`."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), link
    return info, data


def tar_bytes(members: Sequence[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of these members, with its end marker."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def write_tar(path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    """Write an archive; in gzip if its name says so."""
    data = tar_bytes(members, form)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix in (".gz", ".tgz") else data)
    return path
