"""What a caller may set about reading a corpus; the same values go to `plan_corpus` and `read_fragment`.

Every field but `read_threads` changes rows or fragments, so a run's id has to include both dataclasses
(`CorpusSettings.identity`). Credentials are not settings: they travel apart, as fsspec's `storage_options`.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from llava_core.config import check_at_least, check_choice
from pipelines.corpus_sources import normalise
from pipelines.fragments import MAX_ROWS

CorpusKind = Literal["auto", "files", "parquet", "tar", "json"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusColumns:
    """Names of columns (Parquet) or keys (JSON). None: found by name and type, see `corpus_columns`."""

    image: str | None = None
    """Encoded bytes, `struct{bytes, path}`, or a URI; or a list of one of these."""
    text: str | None = None
    """Caption."""
    conversations: str | None = None
    """Turns as list of structs, or as a JSON string."""
    embedding: str | None = None
    """Numbers that a model made of the image, a list as long in every row; semantic duplicates are found by it."""
    uid: str | None = None
    """A value that is unique in the whole corpus and becomes the row's uid. None: the row's place (uri and number)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSettings:
    """How inputs are listed, cut and read."""

    kind: CorpusKind = "auto"
    """What a folder holds. "auto": Parquet if it has any, else tars, else images, else JSON."""
    rows_per_fragment: int = 256
    """Mean rows of a fragment of files, rows of one of a container (Parquet keeps to row groups); at most 1,024. Choose
    it before the first run: another value is another run, which does everything again."""
    image_root: str | None = None
    """Folder that relative image URIs start from and must stay in, made absolute. None: that of the file with them."""
    allowed_prefixes: tuple[str, ...] = ()
    """Remote prefixes ("s3://bucket/folder/") that rows may point to, beside the corpus' own bucket."""
    require_images: bool = True
    """Reject rows without an image (MISSING_PART). False keeps text-only rows, for training."""
    sidecars: bool = True
    """Whether `a.txt` and `a.json` beside `a.jpg` are read: caption and metadata."""
    max_file_bytes: int = 50 * 2**20
    """Images above this are not read (TOO_LARGE)."""
    max_text_bytes: int = 1_000_000
    """Texts above this are refused (TOO_LONG); UTF-8 bytes."""
    max_record_bytes: int = 256 * 2**20
    """JSON records above this are not read (TOO_LARGE)."""
    max_archive_ratio: float = 100.0
    """Unpacked bytes for each byte of a `.tar.gz`, above which it is a bomb (the first 64 MiB are free)."""
    max_archive_bytes: int = 64 * 2**30
    """Unpacked bytes of a `.tar.gz`, above which it is a bomb."""
    read_threads: int = 8
    """Remote files of one fragment that are read at once."""

    def __post_init__(self) -> None:
        if self.image_root is not None:
            # a worker reads in another folder
            object.__setattr__(self, "image_root", normalise(self.image_root))
        check_choice("corpus", "kind", self.kind, ("auto", "files", "parquet", "tar", "json"))
        for name in ("max_file_bytes", "max_text_bytes", "max_record_bytes", "read_threads", "rows_per_fragment"):
            check_at_least("corpus", name, getattr(self, name), 1)
        check_at_least("corpus", "rows_per_fragment (negated)", -self.rows_per_fragment, -MAX_ROWS)

    @property
    def places(self) -> tuple[str, ...]:
        """Where rows may point to, beside the corpus' own folders."""
        return (*(() if self.image_root is None else (self.image_root,)), *self.allowed_prefixes)

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's id includes: a slow store may be read by more threads in the middle of a run."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "read_threads"}


DEFAULT_COLUMNS = CorpusColumns()
"""Everything found by name and type."""
DEFAULT_SETTINGS = CorpusSettings()
"""What `plan_corpus` and `read_fragment` use unless told otherwise."""
