"""Real corpora, where they are present: photos in folders, LLaVA's and LLaMA-Factory's JSON."""

import hashlib
from pathlib import Path

import pytest

from pipelines.corpus import plan_corpus
from pipelines.corpus_settings import CorpusSettings
from tests.pipelines.corpus_cases import read_all

DATA = Path(__file__).parents[3] / "shared" / "data"
PHOTOS, FACTORY, LLAVA = DATA / "photos", DATA / "llava_json/LLaMA-Factory/data", DATA / "llava_json/LLaVA"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not beside this checkout")


def test_photos_are_read_byte_for_byte() -> None:
    rows = read_all(PHOTOS)
    kinds = {".jpg", ".png", ".gif", ".tif"}
    expected = sorted(path for path in PHOTOS.rglob("*") if path.suffix in kinds)
    assert len(rows) == 101
    assert sorted(row.uri for row in rows) == [str(path) for path in expected]
    for row in rows:
        assert hashlib.sha256(row.images[0]).digest() == hashlib.sha256(Path(row.uri).read_bytes()).digest()


def test_sharegpt_records_with_their_images() -> None:
    rows = read_all(FACTORY / "mllm_demo.json")
    assert [row.error for row in rows] == [None] * 6
    assert [len(row.images) for row in rows] == [2, 1, 1, 2, 1, 1]
    for row in rows:
        assert (row.conversations or "").count("<image>") == len(row.images)
    lines = read_all(FACTORY / "v1_multimodal_demo.jsonl", settings=CorpusSettings(image_root=str(FACTORY.parent)))
    assert len(lines) == 24
    assert [row.error for row in lines] == [None] * 24
    assert [row.conversations for row in lines[:6]] == [row.conversations for row in rows]


def test_questions_without_images_are_rows_where_that_is_asked_for() -> None:
    path = LLAVA / "llava/eval/table/question.jsonl"
    rows = read_all(path, settings=CorpusSettings(require_images=False))
    assert len(rows) == 80
    assert all(row.error is None and row.text and not row.images for row in rows)
    assert {row.error for row in read_all(path)} == {"MISSING_PART"}


def test_questions_about_images_that_are_not_there_are_rejected() -> None:
    rows = read_all(LLAVA / "playground/data/coco2014_val_qa_eval/qa90_questions.jsonl")
    assert [row.error for row in rows] == ["NOT_FOUND"] * 90


def test_every_json_of_llava_accounts_for_every_line() -> None:
    for path in sorted(LLAVA.rglob("*.jsonl")):
        lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
        assert sum(fragment.num_rows for fragment in plan_corpus([str(path)])) == len(lines), path
