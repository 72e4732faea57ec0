"""The closed set of reasons: each is tripped once by a corpus, and none is given that is not in it."""

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_core.errors import ImageReason, PromptReason
from pipelines import corpus_sources, corpus_tar_index
from pipelines.reasons import ROW_REASONS
from schemas.reasons import CorpusReason, QuestionReason
from tests.pipelines.corpus_cases import image, member, read_all, tar_bytes


def _line(**record: object) -> Callable[[Path], None]:
    return lambda root: (root / "a.jsonl").write_text(json.dumps(record)) and None


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> Callable[[Path], None]:
    return lambda root: (root / "a.tar").write_bytes(tar_bytes(members)) and None


def _file(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(data) and None


def _parquet(table: pa.Table) -> Callable[[Path], None]:
    return lambda root: pq.write_table(table, root / "a.parquet")


TRIPPED: dict[str, Callable[[Path], None]] = {
    "NOT_FOUND": _line(image="gone.jpg"),
    "UNREADABLE": _file("denied.jpg", b"x"),
    "TOO_LARGE": _tar(member("1.jpg", bytes(50 * 2**20 + 1))),
    "MEMORY": _parquet(pa.table({"image": pa.nulls(1_000_001, pa.binary())})),
    "BOMB": _file("a.tar.gz", gzip.compress(tar_bytes([member("1.jpg", bytes(2**21))]))),
    "CORRUPT": _file("a.parquet", b"PAR1" + b"x" * 20),
    "TRUNCATED_ARCHIVE": _file("a.tar", tar_bytes([member("1.jpg", b"x")])[:1000]),
    "PATH_TRAVERSAL": _line(image="../a.jsonl"),
    "SPECIAL_MEMBER": _tar(member("1.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")),
    "DUP_KEY": _tar(member("1.jpg", image(1)), member("2.jpg", image(2)), member("1.jpg", image(3))),
    "MISSING_PART": _tar(member("1.txt", b"x")),
    "UNSAFE_TYPE": _tar(member("1.pkl", b"x")),
    "NESTED_ARCHIVE": _tar(member("1.zip", b"x")),
    "SCHEMA": _parquet(pa.table({"score": [1.5]})),
    "NULL_FIELD": _parquet(pa.table({"image": pa.nulls(1, pa.binary())})),
    "BAD_JSON": _file("a.jsonl", b'{"image": NaN}'),
    "BAD_ENCODING": _file("a.jsonl", b'{"image": "\xff"}'),
    "TOO_LONG": _line(image="a.jsonl", text="x" * 1_000_001),
    "BAD_CONVERSATION": _line(image="a.jsonl", conversations=[{"from": "nobody"}]),
    "SCHEME": _line(image="file:///etc/passwd"),
    "BAD_BASE64": _line(image="data:image/png;base64,*"),
}


@pytest.mark.parametrize("reason", TRIPPED)
def test_each_reason_is_given(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(path: str, *args: object, **kwargs: object) -> object:
        if path.endswith("denied.jpg"):
            raise PermissionError(13, "Permission denied")
        return open(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(corpus_sources, "open", guarded, raising=False)
    monkeypatch.setattr(corpus_tar_index, "_FREE_BYTES", 2**20)
    TRIPPED[reason](tmp_path)
    errors = [row.error for row in read_all(tmp_path) if row.error]
    assert errors == [reason]
    assert reason in ROW_REASONS


def test_no_reason_is_left_untripped() -> None:
    assert set(TRIPPED) == {reason.value for reason in CorpusReason} | {ImageReason.BAD_BASE64.value}


def test_names_are_values_and_the_union_is_whole() -> None:
    kinds = (CorpusReason, QuestionReason, ImageReason, PromptReason)
    for kind in kinds:
        assert all(reason.name == reason.value for reason in kind)
        assert {reason.value for reason in kind} <= ROW_REASONS
    assert frozenset().union(*(kind.__members__ for kind in kinds)) == ROW_REASONS
