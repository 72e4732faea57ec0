"""An engine that needs no model, rows that need no corpus."""

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from llava_core.checkpoints import read_config
from llava_core.engine.types import Request, Result, SamplingConfig
from llava_core.errors import ImageRefused
from llava_core.geometry import Size
from llava_core.image_headers import DecodeLimits
from llava_core.images import decode_image
from pipelines.fragments import CorpusRow, make_fragment
from pipelines.inference.caption import CaptionInquiry
from pipelines.inference.inquiry import Inquiry
from pipelines.inference.prepare import RunSettings
from pipelines.inference.rows import generate_rows
from pipelines.inference.tiles import Tiled, Wish, cut, tiled
from pipelines.inference.work import Work
from pipelines.row_refs import ObjectRef
from pipelines.sandbox import Answer
from tests.tiny_models import untrained_folder

TINY = read_config(untrained_folder())
"""Of a small model with tiles of 56 pixels."""


class EchoEngine:
    """Answers with what it was asked; refuses requests whose number is negative or whose image is `b"bad"`.

    Args:
        numbers: uid → number that decides the answer; `uid7` is 7 by default.
    """

    def __init__(self, numbers: Mapping[str, int] | None = None) -> None:
        self.numbers = numbers
        self.calls: list[list[Request]] = []

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order."""
        self.calls.append(list(requests))
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Result:
        uid = name = request.request_id.rpartition("/")[0]
        number = self.numbers[uid] if self.numbers else int(name.removeprefix("uid"))
        first = request.images[0]
        if number < 0 or (isinstance(first, bytes) and first == b"bad"):
            return Result(request_id=name, error="CORRUPT", error_detail="<i>bad</i>")
        return Result(
            request_id=request.request_id,
            text=f"uid{number} {request.max_tiles}",
            token_ids=tuple(range(number + 1)),
            finish_reason="length" if number % 2 else "stop",
            num_prompt_tokens=100 + number,
            num_image_tokens=50 + number,
            mean_logprob=-0.5 * number,
            min_logprob=-1.0 * number,
            image_sizes=(Size(30 + number, 40),),
            grids=(Size(2, 1),),
        )


class FakeDecoder:
    """Tiles in this process; what says that it is no image (`image 7`, `bad`) stays as it is, for `EchoEngine`."""

    def tile(self, files: Sequence[bytes], wishes: Sequence[Wish]) -> list[Tiled | ImageRefused]:
        """One answer for each file, in order."""
        return [self._tile(data, wish) for data, wish in zip(files, wishes, strict=True)]

    def details(self, files: Sequence[bytes]) -> list[int | None]:
        """The length of a file stands for its detail; a PNG without its end is refused."""
        return [
            None if data[:4] == b"\x89PNG" and not data.endswith(b"IEND\xaeB`\x82") else len(data) for data in files
        ]

    def _tile(self, data: bytes, wish: Wish) -> Any:
        if data == b"bad" or data.startswith(b"image "):
            return data, wish.detailed
        options = {"config": TINY.to_dict(), "wish": dataclasses.asdict(wish)}
        try:
            return tiled(data, Answer(*cut(data, DecodeLimits(), decode_image, options)))
        except ImageRefused as refused:
            return refused


def corpus_row(number: int, **changes: Any) -> CorpusRow:
    """A row whose every value differs with its number."""
    values: dict[str, Any] = {
        "uid": f"uid{number}",
        "uri": f"/c/{number}.jpg",
        "index": number,
        "images": (f"image {number}".encode(),),
        "image_uris": (f"/c/{number}.jpg",),
    }
    return CorpusRow(**(values | changes))


def run_settings(**changes: Any) -> RunSettings:
    """Settings with a value of its own in each field."""
    values: dict[str, Any] = {
        "run_id": "run0",
        "model": "tiny",
        "model_revision": "0123456789abcdef",
        "sampling": SamplingConfig(max_new_tokens=7),
        "resolution": "medium",
        "max_tiles": None,
        "visual_budget": None,
        "config": TINY,
        "chunk_rows": 3,
    }
    return RunSettings(**(values | changes))


def work_of(num_rows: int = 0, **changes: Any) -> Work:
    """Work that is committed under the name f1."""
    container = ObjectRef(uri="/c", size=1, version="1")
    fragment = make_fragment(kind="parquet", source="/c", root="/c", container=container, num_rows=num_rows)
    return Work(**({"work_id": "f1", "fragment": fragment, "num_rows": num_rows} | changes))


def caption_rows(
    rows: Iterable[CorpusRow], engine: EchoEngine, settings: RunSettings | None = None, inquiry: Inquiry | None = None
) -> pa.Table:
    """What captioning makes of rows."""
    inquiry = inquiry or CaptionInquiry(prompt="What is it?")
    return generate_rows(rows, engine, FakeDecoder(), settings or run_settings(), inquiry, work_of())


def photo(height: int, width: int, *, seed: int = 0, encoding: str = "JPEG") -> bytes:
    """An encoded image of height × width whose pixels all differ by place, and whose noise by seed."""
    rows, cols = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 64, (height, width))
    pixels = np.stack([rows * 255 // height, cols * 255 // width, noise + seed % 128], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, encoding)
    return file.getvalue()
