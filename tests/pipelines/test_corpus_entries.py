"""Listings held packed: what goes in comes out, in the order that a sort of all paths gives."""

from pathlib import Path, PurePosixPath

import pytest

from llava_core.errors import TesseraError
from pipelines.corpus_entries import BLOCK, Entries, Entry
from pipelines.corpus_files import is_side_file, owned_json, suffix_of
from pipelines.corpus_listing import list_source
from pipelines.row_refs import ObjectRef

AWKWARD = (
    "a/x.jpg",
    "a.jpg",
    "a-b/x.jpg",
    "a b.jpg",
    "a0/x.jpg",
    "a/b/c.jpg",
    "a/b.jpg",
    "a/b-c/d.jpg",
    "ä/x.jpg",
    "z\U0001f600.jpg",
    "z\uffee.jpg",
    "Z/x.jpg",
)
"""Sorted folder by folder these come in another order than sorted as paths: "-", "." and " " are less than "/"."""


def entry(name: str, size: int = 1) -> Entry:
    """An entry of some name."""
    return Entry(ref=ObjectRef(uri=f"/d/{name}", size=size, version="7"), name=name)


def test_entries_come_back_over_several_blocks() -> None:
    """Refused ones too, with their reasons."""
    given = [entry(f"{number:06d}.jpg", number) for number in range(2 * BLOCK + 5)]
    ref = ObjectRef(uri="/d/x", size=0, version="")
    given.append(Entry(ref=ref, name="x", error="BAD_ENCODING", error_detail="the file's name is not UTF-8"))
    entries = Entries(given)
    assert len(entries) == len(given) and list(entries) == given
    assert list(entries.names()) == [one.name for one in given]


def test_no_entries() -> None:
    """An empty folder."""
    assert len(Entries()) == 0 and list(Entries()) == [] and list(Entries().names()) == []


def test_entries_are_found_by_name() -> None:
    """First and last of blocks, and names that stand before, between and after all."""
    entries = Entries(entry(f"{2 * number:06d}.jpg", number) for number in range(2 * BLOCK + 5))
    for number in (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 4, 7):
        found = entries.find(f"{2 * number:06d}.jpg")
        assert found is not None and found.ref.size == number
    assert [entries.find(name) for name in ("", "000001.jpg", f"{2 * BLOCK - 1:06d}.jpg", "z")] == [None] * 4
    assert Entries().find("a") is None


def test_of_one_name_the_last_counts() -> None:
    """At the border of a block too."""
    entries = Entries([entry("a", 1), entry("a", 2), *(entry(f"b{n:05d}") for n in range(BLOCK - 1)), entry("c", 3)])
    assert len(entries) == BLOCK + 1
    assert [one.ref.size for one in entries if one.name in "ac"] == [2, 3]
    twice = Entries([*(entry(f"b{n:05d}") for n in range(BLOCK)), entry(f"b{BLOCK - 1:05d}", 9)])
    assert len(twice) == BLOCK and list(twice)[-1].ref.size == 9


def test_another_order_is_a_defect() -> None:
    """Cuts hang on the order."""
    with pytest.raises(TesseraError, match="'a' after 'b'"):
        Entries([entry("b"), entry("a")])


def test_a_walk_has_the_order_of_paths(tmp_path: Path) -> None:
    """Also where a name is not UTF-8: it stands where its printed form does."""
    for name in AWKWARD:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
    (tmp_path / "\udcff").mkdir()
    (tmp_path / "\udcff" / "y.jpg").write_bytes(b"x")
    found = list(list_source(str(tmp_path)).entries)
    assert [one.name for one in found] == sorted([*AWKWARD, "\\xff/y.jpg"])
    assert [one.name for one in found if one.error] == ["\\xff/y.jpg"]
    assert all(one.ref.uri == f"{tmp_path}/{one.name}" for one in found)


def test_a_glob_has_the_order_of_paths(tmp_path: Path) -> None:
    """Names are below the part without wildcards."""
    for name in AWKWARD:
        place = tmp_path / "in" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
    names = list(list_source(f"{tmp_path}/in/a*").entries.names())
    assert names == sorted(name for name in AWKWARD if name.startswith("a"))


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.tar.gz", "a.b/c", "a.b/c.txt", ".txt", "a/.txt", "a.", "a..", "..a", "a/b.JPG", "", "é.png"]
)
def test_suffix_is_pathlibs(name: str) -> None:
    """The one of Python 3.11, which a trailing dot is none of."""
    assert suffix_of(name) == PurePosixPath(name).suffix


def test_json_beside_an_image_is_the_images() -> None:
    """And only there: in another folder, or beside a side file, it is not."""
    names = sorted(
        ["a/1.jpg", "a/1.json", "a/2.json", "b/1.json", "b/3.txt", "b/3.json", "c.tar", "c.json", "d", "d.json"]
    )
    assert is_side_file("c.tar")
    assert owned_json(Entries(map(entry, names))) == {"a/1.json", "d.json"}
