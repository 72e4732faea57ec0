"""Equal images with the same question are asked once; tiles go where the detail is; rows come back in their order."""

import io

import numpy as np
import pytest
from PIL import Image

from llava_core.config import plan_tiles
from llava_core.errors import ImageRefused
from llava_core.geometry import Size
from llava_core.images import decode_image
from llava_core.tiling import tile_image
from pipelines.inference import prepare
from pipelines.inference.answer import AnswerInquiry
from pipelines.inference.budget import Look, spend
from pipelines.inference.caption import CaptionInquiry
from pipelines.inference.decoders import Decoders
from pipelines.inference.replies import Replies, Reply
from pipelines.inference.rows import generate_rows
from pipelines.inference.tiles import Wish
from pipelines.sandbox import SandboxSettings
from tests.pipelines.hostile import hostile
from tests.pipelines.inference.fakes import TINY, EchoEngine, FakeDecoder, corpus_row, photo, run_settings, work_of


def test_equal_images_are_run_once_and_fanned_out() -> None:
    same = (b"image same",)
    rows = [corpus_row(0, images=same), corpus_row(1), corpus_row(2, images=same), corpus_row(3, images=same)]
    engine, replies = EchoEngine(), Replies()
    inquiry = CaptionInquiry(prompt="What?")
    settings = run_settings(chunk_rows=2)
    table = generate_rows(rows, engine, FakeDecoder(), settings, inquiry, work_of(), replies).to_pylist()
    assert sorted(one.request_id for call in engine.calls for one in call) == ["uid0/0", "uid1/0"]
    assert [row["uid"] for row in table] == ["uid0", "uid1", "uid2", "uid3"]
    assert [row["text"] for row in table] == ["uid0 2", "uid1 2", "uid0 2", "uid0 2"]
    assert [row["max_tiles"] for row in table] == [2, 2, 2, 2]
    # another fragment on the same worker: only what is new
    more = [corpus_row(7, images=same), corpus_row(8)]
    again = generate_rows(more, engine, FakeDecoder(), settings, inquiry, work_of(), replies).to_pylist()
    assert [one.request_id for call in engine.calls[2:] for one in call] == ["uid8/0"]
    assert [row["text"] for row in again] == ["uid0 2", "uid8 2"]
    # another question about it is another request
    other = CaptionInquiry(prompt="Why?")
    generate_rows(more, engine, FakeDecoder(), settings, other, work_of(), replies)
    assert sum(map(len, engine.calls)) == 5


def test_an_equal_bad_image_is_decoded_once_and_all_its_rows_are_rejected() -> None:
    rows = [corpus_row(at, images=(b"words",)) for at in range(3)]
    engine = EchoEngine()
    table = generate_rows(rows, engine, FakeDecoder(), run_settings(), CaptionInquiry(prompt="?"), work_of())
    assert table["error"].to_pylist() == ["NOT_IMAGE"] * 3
    assert engine.calls == [[]]


def test_replies_forget_the_oldest_but_never_those_of_the_fragment() -> None:
    replies = Replies(kept=1)
    replies.begin()
    assert not replies.expect(("a",))
    replies.add(("a",), Reply(EchoEngine()._answer(_request("uid1/0")), 1))
    assert not replies.expect(("b",))
    replies.add(("b",), Reply(EchoEngine()._answer(_request("uid2/0")), 1))
    assert replies.of(("a",)).result.text == "uid1 None"
    replies.begin()
    assert (replies.expect(("b",)), replies.expect(("a",))) == (True, False)


def _request(name: str):  # type: ignore[no-untyped-def]
    from llava_core.engine.types import Request

    return Request(request_id=name, prompt="", images=(b"image",))


def test_rows_reach_the_engine_longest_first_and_the_table_in_order() -> None:
    sizes = [(40, 40), (200, 110), (56, 112), (50, 160)]
    rows = [corpus_row(at, images=(photo(*size, seed=at),)) for at, size in enumerate(sizes)]
    engine = EchoEngine()
    table = generate_rows(
        rows,
        engine,
        FakeDecoder(),
        run_settings(resolution="high", chunk_rows=2),
        CaptionInquiry(prompt="?"),
        work_of(),
    )
    order = [one.request_id for call in engine.calls for one in call]
    tokens = {f"uid{at}/0": _tokens(size) for at, size in enumerate(sizes)}
    assert order == sorted(order, key=lambda name: -tokens[name])
    assert order != sorted(order)
    assert table["uid"].to_pylist() == ["uid0", "uid1", "uid2", "uid3"]


def _tokens(size: tuple[int, int], bound: int | None = None) -> int:
    return plan_tiles(Size(*size), TINY, max_tiles=bound).num_image_tokens


def test_a_chunk_is_cut_by_what_is_held_of_its_images_not_by_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five images of 1,200 × 900 pixels in a few kilobytes, of three tiles each: two of them are held together."""
    file = photo(4, 3, encoding="PNG")
    large = io.BytesIO()
    Image.open(io.BytesIO(file)).resize((900, 1200)).save(large, "PNG")
    rows = [corpus_row(at, images=(large.getvalue() + bytes([at]),)) for at in range(5)]
    held = len(large.getvalue()) + 1 + 3 * 3 * TINY.tiles.tile_size**2
    monkeypatch.setattr(prepare, "CHUNK_BYTES", 2 * held)
    engine = EchoEngine()
    settings = run_settings(resolution="medium", chunk_rows=4)
    generate_rows(rows, engine, FakeDecoder(), settings, CaptionInquiry(prompt="?"), work_of())
    assert [len(call) for call in engine.calls] == [2, 2, 1]
    assert {one.images[0].tiles.shape for call in engine.calls for one in call} == {(3, 3, 56, 56)}  # type: ignore[union-attr]


def test_the_budget_is_kept_and_goes_to_the_detail() -> None:
    size = (112, 112)
    base, full = _tokens(size, 0), _tokens(size)
    looks = [Look((Size(*size),), detail) for detail in (5, 700, 0, 300)]
    assert spend(looks, TINY, base, None) == [0, 0, 0, 0]
    room_for_one = (3 * base + full) / 4
    assert spend(looks, TINY, int(np.ceil(room_for_one)), None) == [0, 4, 0, 0]
    bounds = spend(looks, TINY, full, None)
    assert bounds[1] == bounds[3] == 4
    # without detail a tile buys nothing, whatever there is to spend
    assert bounds[2] == 0
    assert spend(looks, TINY, full, 1)[1] <= 1


def test_a_run_under_a_budget_records_what_each_row_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "WINDOW_ROWS", 4)
    rows = [corpus_row(at, images=(photo(112, 112, seed=at, encoding="PNG"),)) for at in range(8)]
    budget = (_tokens((112, 112), 0) * 2 + _tokens((112, 112))) // 3
    engine = EchoEngine()
    settings = run_settings(resolution="high", visual_budget=budget, chunk_rows=4)
    table = generate_rows(rows, engine, FakeDecoder(), settings, CaptionInquiry(prompt="?"), work_of())
    bounds = table["max_tiles"].to_pylist()
    assert sorted(bounds) != [bounds[0]] * 8
    for window in (bounds[:4], bounds[4:]):
        assert sum(_tokens((112, 112), bound) for bound in window) <= 4 * budget
    sent = {one.request_id: one.max_tiles for call in engine.calls for one in call}
    assert [sent[f"uid{at}/0"] for at in range(8)] == bounds


def test_what_is_refused_leaves_no_share_of_the_budget_to_others() -> None:
    """One whole image, one cut off, and a row of both: there is budget for one image, which is not enough for tiles."""
    whole = photo(112, 112, seed=1, encoding="PNG")
    cut = whole[: len(whole) // 2]
    rows = [corpus_row(at, images=images) for at, images in enumerate([(whole,), (cut,), (whole, cut)])]
    budget = (_tokens((112, 112), 0) + _tokens((112, 112))) // 2
    settings = run_settings(resolution="high", visual_budget=budget)
    table = generate_rows(rows, EchoEngine(), FakeDecoder(), settings, CaptionInquiry(prompt="?"), work_of())
    assert table["status"].to_pylist() == ["ok", "rejected", "rejected"]
    assert _tokens((112, 112), table["max_tiles"][0].as_py()) <= budget


def test_decoders_share_images_and_keep_their_order() -> None:
    files = [photo(30 + at, 60 - at, seed=at) for at in range(7)]
    files[3] = hostile(files[3], "crash")
    settings = SandboxSettings(decoder="tests.pipelines.hostile:decode")
    decoders = Decoders(settings, 2, TINY)
    try:
        found = decoders.tile(files, [Wish(1, at % 3, at % 3) for at in range(7)])
        details = decoders.details(files)
        assert decoders.tile([], []) == []
    finally:
        decoders.close()
    for at, one in enumerate(found):
        assert isinstance(one, ImageRefused) == (at == 3)
        if isinstance(one, ImageRefused):
            continue
        image, bound = one
        size = Size(30 + at, 60 - at)
        plan = plan_tiles(size, TINY, max_tiles=at % 3)
        assert (image.file, image.size, image.grid, bound) == (files[at], size, plan.grid, at % 3)
        assert np.array_equal(image.tiles, tile_image(decode_image(files[at]), plan, TINY.tiles))
    # those that fit into a tile have no detail that it would lose
    assert [detail if detail is None else detail > 0 for detail in details] == [True] * 3 + [None] + [False] * 3


def test_work_that_is_done_again_leaves_out_what_was_fine() -> None:
    rows = [corpus_row(0), corpus_row(1), corpus_row(2)]
    work = work_of(only=(("/c/1.jpg", ""), ("/c/2.jpg", "q2")))
    from tests.pipelines.inference.test_answer import ScriptedEngine, everywhere, question

    captions = generate_rows(rows, EchoEngine(), FakeDecoder(), run_settings(), CaptionInquiry(prompt="?"), work)
    assert captions["uid"].to_pylist() == ["uid1"]
    inquiry: AnswerInquiry = everywhere(question(1), question(2))
    answers = generate_rows(rows, ScriptedEngine(), FakeDecoder(), run_settings(), inquiry, work).to_pylist()
    assert [(row["uid"], row["question_id"]) for row in answers] == [("uid1", "q1"), ("uid1", "q2"), ("uid2", "q2")]
