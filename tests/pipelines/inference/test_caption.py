"""Rows in, rows out, one for one and in order, without Ray and without a model."""

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from llava_core.config import plan_tiles
from llava_core.geometry import Size
from llava_core.images import decode_image
from llava_core.tiled_image import TiledImage
from llava_core.tiling import tile_image
from pipelines.fragments import CorpusRow
from pipelines.inference import prepare
from pipelines.reasons import ROW_REASONS
from schemas.caption import CAPTION
from tests.pipelines.inference.fakes import TINY, EchoEngine, caption_rows, corpus_row, photo, run_settings


def test_one_row_each_in_order_whatever_became_of_it() -> None:
    rows = [
        corpus_row(0),
        corpus_row(1, error="NOT_FOUND", error_detail="gone", images=()),
        corpus_row(2, images=(b"bad",)),
        corpus_row(3),
        corpus_row(4, images=()),
        corpus_row(5),
    ]
    engine = EchoEngine()
    table = caption_rows(rows, engine)
    assert table.schema == CAPTION
    found = table.to_pylist()
    assert [row["uid"] for row in found] == ["uid0", "uid1", "uid2", "uid3", "uid4", "uid5"]
    assert [row["error"] for row in found] == [None, "NOT_FOUND", "CORRUPT", None, "MISSING_PART", None]
    assert [row["status"] for row in found] == ["ok", "rejected", "rejected", "ok", "rejected", "ok"]
    assert {row["error"] for row in found} - {None} <= ROW_REASONS
    assert [row["text"] for row in found] == ["uid0 2", None, None, "uid3 2", None, "uid5 2"]
    # chunks of 3 rows; refused rows are not sent
    assert [[one.request_id for one in call] for call in engine.calls] == [["uid0/0", "uid2/0"], ["uid3/0", "uid5/0"]]


def test_every_column_of_an_ok_row() -> None:
    (row,) = caption_rows([corpus_row(3)], EchoEngine()).to_pylist()
    assert row == {
        "uid": "uid3",
        "uri": "/c/3.jpg",
        "fragment_id": "f1",
        "run_id": "run0",
        "status": "ok",
        "prompt": "What is it?",
        "text": "uid3 2",
        "finish_reason": "length",
        "num_prompt_tokens": 103,
        "num_image_tokens": 53,
        "num_output_tokens": 4,
        "mean_logprob": -1.5,
        "min_logprob": -3.0,
        "max_tiles": 2,
        "grid_rows": 2,
        "grid_cols": 1,
        "image_height": 33,
        "image_width": 40,
        "model": "tiny",
        "model_revision": "0123456789abcdef",
        "error": None,
        "error_detail": None,
    }


def test_a_rejected_row_has_nulls_between_prompt_and_model() -> None:
    rows = [corpus_row(1, error="BOMB", error_detail="too far")]
    (row,) = caption_rows(rows, EchoEngine()).to_pylist()
    first, last = CAPTION.get_field_index("prompt") + 1, CAPTION.get_field_index("model")
    assert all(row[name] is None for name in CAPTION.names[first:last])
    assert (row["error_detail"], row["prompt"], row["model"]) == ("too far", "What is it?", "tiny")


def test_the_request_carries_the_settings() -> None:
    engine = EchoEngine()
    settings = run_settings(resolution="high", max_tiles=3)
    caption_rows([corpus_row(0, images=(b"image one", b"image two"))], engine, settings)
    (request,) = engine.calls[0]
    assert (request.prompt, request.sampling.max_new_tokens) == ("What is it?", 7)
    assert (request.images, request.max_tiles) == ((b"image one", b"image two"), 3)


def test_auto_lets_each_image_decide_and_where_one_of_a_row_asks_for_detail_all_of_them_get_it() -> None:
    plain, busy = photo(112, 60, encoding="PNG"), _stripes(200, 120)
    engine = EchoEngine()
    images = [(plain,), (busy,), (plain, busy), (plain, b"not an image", busy)]
    rows = [corpus_row(at, images=own) for at, own in enumerate(images)]
    settings = run_settings(resolution="auto", max_tiles=4, chunk_rows=9)
    table = caption_rows(rows, engine, settings)
    sent = {request.request_id: request for request in engine.calls[0]}
    assert [sent[f"uid{at}/0"].max_tiles for at in range(3)] == [2, 4, 4]
    for at in range(3):
        for image, data in zip(sent[f"uid{at}/0"].images, images[at], strict=True):
            assert isinstance(image, TiledImage)
            pixels, bound = decode_image(data), sent[f"uid{at}/0"].max_tiles
            size = Size(*pixels.shape[:2])
            plan = plan_tiles(size, TINY, num_images=len(images[at]), max_tiles=bound)
            assert (image.file, image.size, image.grid) == (data, size, plan.grid)
            np.testing.assert_array_equal(image.tiles, tile_image(pixels, plan, TINY.tiles))
    assert table["error"].to_pylist() == [None, None, None, "NOT_IMAGE"]


def test_images_are_read_only_as_chunks_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fragment of 1,024 photos must not be in memory at once."""
    monkeypatch.setattr(prepare, "WINDOW_ROWS", 3)
    engine = EchoEngine()
    seen: list[int] = []

    def reading() -> Iterator[CorpusRow]:
        for number in range(15):
            seen.append(len(engine.calls))
            yield corpus_row(number)

    caption_rows(reading(), engine, run_settings(chunk_rows=3))
    # a chunk is prepared while the engine has the one before, and one more waits
    assert all(called >= number // 3 - 3 for number, called in enumerate(seen)), seen
    assert seen[9:] != [0] * 6, seen


def test_no_rows_give_an_empty_table_of_the_schema() -> None:
    assert caption_rows([], EchoEngine()) == pa.table({name: [] for name in CAPTION.names}, schema=CAPTION)


def _stripes(height: int, width: int) -> bytes:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, ::2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
