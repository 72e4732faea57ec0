"""Shards in other programs' forms: Arrow IPC, WebDataset, LLaVA JSON beside a folder of images.

    arrow        part-{shard}.arrow, one record batch a row group, all columns of `shards`
    webdataset   part-{shard}.tar, {key}.jpg {key}.txt {key}.json; the same shard gives the same bytes
    llava        conversations.json and images/ab/{key}.jpg, as LLaVA's data code reads it

The image bytes are those of the corpus. One shard is in memory a row group at a time. What this does *not* do: encode
images, export rejected rows.
"""

import hashlib
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from llava_core.config import check_choice
from llava_core.errors import ConfigError
from llava_core.image_formats import sniff_format
from pipelines.curation.shard_file import put_file
from pipelines.storage import StorageOptions, filesystem, join_uri, open_uri, write_bytes
from pipelines.tables import open_table
from schemas.shard import SHARD_FILE

Form = Literal["arrow", "webdataset", "llava"]
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WEBP": "webp", "TIFF": "tif", "AVIF": "avif"}
_KEY = re.compile(r"[0-9A-Za-z_-]{1,80}")
"""What would do as a name: tar's USTAR holds 100 characters, with the extension."""
_FACTS = ("uid", "uri", "source", "n_tiles", "n_image_tokens", "n_text_tokens")
_SUFFIXES: dict[Form, str] = {"arrow": ".arrow", "webdataset": ".tar"}
LLAVA_FILE = "conversations.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write shards in another form."""

    input: str
    """The table `shards` of a curation."""
    output: str
    """Folder to write into; local path, s3:// or gs:// URI."""
    form: Form = "webdataset"
    """"arrow", "webdataset" or "llava"."""
    run_id: str | None = None
    """Run of the table, where it holds several."""

    def __post_init__(self) -> None:
        check_choice("export", "form", self.form, get_args(Form))


def export_corpus(config: ExportConfig, storage_options: StorageOptions | None = None) -> dict[str, int]:
    """Export every shard of a table, in the order of their names.

    Args:
        config: what to export.
        storage_options: see `storage.storage_options`; None reads the environment.

    Returns:
        Figures named files and rows.

    Raises:
        ConfigError: there is no such table, it holds several runs and none is named, or the folder holds files of
            shards that the table no longer has.
    """
    paths = shard_paths(config, storage_options)
    if config.form != "llava":
        _refuse_others({_name(path, config.form) for path in paths}, config, storage_options)
    count = {"files": 0, "rows": 0}
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        if config.form == "llava":
            count["rows"] = _write_llava(paths, config, Path(scratch), storage_options)
            count["files"] = 1
            return count
        write = {"arrow": _write_arrow, "webdataset": _write_tar}[config.form]
        for path in paths:
            name = _name(path, config.form)
            place = Path(scratch) / name
            count["rows"] += write(place, row_groups(join_uri(config.input, path), storage_options))
            put_file(place, join_uri(config.output, name), storage_options)
            place.unlink()
            count["files"] += 1
    return count


def _name(path: str, form: Form) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet") + _SUFFIXES[form]


def _refuse_others(names: set[str], config: ExportConfig, options: StorageOptions | None) -> None:
    """Raise `ConfigError` where a reader of the whole folder would read shards of an earlier export as well."""
    store, root = filesystem(config.output, options)
    if not store.exists(root):
        return
    there = {str(path).rstrip("/").rpartition("/")[2] for path in store.ls(root, detail=False)}
    suffix = _SUFFIXES[config.form]
    others = sorted(name for name in there - names if name.startswith("part-") and name.endswith(suffix))
    if others:
        raise ConfigError(
            f"{config.output} holds {len(others)} file(s) of another export, {others[0]} is one, which whoever reads "
            "the folder would read too; remove them, or name another --output"
        )


def shard_paths(config: ExportConfig, storage_options: StorageOptions | None = None) -> list[str]:
    """Files of kept rows, relative to the table, sorted.

    Raises:
        ConfigError: there is no such table, or it holds several runs and none is named.
    """
    table = open_table(config.input, storage_options)
    if table is None:
        raise ConfigError(f"--input {config.input} is no table; expected `shards` of a curation")
    files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    runs = sorted({str(file["min.run_id"]) for file in files})
    if config.run_id is None and len(runs) > 1:
        raise ConfigError(f"{config.input} holds the runs {', '.join(runs)}; name one of them (--run-id)")
    wanted = config.run_id or (runs[0] if runs else "")
    if runs and wanted not in runs:
        raise ConfigError(f"{config.input} has no run {wanted}; it holds {', '.join(runs)}")
    return sorted(file["path"] for file in files if file["min.run_id"] == wanted and file["partition.status"] == "ok")


def row_groups(uri: str, storage_options: StorageOptions | None = None) -> Iterator[pa.Table]:
    """Give the row groups of a shard's file, one at a time."""
    with open_uri(uri, storage_options) as handle:
        file = pq.ParquetFile(handle)
        for index in range(file.num_row_groups):
            yield file.read_row_group(index)


def sample_key(uid: str) -> str:
    """A name for a row's files: its uid, or 32 hex digits of its hash where the uid would not do as a name.

    Example:
        >>> sample_key("0a1b"), sample_key("a/b.c")
        ('0a1b', 'c06205148f780eb7bafc4158b8c4b4d6')
    """
    return uid if _KEY.fullmatch(uid) else hashlib.sha256(uid.encode()).hexdigest()[:32]


def image_name(key: str, index: int, total: int, data: bytes) -> str:
    """A name for one of a row's images, with the extension of what it is.

    Example:
        >>> image_name("k", 0, 1, b"\\xff\\xd8\\xff\\xe0"), image_name("k", 1, 2, b"\\x89PNG\\r\\n\\x1a\\n")
        ('k.jpg', 'k.1.png')
    """
    extension = _EXTENSIONS.get(sniff_format(data), "img")
    return f"{key}.{extension}" if total == 1 else f"{key}.{index}.{extension}"


def llava_record(row: Mapping[str, Any], images: list[str]) -> dict[str, Any]:
    """One entry of LLaVA's JSON list.

    A caption becomes what LLaVA's pretraining data has: the image asked, the caption answered.

    Args:
        row: of a shard.
        images: paths of its images, relative to the JSON's folder.
    """
    turns = json.loads(row["conversations"]) if row["conversations"] else None
    if turns is None:
        question = {"from": "human", "value": "\n".join(["<image>"] * len(images))}
        turns = [question, {"from": "gpt", "value": row["text"] or ""}]
    shown: dict[str, Any] = {} if not images else {"image": images[0] if len(images) == 1 else images}
    return {"id": row["uid"], **shown, "conversations": turns}


def _write_arrow(place: Path, groups: Iterator[pa.Table]) -> int:
    rows = 0
    with pa.OSFile(str(place), "wb") as sink, pa.ipc.new_file(sink, SHARD_FILE) as writer:
        for group in groups:
            whole = group.cast(SHARD_FILE).combine_chunks()
            writer.write_table(whole, max_chunksize=max(1, whole.num_rows))
            rows += whole.num_rows
    return rows


def _write_tar(place: Path, groups: Iterator[pa.Table]) -> int:
    rows = 0
    with tarfile.open(place, "w", format=tarfile.USTAR_FORMAT) as archive:
        for group in groups:
            for row in group.to_pylist():
                for name, data in _members(row):
                    # Only name and size are set: no clock and no owner, so the bytes depend on the rows alone.
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                rows += 1
    return rows


def _members(row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of one sample: images, then text, then everything else as JSON."""
    key = sample_key(row["uid"])
    for index, data in enumerate(row["images"]):
        yield image_name(key, index, len(row["images"]), data), data
    if row["text"] is not None:
        yield f"{key}.txt", row["text"].encode()
    facts = json.loads(row["metadata"]) | {name: row[name] for name in _FACTS}
    if row["conversations"] is not None:
        facts["conversations"] = json.loads(row["conversations"])
    yield f"{key}.json", json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()


def _write_llava(paths: list[str], config: ExportConfig, scratch: Path, storage_options: StorageOptions | None) -> int:
    """Images into folders by the start of their key; the list comes last, so that it names only what is there."""
    rows = 0
    place = scratch / LLAVA_FILE
    with place.open("w", encoding="utf-8") as listing:
        for path in paths:
            for group in row_groups(join_uri(config.input, path), storage_options):
                for row in group.to_pylist():
                    names = _write_images(row, config.output, storage_options)
                    entry = json.dumps(llava_record(row, names), ensure_ascii=False)
                    listing.write(("[\n" if rows == 0 else ",\n") + entry)
                    rows += 1
        listing.write("\n]\n" if rows else "[]\n")
    put_file(place, join_uri(config.output, LLAVA_FILE), storage_options)
    return rows


def _write_images(row: Mapping[str, Any], output: str, storage_options: StorageOptions | None) -> list[str]:
    key = sample_key(row["uid"])
    names = []
    for index, data in enumerate(row["images"]):
        names.append(f"images/{key[:2]}/{image_name(key, index, len(row['images']), data)}")
        write_bytes(join_uri(output, names[-1]), data, storage_options)
    return names
