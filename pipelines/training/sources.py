"""What training reads: shards, any corpus that the readers know (LLaVA JSON among them), or a class of one's own.

    input ─ index_inputs (driver) ─▶ SourceIndex: units and their rows ─ open_source (worker) ─▶ read(unit) ─▶ TrainRow

A *unit* is what is read at once: a row group of a shard, a fragment of a corpus. Texts and sizes come first, and a
row's image bytes only when they are asked for, so that a worker that does not train on a row need not load it.
What this does *not* do: order samples (`data`), tokenise or decode.
"""

import dataclasses
import hashlib
import importlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from llava_core.errors import ConfigError, ImageRefused
from llava_core.geometry import Size
from llava_core.image_headers import read_header
from pipelines.corpus import plan_corpus, read_fragment
from pipelines.corpus_settings import DEFAULT_COLUMNS, CorpusSettings
from pipelines.fragments import CorpusRow, Fragment
from pipelines.storage import StorageOptions, corpus_options, exists, filesystem, join_uri, storage_options
from pipelines.tables import open_table

SETTINGS = CorpusSettings(rows_per_fragment=64, require_images=False)
"""How corpora are read: small fragments, because several are held at once; rows without an image are kept."""
_PLANNED = ("uid", "conversations", "text", "heights", "widths")
_HELD_UNITS = 16
"""Image columns of row groups that a worker holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRow:
    """One sample before it is tokenised."""

    uid: str
    """Names it in messages."""
    turns: Any = None
    """`conversations` of LLaVA JSON, as JSON gives it; None where the sample has only a caption."""
    text: str | None = None
    """Caption."""
    sizes: tuple[Size, ...] = ()
    """(height, width) of each image, pixels."""
    load: Callable[[], Sequence[bytes]] = tuple
    """Gives the encoded bytes of each image."""
    max_tiles: int | None = None
    """Most tiles of its images beyond the base tile, where that is fewer than the stage's."""
    error: str | None = None
    """Reason why it cannot be used, if reading found one."""
    detail: str = ""
    """For people."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What extra losses need to know of it."""


class Source(Protocol):
    """What a worker reads one input through; one's own is `module:Class` or `module:Class=argument`."""

    @property
    def fingerprint(self) -> str:
        """Changes when the content does."""
        ...

    @property
    def units(self) -> Sequence[int]:
        """Rows of each unit."""
        ...

    def read(self, unit: int) -> Sequence[TrainRow]:
        """Give a unit's rows, in order, as many as `units` says."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceIndex:
    """One input as the driver found it; travels to workers."""

    kind: Literal["shards", "corpus", "class"]
    """Which reader reads it."""
    uri: str
    """As the caller spelled it."""
    fingerprint: str
    """Changes when the input does."""
    rows: tuple[int, ...]
    """Of each unit."""
    files: tuple[tuple[str, int], ...] = ()
    """Shards: path below the table and row group, of each unit."""
    fragments: tuple[Fragment, ...] = ()
    """Corpus: of each unit."""
    settings: CorpusSettings = SETTINGS
    """Corpus: how it is read."""

    @property
    def num_rows(self) -> int:
        """All rows."""
        return sum(self.rows)


def index_inputs(
    inputs: Sequence[str], *, limit: int | None = None, image_root: str | None = None
) -> tuple[SourceIndex, ...]:
    """Look at inputs without reading their rows; on the driver, before any cluster work.

    Args:
        inputs: tables of shards, corpora, or `module:Class`.
        limit: most rows of each; all if left out.
        image_root: of corpora, see `CorpusSettings`.

    Raises:
        ConfigError: an input is empty, is not there, or a shard of it is missing.
    """
    settings = dataclasses.replace(SETTINGS, image_root=image_root)
    found = tuple(_index(uri, limit, settings) for uri in inputs)
    for index in found:
        if not index.num_rows:
            raise ConfigError(f"{index.uri} has no rows; expected shards, LLaVA JSON or another corpus to train on")
    return found


def _index(uri: str, limit: int | None, settings: CorpusSettings) -> SourceIndex:
    if is_class(uri):
        source = make_source(uri)
        return SourceIndex(kind="class", uri=uri, fingerprint=source.fingerprint, rows=tuple(source.units))
    if exists(join_uri(uri, "_delta_log")):
        return _index_shards(uri, limit)
    options = corpus_options(uri, None, *settings.places)
    fragments = tuple(plan_corpus([uri], limit=limit, storage_options=options, settings=settings))
    # the same names below another folder are other images
    names = [*(one.fragment_id for one in fragments), *settings.places]
    rows = tuple(one.num_rows for one in fragments)
    return SourceIndex(
        kind="corpus", uri=uri, fingerprint=_hash(names), rows=rows, fragments=fragments, settings=settings
    )


def _index_shards(uri: str, limit: int | None) -> SourceIndex:
    table = open_table(uri, storage_options(uri))
    if table is None or not set(_PLANNED) < set(pa.schema(table.schema().to_arrow()).names):
        raise ConfigError(f"{uri} is a table, but not of shards; give the table `shards` that curate_corpus wrote")
    actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    if len(runs := {str(action[end]) for action in actions for end in ("min.run_id", "max.run_id")}) > 1:
        raise ConfigError(f"{uri} holds the shards of {len(runs)} settings, so each row twice; run curate_corpus again")
    paths = sorted(str(action["path"]) for action in actions if action["partition.status"] == "ok")
    files, rows = [], []
    store, root = filesystem(uri)
    for path in paths:
        try:
            with store.open(f"{root}/{path}", "rb") as opened:
                metadata = pq.read_metadata(opened)
        except FileNotFoundError as error:
            raise ConfigError(f"{uri} lists the shard {path}, which is missing; run curate_corpus again") from error
        for group in range(metadata.num_row_groups):
            files.append((path, group))
            rows.append(metadata.row_group(group).num_rows)
    taken = len(rows) if limit is None else next((n for n in range(len(rows)) if sum(rows[:n]) >= limit), len(rows))
    files, rows = files[:taken], rows[:taken]
    names = [f"{path}:{group}:{count}" for (path, group), count in zip(files, rows, strict=True)]
    return SourceIndex(kind="shards", uri=uri, fingerprint=_hash(names), rows=tuple(rows), files=tuple(files))


def open_source(index: SourceIndex, options: StorageOptions | None = None) -> Source:
    """Open an input on a worker.

    Args:
        index: from `index_inputs`.
        options: of the store; None reads the environment.
    """
    match index.kind:
        case "class":
            return make_source(index.uri)
        case "shards":
            return ShardSource(index, options)
        case "corpus":
            return CorpusSource(index, options)


def is_class(uri: str) -> bool:
    """Whether an input names a class: `module:Class`, never a path or a URI.

    >>> is_class("pipelines.synthetic.scenes:Scenes=seed-1"), is_class("s3://a/b"), is_class("C:/x.json")
    (True, False, False)
    """
    module, colon, name = uri.partition("=")[0].partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def make_source(uri: str) -> Source:
    """Make a source of one's own.

    Raises:
        ConfigError: there is no such class.
    """
    place, _, argument = uri.partition("=")
    made: Source = find_class(place, "an input")(*([argument] if argument else []))
    return made


def find_class(place: str, what: str) -> Any:
    """Import `module:Class`.

    Raises:
        ConfigError: there is no such thing.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{what} names {place!r}, which cannot be imported ({error}); write module:Class") from error


class ShardSource:
    """Row groups of a table of shards.

    Args:
        index: of the table.
        options: of the store; None reads the environment.
    """

    def __init__(self, index: SourceIndex, options: StorageOptions | None = None) -> None:
        self.index, self.options = index, options
        self.fingerprint, self.units = index.fingerprint, index.rows
        self._images: OrderedDict[int, list[list[bytes]]] = OrderedDict()

    def read(self, unit: int) -> list[TrainRow]:
        """Texts and sizes of a row group; images stay where they are."""
        rows = self._group(unit, _PLANNED).to_pylist()
        return [self._row(unit, place, row) for place, row in enumerate(rows)]

    def _row(self, unit: int, place: int, row: dict[str, Any]) -> TrainRow:
        sizes = tuple(Size(h, w) for h, w in zip(row["heights"], row["widths"], strict=True))
        turns = None if row["conversations"] is None else json.loads(row["conversations"])
        return TrainRow(
            uid=row["uid"], turns=turns, text=row["text"], sizes=sizes, load=lambda: self._load(unit)[place]
        )

    def _load(self, unit: int) -> list[list[bytes]]:
        held = self._images.get(unit)
        if held is None:
            held = self._group(unit, ("images",))["images"].to_pylist()
            self._images[unit] = held
            while len(self._images) > _HELD_UNITS:
                self._images.popitem(last=False)
        return held

    def _group(self, unit: int, columns: Sequence[str]) -> pa.Table:
        path, group = self.index.files[unit]
        store, root = filesystem(self.index.uri, self.options)
        with store.open(f"{root}/{path}", "rb") as opened, pq.ParquetFile(opened) as file:
            return file.read_row_group(group, columns=list(columns))


class CorpusSource:
    """Fragments of a corpus, as `plan_corpus` cut it.

    Args:
        index: of the corpus.
        options: of the store; None reads the environment.
    """

    def __init__(self, index: SourceIndex, options: StorageOptions | None = None) -> None:
        self.index, self.options = index, options
        self.fingerprint, self.units = index.fingerprint, index.rows

    def read(self, unit: int) -> list[TrainRow]:
        """Rows of a fragment; their bytes are read with them."""
        settings = self.index.settings
        rows = read_fragment(
            self.index.fragments[unit],
            storage_options=corpus_options(self.index.uri, self.options, *settings.places),
            columns=DEFAULT_COLUMNS,
            settings=settings,
        )
        return [corpus_row(row) for row in rows]


def corpus_row(row: CorpusRow) -> TrainRow:
    """A corpus' row as a sample; refused images are found by their headers."""
    if row.error is not None:
        return TrainRow(uid=row.uid, error=row.error, detail=row.error_detail or "")
    try:
        sizes = tuple(read_header(image).size for image in row.images)
    except ImageRefused as refusal:
        return TrainRow(uid=row.uid, error=str(refusal.reason), detail=refusal.detail)
    turns = None if row.conversations is None else json.loads(row.conversations)
    images = row.images
    return TrainRow(uid=row.uid, turns=turns, text=row.text, sizes=sizes, load=lambda: images)


def _hash(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
