"""The page shows what is in the table, and nothing in a corpus or a caption can make it do anything."""

import base64
import dataclasses
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from pipelines.accounts import counts
from pipelines.inference import gallery
from pipelines.inference.gallery import write_gallery
from pipelines.inference.gallery_page import Card, Rejection, render_page
from pipelines.inference.job import InferenceJob
from pipelines.inference.thumbnails import narrow
from tests.pipelines.inference.page_cases import commit, photos_job
from tests.pipelines.page_cases import HOSTILE, parsed


def test_hostile_words_stay_words() -> None:
    page = render_page(
        title=HOSTILE,
        lead=HOSTILE,
        note=HOSTILE,
        counts={HOSTILE: 2},
        cards=[Card(name='"' + HOSTILE, text=HOSTILE, facts=HOSTILE, thumbnail=b"jpeg")],
        rejections=[Rejection(name=HOSTILE, reason=HOSTILE, detail=HOSTILE)],
    )
    found = parsed(page)
    assert "script" not in {tag for tag, _ in found.tags}
    assert [attributes["src"] for tag, attributes in found.tags if tag == "img"] == ["data:image/jpeg;base64,anBlZw=="]
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert (
        found.text.count(HOSTILE) == 12
    )  # title three times, lead, note, count, card: name, text, facts, rejection: three
    policy = next(attributes for tag, attributes in found.tags if attributes.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_counts_and_what_is_shown_of_them() -> None:
    cards = [Card(name="a", text="", facts="", thumbnail=None)]
    page = render_page(
        title="Captions",
        lead="l",
        note=None,
        counts={"rows in": 1234, "ok": 1200, "rejected": 34},
        cards=cards,
        rejections=[],
    )
    text = parsed(page).text
    assert "1,234" in text
    assert "Captions (1 of 1,200 shown)" in text
    assert "(nothing)" in text
    assert "Rejected" not in text
    assert '<div class="count bad"><b>34</b>' in page


@pytest.fixture
def job(tmp_path: Path) -> InferenceJob:
    """A run in a table: 9 photos of at least 3 fragments, and a broken one."""
    return photos_job(tmp_path)


def _page(job: InferenceJob) -> str:
    uri = f"{job.spec.table_uri}/gallery.html"
    write_gallery(uri, job.works, job.spec, counts(job.spec.table_uri, job.run_id), trained=False)
    return Path(uri).read_text()


def test_each_caption_stands_beside_its_own_image(job: InferenceJob) -> None:
    page = _page(job)
    found = parsed(page)
    for figure in re.findall(r"<figure>.*?</figure>", page, re.DOTALL):
        number = int(re.search(r"<p>uid(\d+) 2</p>", figure)[1])  # type: ignore[index]
        assert f"photos/{number}.jpg" in figure
        encoded = re.search(r"base64,([^\"]+)", figure)[1]  # type: ignore[index]
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert image.size == (90, 40 + number)
    assert page.count("<figure>") == 9
    assert "Captions (9 of 9 shown)" in found.text
    assert "Rejected (1 of 1 shown)" in found.text
    assert "NOT_IMAGE" in found.text
    assert "<i>bad</i>" in found.text
    assert "Why <b>?" in found.text
    assert "not trained" in found.text


def test_a_sample_is_bounded_and_always_the_same(job: InferenceJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MAX_REPLIES", 4)
    first = _page(job)
    assert first.count("<figure>") == 4
    assert "Captions (4 of 9 shown)" in parsed(first).text
    assert _page(job) == first
    monkeypatch.setattr(gallery, "MAX_FRAGMENTS", 1)
    shown = set(re.findall(r"photos/(\d+).jpg<br>", _page(job)))
    smallest = min(job.works, key=lambda one: gallery._hash(one.work_id)).fragment
    assert shown <= {Path(smallest.row_uri(index)).stem for index in range(smallest.num_rows)}


def test_other_runs_of_the_table_are_left_out(job: InferenceJob) -> None:
    settings = dataclasses.replace(job.spec.settings, run_id="other0000")
    commit(dataclasses.replace(job, spec=dataclasses.replace(job.spec, settings=settings)))
    assert _page(job).count("<figure>") == 9


def test_images_that_are_gone_leave_their_captions(job: InferenceJob) -> None:
    for path in (Path(job.spec.table_uri).parent / "photos").glob("[0-4].jpg"):
        path.unlink()
    page = _page(job)
    assert page.count("<figure>") == 9
    assert page.count("<img") == 4


def test_only_files_that_are_shown_are_read_again(job: InferenceJob) -> None:
    fragment = max((work.fragment for work in job.works), key=lambda one: one.num_rows)
    wanted = {fragment.row_uid(1)}
    part = narrow(fragment, wanted)
    assert (part.num_rows, part.row_uid(0)) == (1, fragment.row_uid(1))
