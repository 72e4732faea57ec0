"""A fragment's files: the same rows give the same bytes, broken contracts are named, nothing half-written stays."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import parts
from pipelines.errors import PartError
from pipelines.parts import encode_part, write_fragment
from tests.pipelines.table_cases import SCHEMA, rows, write


def files_of(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_same_rows_give_the_same_bytes_however_they_are_chunked() -> None:
    # 14 MB of bytes, so that the column has many pages
    table = rows("f", 700).append_column("image", pa.array([random.Random(n).randbytes(20_000) for n in range(700)]))
    whole = encode_part(table)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 333), table.slice(334)])
    padded = pa.concat_tables([table.slice(0, 5), table]).combine_chunks().slice(5)
    noted = table.replace_schema_metadata({"made": "today"})
    assert encode_part(chunked) == whole
    assert encode_part(padded) == whole
    assert encode_part(noted) == whole
    assert encode_part(table.slice(0, 699)) != whole


def test_a_fragment_becomes_one_file_for_each_status(tmp_path: Path) -> None:
    receipt = write(str(tmp_path), "f", 3, 2)
    assert [(file.status, file.rows) for file in receipt.files] == [("ok", 3), ("rejected", 2)]
    assert (receipt.ok, dict(receipt.rejected), receipt.rows) == (3, {"EMPTY": 2}, 5)
    assert files_of(tmp_path) == [file.path for file in receipt.files]
    assert receipt.files[0].path.startswith("status=ok/part-f-")
    back = pq.ParquetFile(tmp_path / receipt.files[0].path).read()
    assert "status" not in back.schema.names
    assert back["uid"].to_pylist() == ["f:0", "f:1", "f:2"]
    assert back["size"].to_pylist()[2] == {"height": 12, "width": 22}
    assert receipt.files[0].size == (tmp_path / receipt.files[0].path).stat().st_size
    stats = json.loads(receipt.files[1].stats)
    assert stats["numRecords"] == 2
    assert stats["minValues"] == {"run_id": "run", "fragment_id": "f", "error": "EMPTY"} == stats["maxValues"]
    assert json.loads(receipt.files[0].stats)["nullCount"]["error"] == 3


def test_writing_twice_leaves_one_file_and_other_rows_another(tmp_path: Path) -> None:
    first = write(str(tmp_path), "f", 3, 0)
    assert write(str(tmp_path), "f", 3, 0) == first
    assert files_of(tmp_path) == [first.files[0].path]
    assert write(str(tmp_path), "f", 2, 0).files[0].path != first.files[0].path


def test_a_damaged_file_of_the_right_name_is_written_again(tmp_path: Path) -> None:
    receipt = write(str(tmp_path), "f", 3, 0)
    place = tmp_path / receipt.files[0].path
    whole = place.read_bytes()
    place.write_bytes(whole[:-1])
    write(str(tmp_path), "f", 3, 0)
    assert place.read_bytes() == whole


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-1], "bytes of"),
        (lambda data: data[:-4] + b"????", "magic bytes"),
        (lambda data: encode_part(rows("f", 2).drop_columns(["status"])).ljust(len(data), b"?"), "magic bytes"),
    ],
)
def test_an_upload_that_arrives_spoilt_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: object, message: str
) -> None:
    assert callable(spoil)
    whole = parts.write_bytes
    monkeypatch.setattr(parts, "write_bytes", lambda uri, data, options: whole(uri, spoil(data), options))
    with pytest.raises(PartError, match=message):
        write(str(tmp_path), "f", 3, 0)


def test_an_upload_of_fewer_rows_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pq.read_metadata
    shorter = tmp_path / "shorter.parquet"
    shorter.write_bytes(encode_part(rows("f", 2).drop_columns(["status"])))
    monkeypatch.setattr(pq, "read_metadata", lambda file: whole(shorter))
    with pytest.raises(PartError, match="2 rows of 3"):
        write(str(tmp_path), "f", 3, 0)


def test_an_upload_that_does_not_arrive_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "write_bytes", lambda uri, data, options: Path(uri).parent.mkdir())
    with pytest.raises(PartError, match="nothing there"):
        write(str(tmp_path), "f", 3, 0)


def test_an_empty_fragment_has_a_receipt_without_files(tmp_path: Path) -> None:
    receipt = write(str(tmp_path), "f", 0, 0)
    assert (receipt.files, receipt.rows) == ((), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["score"]), "expected"),
        (lambda table: replaced(table, "fragment_id", "other"), "fragment_id holds"),
        (lambda table: replaced(table, "run_id", "other"), "run_id holds"),
        (lambda table: replaced(table, "status", "maybe"), "status is"),
        (lambda table: replaced(table, "status", "rejected"), "needs an error code"),
        (lambda table: replaced(table, "error", "EMPTY"), "needs an error code"),
    ],
)
def test_rows_that_break_the_contract_are_refused(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(PartError, match=message):
        write_fragment(change(rows("f", 3)), SCHEMA, table_uri=str(tmp_path), fragment_id="f", run_id="run")
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("name", ["", "../f", "a/b", "x" * 65, "ü"])
def test_an_id_that_may_not_stand_in_a_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PartError, match="fragment_id is"):
        write_fragment(rows(name, 1), SCHEMA, table_uri=str(tmp_path), fragment_id=name, run_id="run")
    with pytest.raises(PartError, match="run_id is"):
        write_fragment(rows("f", 1, run_id=name), SCHEMA, table_uri=str(tmp_path), fragment_id="f", run_id=name)


def replaced(table: pa.Table, column: str, last: str) -> pa.Table:
    """The table with the last row's value changed."""
    index = table.schema.get_field_index(column)
    values = [*table[column].to_pylist()[:-1], last]
    return table.set_column(index, table.schema.field(index), pa.array(values, pa.string()))
