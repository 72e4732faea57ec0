"""Objects in captions and CHAIR, against counts made by hand."""

import json
from pathlib import Path

import pytest

from llava_core.errors import ConfigError
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.hallucination import hallucination_section, invented_objects
from pipelines.evaluation.items import Item, Judged
from pipelines.evaluation.objects import chair, mentions, read_synonyms

LIST = """person, man, woman, child, people, baby, passenger, rider
dog, puppy
hot dog, hotdog
bus, autobus
chair, seat, stool
toilet, urinal
dining table, table, desk
airplane, plane, jet, air plane
train, locomotive
bird, duck
wine glass
knife, pocketknife
cell phone, mobile phone, phone
bench, pew
"""


@pytest.fixture
def synonyms(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "synonyms.txt").write_text(LIST)
    return read_synonyms(str(tmp_path / "synonyms.txt"))


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("Two buses, a puppy and hot dogs; a dog.", ["bus", "dog", "hot dog", "dog"]),
        ("A dogged man", ["person"]),
        ("Men, women and children on benches", ["person", "person", "person", "bench"]),
        ("Three people with knives and wine glasses", ["person", "knife", "wine glass"]),
        ("a baby bird beside a baby", ["bird", "person"]),
        ("an adult dog and an adult", ["dog"]),
        ("a passenger train and a passenger jet with one passenger", ["train", "airplane", "person"]),
        ("the seat of a toilet", ["toilet"]),
        ("a toilet seat", ["toilet"]),
        ("a seat at the table", ["chair", "dining table"]),
        ("a dining table and a mobile phone", ["dining table", "cell phone"]),
        ("HOT DOG", ["hot dog"]),
        ("a hot dog's bun", ["hot dog"]),
        ("a table, a table and a desk", ["dining table"] * 3),
        ("a man at home plate", ["person"]),
        ("an empty train track in a field", []),
        ("train tracks beside a train", ["train"]),
        ("toilets with seats", ["toilet"]),
        ("two toilets and a seat", ["toilet"]),
        ("nothing of note", []),
        ("", []),
    ],
)
def test_mentions(caption: str, named: list[str], synonyms: dict[str, str]) -> None:
    assert mentions(caption, synonyms) == named


def test_words_that_are_no_object_together_are_none_in_any_number() -> None:
    plates = {"plate": "plate"}
    assert mentions("a plate, home plates and the home plate", plates) == ["plate"]


def test_chair_counts_mentions_and_captions() -> None:
    names = {one: one for one in ("dog", "cat", "car")}
    captions = ["a dog, a cat and a car", "a dog", "a tree", "a car by a car"]
    # mentions: 3 + 1 + 0 + 2; not there: cat and car of the first, both cars of the last
    assert chair(captions, [{"dog"}, {"dog", "cat"}, set(), {"dog"}], names) == (4 / 6, 2 / 4)
    assert chair([], [], names) == (0.0, 0.0)


def judged(number: int, reply: str, objects: list[str], *references: str) -> Judged:
    facts = {"objects": json.dumps(objects), "vocabulary": json.dumps(["bus", "dog", "person", "zebra"])}
    item = Item(item_id=str(number), image="a", question="", prompt="", references=references, facts=facts)
    return Judged(item=item, reply=reply, answer=reply, values=(0.0,))


def test_invented_objects_by_a_list_and_without(synonyms: dict[str, str]) -> None:
    scored = [
        judged(1, "A woman walks a puppy past a desk.", ["person", "dog"], "a person and a dog"),
        judged(2, "A woman and a zebra on a bus.", ["bus"], "a man in a bus"),
    ]
    found = invented_objects(scored, synonyms)
    assert found is not None
    # woman, puppy, desk · woman (a man is spoken of), zebra (known by the set alone), bus
    assert (found.by_mention, found.by_caption) == (2 / 6, 1.0)
    assert (found.objects, found.captions) == ({"dining table": 1, "zebra": 1}, 2)
    plain = invented_objects(scored)
    assert plain is not None
    # only zebra and bus have their own names here
    assert (plain.by_mention, plain.by_caption, plain.objects) == (1 / 2, 1 / 2, {"zebra": 1})
    page = "".join(hallucination_section(scored, synonyms))
    assert "33.3 %" in page and f"{len(synonyms)} names for 14 objects" in page
    assert [(name, objects) for name, _, objects in found.worst] == [("1", ("dining table",)), ("2", ("zebra",))]
    assert "<td>A woman walks a puppy past a desk.</td><td>dining table</td>" in page
    assert "without a list of synonyms" in "".join(hallucination_section(scored))


def test_a_list_that_is_wrong_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"--synonyms .*none\.txt"):
        read_synonyms(str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n , \n")
    with pytest.raises(ConfigError, match="is empty; expected a line for each object"):
        read_synonyms(str(tmp_path / "empty.txt"))
    (tmp_path / "twice.txt").write_text("bear, teddy\nteddy bear,  Teddy\n")
    assert read_synonyms(str(tmp_path / "twice.txt")) == {
        "bear": "bear", "teddy": "teddy bear", "teddy bear": "teddy bear"}  # fmt: skip
    assert "['teddy'] now mean teddy bear" in caplog.text
    with pytest.raises(ConfigError, match="--synonyms goes with --report hallucination"):
        EvaluateConfig(synonyms="synonyms.txt")
