"""One shard as a Parquet file, row group by row group: the same rows give the same bytes.

Image bytes are stored plain (they are compressed already, and a reader can map them), everything else with zstd. Row
groups are small, because they are what a reader holds at once. The file grows on the local disk, is named by its hash
and then put in its place. What this does *not* do: read the corpus (`shard`), commit (`shard_stage`).
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.curation.shard_plan import ShardSize
from pipelines.errors import PartError
from pipelines.parts import PartFile, part_fault, part_stats
from pipelines.storage import StorageOptions, filesystem, is_local, join_uri, local_path
from schemas.shard import SHARD_FILE

_PLAIN = ("images.list.element", "tiles")
_STAMPS = ("run_id", "fragment_id", "error")


class ShardFile:
    """Takes rows in order and writes them as one file, in a context: `with ShardFile(size) as file`.

    Args:
        size: of its row groups.
        scratch: local folder in which it grows; the system's own if left out.
    """

    def __init__(self, size: ShardSize, scratch: str | None = None) -> None:
        self._size = size
        self._folder = Path(tempfile.mkdtemp(prefix="shard-", dir=scratch))
        self._path = self._folder / "shard.parquet"
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._stamps: list[pa.Table] = []
        self.num_rows = 0

    def __enter__(self) -> "ShardFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, row: dict[str, Any]) -> None:
        """Take one row, values by column of `SHARD_FILE`; written once its group is full."""
        weight = sum(map(len, row["images"])) + len(row["tiles"] or b"") + _text_bytes(row)
        if self._rows and (len(self._rows) == self._size.group_rows or self._bytes + weight > self._size.group_bytes):
            self._flush()
        self._rows.append(row)
        self._bytes += weight

    def place(
        self, table_uri: str, fragment_id: str, status: str, storage_options: StorageOptions | None = None
    ) -> PartFile | None:
        """End the file, name it by its content, and put it in its place; None if it has no rows.

        Raises:
            PartError: it did not arrive whole.
        """
        self._flush()
        if self._writer is None:
            return None
        self._writer.close()
        self._writer = None
        size, digest = self._path.stat().st_size, _digest(self._path)
        path = f"status={status}/part-{fragment_id}-{digest[:12]}.parquet"
        uri = join_uri(table_uri, path)
        put_file(self._path, uri, storage_options)
        if (fault := part_fault(uri, size, self.num_rows, storage_options)) is not None:
            raise PartError(f"{uri} did not arrive whole: {fault}")
        stats = part_stats(pa.concat_tables(self._stamps))
        return PartFile(path=path, size=size, rows=self.num_rows, status=status, stats=stats)

    def _flush(self) -> None:
        if not self._rows:
            return
        group = pa.Table.from_pylist(self._rows, schema=SHARD_FILE)
        if self._writer is None:
            self._writer = open_writer(self._path, SHARD_FILE)
        self._writer.write_table(group, row_group_size=len(self._rows))
        self._stamps.append(group.select(_STAMPS))
        self.num_rows += len(self._rows)
        self._rows, self._bytes = [], 0


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a Parquet file as shards are written: images plain, the rest zstd, a page index."""
    leaves = _leaves(schema)
    return pq.ParquetWriter(
        path,
        schema,
        version="2.6",
        compression={leaf: "none" if leaf in _PLAIN else "zstd" for leaf in leaves},
        use_dictionary=[leaf for leaf in leaves if leaf not in _PLAIN],
        write_statistics=[leaf for leaf in leaves if leaf not in _PLAIN],
        write_page_index=True,
    )


def put_file(path: Path, uri: str, storage_options: StorageOptions | None = None) -> None:
    """Copy or upload a local file so that readers see all of it or nothing."""
    if not is_local(uri):
        store, place = filesystem(uri, storage_options)
        store.put_file(str(path), place)
        return
    target = local_path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}.{path.parent.name}.tmp")
    try:
        with path.open("rb") as source, beside.open("wb") as file:
            shutil.copyfileobj(source, file, 2**20)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _leaves(schema: pa.Schema) -> Iterable[str]:
    """Parquet's paths of the columns."""
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema]


def _text_bytes(row: dict[str, Any]) -> int:
    return sum(len(row[name] or "") for name in ("text", "conversations", "metadata"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
