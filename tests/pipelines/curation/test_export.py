"""What is exported can be read back: the same bytes, texts and turns, and tars that are equal byte by byte."""

import dataclasses
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_core.errors import ConfigError
from pipelines import tables
from pipelines.corpus import plan_corpus, read_fragment
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.curation.export import ExportConfig, export_corpus, llava_record, sample_key, shard_paths
from pipelines.fragments import CorpusRow
from schemas.shard import SHARD, SHARD_FILE
from tests.pipelines.curation.shard_cases import SETTINGS, kept_rows, photo, talk, write_all

CAPTIONED, SPOKEN, TWICE = 0, 1, 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[CorpusRow]]:
    """A committed table of two shards: captions, conversations, rows with two images, awkward uids; and the corpus."""
    folder = tmp_path_factory.mktemp("export")
    lines = []
    for number in range(12):
        images = [photo(20 + number, 31, number, ("JPEG", "PNG")[number % 2]), photo(22, 40 + number, 100 + number)]
        names = []
        for place, data in enumerate(images[: 1 + (number % 3 == TWICE)]):
            names.append(f"{number}-{place}.bin")
            (folder / names[-1]).write_bytes(data)
        line: dict[str, Any] = {
            "uid": f"row/{number}.x",
            "image": names if len(names) > 1 else names[0],
            "licence": "CC0",
        }
        if number % 3 == CAPTIONED:
            line["caption"] = f'a "photo" {number} – é'
        else:
            places = "<image>" * len(names)
            line["conversations"] = json.loads(talk(f"{places}\nWhat is {number}?", "A thing.", "Sure?", "Yes."))
        lines.append(line)
    silent = {"uid": "silent", "image": "0-0.bin", "conversations": json.loads(talk("<image>\nWhat?", " "))}
    lines.append(silent)
    (folder / "in.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    fragments = plan_corpus([str(folder / "in.jsonl")], settings=CorpusSettings(rows_per_fragment=6))
    columns = CorpusColumns(uid="uid")
    rows = [row for fragment in fragments for row in read_fragment(fragment, columns=columns)]
    kept = kept_rows(fragments, columns=columns)
    out = folder / "shards"
    receipts = write_all(out, fragments, kept, columns=columns)
    assert len(receipts) > 1
    assert sum(receipt.ok for receipt in receipts) == 12
    assert sum(receipt.rejected.get("EMPTY_TEXT", 0) for receipt in receipts) == 1
    tables.commit(str(out), receipts, run_id=SETTINGS.run_id, schema=SHARD)
    return out, rows[:12]


def test_a_web_dataset_is_read_back(shards: Any, tmp_path: Path) -> None:
    table, rows = shards
    done = export_corpus(ExportConfig(input=str(table), output=str(tmp_path / "tars")))
    assert (done["rows"], done["files"]) == (12, len(list((tmp_path / "tars").glob("*.tar"))))
    fragments = plan_corpus([str(tmp_path / "tars")])
    back = {row.uri.partition("#")[2]: row for one in fragments for row in read_fragment(one)}
    assert len(back) == 12
    for row in rows:
        again = back[sample_key(row.uid)]
        assert again.error is None
        assert again.images == row.images
        assert again.text == row.text
        if row.conversations:
            assert again.conversations is not None
            assert json.loads(again.conversations) == json.loads(row.conversations)
        metadata = json.loads(again.metadata)
        assert (metadata["uid"], metadata["licence"], metadata["source"]) == (row.uid, "CC0", "web")


def test_tars_are_the_same_bytes_and_tell_nothing_of_the_machine(shards: Any, tmp_path: Path) -> None:
    table, _ = shards
    digests = []
    for name in "ab":
        export_corpus(ExportConfig(input=str(table), output=str(tmp_path / name)))
        files = sorted((tmp_path / name).glob("*.tar"))
        digests.append([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
        for path in files:
            with tarfile.open(path) as archive:
                for member in archive:
                    assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
    assert digests[0] == digests[1]


@pytest.mark.parametrize("length", [80, 81, 95, 96, 100, 101])
def test_a_long_uid_leaves_room_for_its_extension(tmp_path: Path, length: int) -> None:
    (tmp_path / "0.png").write_bytes(photo(20, 31, 0, "PNG"))
    line = {"uid": "u" * length, "image": ["0.png"] * 11, "caption": "a photo"}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))
    fragments, columns = plan_corpus([str(tmp_path / "in.jsonl")]), CorpusColumns(uid="uid")
    receipts = write_all(tmp_path / "shards", fragments, kept_rows(fragments, columns=columns), columns=columns)
    tables.commit(str(tmp_path / "shards"), receipts, run_id=SETTINGS.run_id, schema=SHARD)
    export_corpus(ExportConfig(input=str(tmp_path / "shards"), output=str(tmp_path / "tars")))
    (path,) = (tmp_path / "tars").iterdir()
    with tarfile.open(path) as archive:
        names = archive.getnames()
    key = sample_key("u" * length)
    assert (key == "u" * length) == (length == 80)
    assert names == [*(f"{key}.{place}.png" for place in range(11)), f"{key}.txt", f"{key}.json"]


def test_arrow_files_hold_the_shards(shards: Any, tmp_path: Path) -> None:
    table, _ = shards
    config = ExportConfig(input=str(table), output=str(tmp_path), form="arrow")
    assert export_corpus(config)["rows"] == 12
    for path in shard_paths(config):
        file = pq.ParquetFile(table / path)
        with pa.ipc.open_file(tmp_path / Path(path).with_suffix(".arrow").name) as reader:
            assert reader.schema.equals(SHARD_FILE)
            assert reader.num_record_batches == file.num_row_groups
            assert reader.read_all().equals(file.read().cast(SHARD_FILE))


def test_files_of_an_earlier_export_are_not_mixed_with_those_of_today(shards: Any, tmp_path: Path) -> None:
    table, _ = shards
    config = ExportConfig(input=str(table), output=str(tmp_path / "tars"))
    done = export_corpus(config)
    assert export_corpus(config) == done, "the same again is no other"
    (tmp_path / "tars" / "notes.tar").write_text("the user's own")
    assert export_corpus(config) == done
    (tmp_path / "tars" / "part-0123-4567.tar").write_text("rows that are gone")
    with pytest.raises(ConfigError, match=r"holds 1 file\(s\) of another export, part-0123-4567.tar"):
        export_corpus(config)
    assert export_corpus(dataclasses.replace(config, form="arrow"))["rows"] == done["rows"]


def test_llava_json_and_its_folder(shards: Any, tmp_path: Path) -> None:
    table, rows = shards
    export_corpus(ExportConfig(input=str(table), output=str(tmp_path), form="llava"))
    entries = {entry["id"]: entry for entry in json.loads((tmp_path / "conversations.json").read_text())}
    assert set(entries) == {row.uid for row in rows}
    for number, row in enumerate(rows):
        entry = entries[row.uid]
        names = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
        assert isinstance(entry["image"], list) == (len(row.images) > 1)
        assert tuple((tmp_path / name).read_bytes() for name in names) == row.images
        assert names[0].endswith(".png" if number % 2 else ".jpg")
        if row.conversations:
            assert entry["conversations"] == json.loads(row.conversations)
        else:
            asked, answered = entry["conversations"]
            assert asked == {"from": "human", "value": "<image>"}
            assert answered == {"from": "gpt", "value": row.text}
    again = plan_corpus([str(tmp_path / "conversations.json")])
    assert sorted(row.images for one in again for row in read_fragment(one)) == sorted(row.images for row in rows)


def test_a_row_without_an_image_has_none_in_llava_json() -> None:
    turns = talk("2 + 2?", "4.")
    assert llava_record({"uid": "u", "conversations": turns, "text": None}, []) == {
        "id": "u",
        "conversations": json.loads(turns),
    }


def test_runs_are_not_mixed(shards: Any, tmp_path: Path) -> None:
    table, _ = shards
    with pytest.raises(ConfigError, match="is no table"):
        export_corpus(ExportConfig(input=str(tmp_path), output=str(tmp_path)))
    with pytest.raises(ConfigError, match="has no run other; it holds shards0"):
        shard_paths(ExportConfig(input=str(table), output="", run_id="other"))
    with pytest.raises(ConfigError, match="form is 'zip'"):
        ExportConfig(input="a", output="b", form="zip")  # type: ignore[arg-type]
    assert np.all([path.startswith("status=ok/") for path in shard_paths(ExportConfig(input=str(table), output=""))])
