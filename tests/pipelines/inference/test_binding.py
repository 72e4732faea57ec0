"""Each line of a questions' file ends as work about its image, or as a refused row; none is lost, none is doubled."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.corpus import plan_corpus, read_fragment
from pipelines.corpus_settings import CorpusSettings
from pipelines.fragments import Fragment
from pipelines.inference import binding
from pipelines.inference.binding import bind
from pipelines.inference.forms import Form
from pipelines.inference.questions import Line, read_line
from pipelines.inference.work import Work, total_rows
from pipelines.reasons import ROW_REASONS
from pipelines.row_refs import ObjectRef
from tests.pipelines.corpus_cases import image, member, tar_bytes

FILE = ObjectRef(uri="/data/q.jsonl", size=9, version="1")


def lines(*records: dict[str, object]) -> list[Line]:
    """Lines of a file of questions; each asks "Q" and its number unless it says otherwise."""
    return [
        read_line(number, json.dumps({"question_id": number, "question": f"Q{number}"} | record).encode(), Form())
        for number, record in enumerate(records)
    ]


@pytest.fixture
def corpus(tmp_path: Path) -> list[Fragment]:
    """Twelve images in two folders, several fragments."""
    for number in range(12):
        file = tmp_path / ("a" if number % 3 else "b") / f"{number:02d}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(image(number + 1))
    plan = plan_corpus([str(tmp_path)], settings=CorpusSettings(rows_per_fragment=2))
    assert len(plan) >= 3
    return plan


def asked(works: Sequence[Work]) -> dict[str, list[str]]:
    """Name of an image → texts of the questions that its rows are asked, of works that are not refused."""
    found: dict[str, list[str]] = {}
    for work in works:
        for row in range(work.fragment.num_rows):
            texts = [one.text for one in work.questions if one.row in (None, row)]
            found.setdefault(Path(work.fragment.row_uri(row)).name, []).extend(texts)
    return found


def refused(works: Sequence[Work]) -> list[tuple[str, str, str | None]]:
    """Question id, uri and reason of the refused rows, as a worker reads them."""
    found = []
    for work in works:
        if work.fragment.container == FILE:
            rows = list(read_fragment(work.fragment))
            assert len(rows) == work.num_rows == len(work.questions)
            found += [(one.question_id, row.uri, row.error) for one, row in zip(work.questions, rows, strict=True)]
    return found


def test_questions_reach_their_images_by_any_name(corpus: list[Fragment], tmp_path: Path) -> None:
    rows = {Path(one.row_uri(i)).name: (one.row_uri(i), one.row_uid(i)) for one in corpus for i in range(one.num_rows)}
    works = bind(
        lines(
            {"image": "a/01.png"},
            {"image": "b/03.png"},
            {"uri": rows["05.png"][0]},
            {"uid": rows["06.png"][1]},
            {"image": "a/01.png"},
            {"uri": f"file://{rows['01.png'][0]}"},
        ),
        FILE,
        corpus,
    )
    expected = {"01.png": ["Q0", "Q4", "Q5"], "03.png": ["Q1"], "05.png": ["Q2"], "06.png": ["Q3"]}
    assert asked(works) == expected  # files that nobody asks about are not even read
    assert total_rows(works) == 6
    assert refused(works) == []
    assert all(row.error is None for work in works for row in read_fragment(work.fragment))


def test_relative_uris_are_those_of_today_s_folder(
    corpus: list[Fragment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert asked(bind(lines({"uri": "a/01.png"}), FILE, corpus)) == {"01.png": ["Q0"]}


def test_a_question_without_an_image_is_asked_of_all(corpus: list[Fragment]) -> None:
    works = bind(lines({}, {"image": "b/03.png"}, {}), FILE, corpus)
    found = asked(works)
    assert len(found) == 12
    assert found.pop("03.png") == ["Q0", "Q2", "Q1"]
    assert all(texts == ["Q0", "Q2"] for texts in found.values())
    assert total_rows(works) == 25


def test_what_cannot_be_asked_is_a_refused_row_of_the_file(corpus: list[Fragment]) -> None:
    works = bind(
        lines(
            {"image": "a/01.png", "question_id": "same"},
            {"image": "gone.png", "question_id": "lost"},
            {"image": "a/02.png", "question_id": "same"},  # another image: another question
            {"image": "a/01.png", "question_id": "same", "question": "again"},
            {"question_id": "all"},
            {"question_id": "all", "question": "again"},
            {"image": "a/01.png", "question_id": "all"},
            {"question_id": "same"},
            {"image": "a/01.png", "question": " "},
            {"uri": "https://example.com/01.png"},
            {"uid": "0123"},
        ),
        FILE,
        corpus,
    )
    assert refused(works) == [
        ("lost", "/data/q.jsonl#1", "UNKNOWN_IMAGE"),
        ("same", "/data/q.jsonl#3", "DUP_KEY"),
        ("all", "/data/q.jsonl#5", "DUP_KEY"),
        ("all", "/data/q.jsonl#6", "DUP_KEY"),
        ("same", "/data/q.jsonl#7", "DUP_KEY"),
        ("8", "/data/q.jsonl#8", "EMPTY_TEXT"),
        ("9", "/data/q.jsonl#9", "UNKNOWN_IMAGE"),
        ("10", "/data/q.jsonl#10", "UNKNOWN_IMAGE"),
    ]
    assert {reason for _, _, reason in refused(works)} <= ROW_REASONS
    assert asked(works)["01.png"] == ["Q4", "Q0"]
    assert asked(works)["02.png"] == ["Q4", "Q2"]
    # 8 refused, 2 bound, 1 about each of 12 images
    assert total_rows(works) == 8 + 2 + 12


def test_one_name_in_two_inputs_is_nobody_s(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(image(3))
    corpus = plan_corpus([str(tmp_path / "one"), str(tmp_path / "two")])
    works = bind(lines({"image": "x.png"}, {"uri": str(tmp_path / "two" / "x.png")}), FILE, corpus)
    assert refused(works) == [("0", "/data/q.jsonl#0", "UNKNOWN_IMAGE")]
    assert [work.fragment.row_uri(0) for work in works[:1]] == [str(tmp_path / "two" / "x.png")]


def test_samples_of_a_tar_go_by_their_names(tmp_path: Path) -> None:
    data = tar_bytes([member("d/1.jpg", image(1)), member("d/2.jpg", image(2)), member("d/2.txt", b"two")])
    (tmp_path / "a.tar").write_bytes(data)
    corpus = plan_corpus([str(tmp_path / "a.tar")])
    works = bind(lines({"image": "d/2.jpg"}, {"image": "d/2"}, {"image": "d/1.png"}), FILE, corpus)
    assert [[(one.text, one.row) for one in work.questions] for work in works[:1]] == [[("Q0", 1), ("Q1", 1)]]
    assert (works[0].fragment.num_rows, works[0].num_rows) == (2, 2)
    assert refused(works) == [("2", "/data/q.jsonl#2", "UNKNOWN_IMAGE")]


def test_a_limit_leaves_questions_about_other_images_out(
    corpus: list[Fragment], caplog: pytest.LogCaptureFixture
) -> None:
    head = [corpus[0].head(1)]
    first = Path(head[0].row_uri(0))
    name = f"{first.parent.name}/{first.name}"
    with caplog.at_level(logging.WARNING):
        works = bind(
            lines({"image": name}, {"image": "gone.png"}, {"image": name, "question": ""}), FILE, head, limited=True
        )
    assert asked(works[:1]) == {first.name: ["Q0"]}
    assert refused(works) == [("2", "/data/q.jsonl#2", "EMPTY_TEXT")]
    assert "1 questions are about images beyond --limit" in caplog.text


def test_work_is_named_by_its_questions(corpus: list[Fragment], monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"image": "a/01.png"}, {"image": "b/03.png"}, {"image": "gone.png"}

    def names(*records: dict[str, object]) -> list[str]:
        return [work.work_id for work in bind(lines(*records), FILE, corpus)]

    same, changed = names(*base), names({"image": "a/01.png", "question": "other"}, *base[1:])
    assert len(same) == 3
    assert [one == other for one, other in zip(same, changed, strict=True)].count(False) == 1
    assert names(*base) == same
    # two batches of refused lines are two pieces of work, though all have the same reason
    monkeypatch.setattr(binding, "MAX_ROWS", 2)
    works = bind(lines(*[{"image": f"gone{number}.png"} for number in range(5)]), FILE, corpus)
    assert [work.num_rows for work in works] == [2, 2, 1]
    assert len({work.work_id for work in works}) == 3
    assert [uri for _, uri, _ in refused(works)] == [f"/data/q.jsonl#{number}" for number in range(5)]


def test_work_survives_the_way_to_a_worker_and_its_head_is_part_of_it(corpus: list[Fragment]) -> None:
    works = bind(lines({}, {"image": "a/01.png"}, {"image": "a/02.png", "choices": ["p", "q"]}), FILE, corpus)
    for work in works:
        assert Work.from_json(json.loads(json.dumps(work.to_json()))) == work
        head = work.head(2)
        rows = min(2, work.fragment.num_rows)
        own = sum(one.row is not None and one.row < rows for one in work.questions)
        assert (head.fragment.num_rows, head.num_rows) == (rows, rows + own)
