"""An image-text corpus of any size from a seed, with planted copies and faults, and the truth beside it.

    {folder}/corpus/{source}/0000012.jpg, .txt     what a job is given
    {folder}/truth.jsonl                           one line for each row: what it is, and what should become of it

Row i is a function of the seed and of i, so a corpus of 200 rows begins with the corpus of 100 rows, and rows are made
one at a time. A row that copies another names it; the copied one is always a plain row before it.
What this does *not* do: pretend to be photographs; thresholds that part these pictures are not those for photos.
"""

import dataclasses
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from llava_core.config import check_at_least
from llava_core.errors import ConfigError

Kind = Literal[
    "plain",
    "exact_copy",
    "repacked",
    "reencoded",
    "resized",
    "cropped",
    "edited",
    "blurred",
    "dark",
    "low_quality",
    "wrong_extension",
    "truncated",
    "bomb",
    "not_image",
    "empty_file",
    "over_long",
    "empty_caption",
]
Outcome = Literal["kept", "exact", "near", "blurred", "dark", "blocky", "no_text", "rejected"]
Pixels = NDArray[np.uint8]

SOURCES = ("books", "stock", "web")
"""Folders, and so sources, of the corpus; the last one has most rows."""
ORDER: tuple[Kind, ...] = get_args(Kind)
QUALITY = 92
"""Of plain JPEGs."""
NEAR_BITS = 2
"""Most bits by which the pHash of what is near differs; the default distance is 3, and medians make most differences
even."""
LONG_CAPTION = 1_100_000
"""Characters of an over-long caption; readers take a million bytes."""

_OUTCOMES: dict[Kind, tuple[Outcome, str | None]] = {
    "plain": ("kept", None),
    "wrong_extension": ("kept", None),
    "exact_copy": ("exact", None),
    "repacked": ("exact", None),
    "reencoded": ("near", None),
    "resized": ("near", None),
    "cropped": ("near", None),
    "edited": ("near", None),
    "blurred": ("blurred", None),
    "dark": ("dark", None),
    "low_quality": ("blocky", None),
    "empty_caption": ("no_text", None),
    "truncated": ("rejected", "TRUNCATED"),
    "bomb": ("rejected", "BOMB"),
    "not_image": ("rejected", "NOT_IMAGE"),
    "empty_file": ("rejected", "EMPTY"),
    "over_long": ("rejected", "TOO_LONG"),
}
_THINGS = ("fox", "tower", "river", "kettle", "bicycle", "lantern", "orchard", "harbour", "violin", "staircase")
_LOOKS = ("red", "tall", "quiet", "broken", "golden", "narrow", "distant", "painted", "frozen", "crowded")


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """What corpus is made."""

    rows: int
    """How many rows."""
    seed: int = 0
    """Of everything."""
    planted: float = 0.4
    """Share of rows, about, that are not plain; all kinds are equally likely among them."""
    least_side: int = 260
    """Shorter side of the smallest picture, pixels."""
    most_side: int = 420
    """Longer side of the largest picture, pixels."""

    def __post_init__(self) -> None:
        check_at_least("synthetic", "rows", self.rows, 1)
        check_at_least("synthetic", "least_side", self.least_side, 64)
        if not 0 <= self.planted <= 1:
            raise ConfigError(f"synthetic.planted is {self.planted}; expected a share, 0 to 1")
        if self.most_side < self.least_side:
            raise ConfigError(f"synthetic.most_side is {self.most_side}; expected at least least_side")


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What a row is, and what should become of it."""

    name: str
    """Path of its image in the corpus."""
    source: str
    """Its folder."""
    kind: Kind
    """What was planted."""
    of: str | None
    """Image that it is a copy of."""
    outcome: Outcome
    """"kept"; "exact" or "near": all but one of the rows that show this picture are dropped, as such a duplicate
    ("near": by pHashes at most `NEAR_BITS` apart). Otherwise what it should be dropped for."""
    error: str | None
    """Code of the probe, for outcome "rejected"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticRow:
    """One row."""

    truth: Truth
    """What it is."""
    image: bytes
    """The image file."""
    caption: str
    """Its text."""


def make_corpus(folder: Path, config: SyntheticConfig, *, first: int = 0) -> list[Truth]:
    """Write a corpus and its truth into a folder.

    Args:
        folder: gets `corpus/` and `truth.jsonl`.
        config: what is made.
        first: leave out the rows before this one, which an earlier call wrote.

    Returns:
        The truth of all rows, those before `first` too.
    """
    for row in make_rows(config, first=first):
        place = folder / "corpus" / row.truth.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(row.image)
        place.with_suffix(".txt").write_text(row.caption, encoding="utf-8")
    truths = [truth_of(index, config) for index in range(config.rows)]
    lines = "".join(json.dumps(dataclasses.asdict(truth)) + "\n" for truth in truths)
    (folder / "truth.jsonl").write_text(lines, encoding="utf-8")
    return truths


def make_rows(config: SyntheticConfig, *, first: int = 0) -> Iterator[SyntheticRow]:
    """Make rows one at a time.

    Example:
        >>> rows = list(make_rows(SyntheticConfig(rows=3, planted=0)))
        >>> [row.truth.kind for row in rows], rows[2].truth.name.partition("/")[2]
        (['plain', 'plain', 'plain'], '0000002.jpg')
    """
    for index in range(first, config.rows):
        truth = truth_of(index, config)
        copied = index if truth.of is None else int(Path(truth.of).stem)
        image = _MAKERS[truth.kind](picture(copied, config), _generator(config, "change", index))
        yield SyntheticRow(truth=truth, image=image, caption=_caption(index, truth.kind, config))


def truth_of(index: int, config: SyntheticConfig) -> Truth:
    """The truth of one row."""
    kind = kind_of(index, config)
    outcome, error = _OUTCOMES[kind]
    copies = outcome in ("exact", "near")
    extension = "png" if kind == "repacked" else "jpg"
    return Truth(
        name=f"{_source(index, config)}/{index:07d}.{extension}",
        source=_source(index, config),
        kind=kind,
        of=_name_of_plain(_original(index, config), config) if copies else None,
        outcome=outcome,
        error=error,
    )


def kind_of(index: int, config: SyntheticConfig) -> Kind:
    """What is planted in one row; the first one is always plain."""
    draw = _generator(config, "kind", index)
    planted = draw.random() < config.planted
    kind = ORDER[1 + int(draw.integers(len(ORDER) - 1))]
    return kind if planted and index else "plain"


def picture(index: int, config: SyntheticConfig) -> Pixels:
    """The picture that one row would show if it were plain: uint8[H, W, 3], soft colours, shapes and fine grain."""
    draw = _generator(config, "picture", index)
    height, width = (int(side) for side in draw.integers(config.least_side, config.most_side + 1, 2))
    coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    canvas = coarse.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    for _ in range(5):
        left, top = int(draw.integers(width)), int(draw.integers(height))
        box = (left, top, left + int(draw.integers(20, width // 3)), top + int(draw.integers(20, height // 3)))
        shape = pen.ellipse if draw.random() < 0.5 else pen.rectangle
        shape(box, fill=tuple(int(level) for level in draw.integers(0, 256, 3)))
    grain = draw.integers(-12, 13, (height, width, 1))
    shown: Pixels = np.clip(np.asarray(canvas).astype(np.int16) + grain, 0, 255).astype(np.uint8)
    return shown


def _original(index: int, config: SyntheticConfig) -> int:
    """A plain row before this one."""
    chosen = int(_generator(config, "original", index).integers(index))
    return next(place for place in range(chosen, -1, -1) if kind_of(place, config) == "plain")


def _name_of_plain(index: int, config: SyntheticConfig) -> str:
    return f"{_source(index, config)}/{index:07d}.jpg"


def _source(index: int, config: SyntheticConfig) -> str:
    return SOURCES[min(2, int(_generator(config, "source", index).integers(5)))]


def _caption(index: int, kind: Kind, config: SyntheticConfig) -> str:
    draw = _generator(config, "caption", index)
    if kind == "empty_caption":
        return ""
    words = [f"{_LOOKS[int(draw.integers(10))]} {_THINGS[int(draw.integers(10))]}" for _ in range(2)]
    caption = f"A {words[0]} beside a {words[1]}, number {index}"
    return (f"{caption}. " * (LONG_CAPTION // len(caption) + 1))[:LONG_CAPTION] if kind == "over_long" else caption


def _generator(config: SyntheticConfig, use: str, index: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, zlib.crc32(use.encode()), index])


def _jpeg(pixels: Pixels, quality: int = QUALITY) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _decoded(pixels: Pixels) -> Pixels:
    """The pixels of the plain row's JPEG."""
    return np.asarray(Image.open(io.BytesIO(_jpeg(pixels))).convert("RGB"))


def _resized(pixels: Pixels, draw: np.random.Generator) -> bytes:
    scale = draw.uniform(0.55, 0.9)
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return _jpeg(np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)), 88)


def _phash(pixels: Pixels) -> NDArray[np.bool_]:
    """bool[8, 8] of imagehash's pHash, written out here, so that the truth does not rest on the code that it judges."""
    frequency, position = np.mgrid[:8, :32]
    waves = np.cos(np.pi * frequency * (2 * position + 1) / 64)
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    coefficients = waves @ small @ waves.T
    shown: NDArray[np.bool_] = coefficients > np.median(coefficients)
    return shown


def _cropped(pixels: Pixels, draw: np.random.Generator) -> bytes:
    """One row or one column less at one of four sides, of an enlarged picture where pHashes would be too far apart."""
    original, order = _phash(_decoded(pixels)), draw.permutation(4)
    sides = (slice(1, None), slice(-1), (slice(None), slice(1, None)), (slice(None), slice(-1)))
    height, width = pixels.shape[:2]
    for scale in (1, 2, 4):
        large = Image.fromarray(pixels).resize((scale * width, scale * height), Image.Resampling.LANCZOS)
        for side in order:
            file = _jpeg(np.ascontiguousarray(np.asarray(large)[sides[side]]), 88)
            if (_phash(np.asarray(Image.open(io.BytesIO(file)))) != original).sum() <= NEAR_BITS:
                return file
    raise RuntimeError(f"no crop of a picture of {height} x {width} pixels has a pHash near its own")


def _edited(pixels: Pixels, draw: np.random.Generator) -> bytes:
    """A small mark in a corner."""
    side = max(4, min(pixels.shape[:2]) // 60)
    changed = pixels.copy()
    changed[-2 * side : -side, -2 * side : -side] = draw.integers(0, 256, 3, dtype=np.uint8)
    return _jpeg(changed, 60)


def _dark(pixels: Pixels, draw: np.random.Generator) -> bytes:
    """All but black, with the grain of a sensor, so that it is not blurred as well."""
    return _jpeg(pixels // 14 + draw.integers(0, 13, (*pixels.shape[:2], 1), dtype=np.uint8))


def _truncated(pixels: Pixels, draw: np.random.Generator) -> bytes:
    """A JPEG that ends after its headers and before its last two hundred bytes."""
    whole = _jpeg(pixels)
    return whole[: 700 + int(draw.integers(len(whole) - 900))]


def _blurred(pixels: Pixels, _: np.random.Generator) -> bytes:
    return _jpeg(np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(9))))


def _bomb(_: Pixels, __: np.random.Generator) -> bytes:
    """A PNG of 50,000 × 50,000 pixels that was never written."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


_MAKERS: dict[Kind, Callable[[Pixels, np.random.Generator], bytes]] = {
    "plain": lambda pixels, _: _jpeg(pixels),
    "exact_copy": lambda pixels, _: _jpeg(pixels),
    "repacked": lambda pixels, _: _png(_decoded(pixels)),
    "reencoded": lambda pixels, draw: _jpeg(pixels, int(draw.integers(45, 65))),
    "resized": _resized,
    "cropped": _cropped,
    "edited": _edited,
    "blurred": _blurred,
    "dark": _dark,
    "low_quality": lambda pixels, _: _jpeg(pixels, 3),
    "wrong_extension": lambda pixels, _: _png(pixels),
    "truncated": _truncated,
    "bomb": _bomb,
    "not_image": lambda _, draw: b"<html><body>404 Not Found " + draw.bytes(20).hex().encode() + b"</body></html>",
    "empty_file": lambda _, __: b"",
    "over_long": lambda pixels, _: _jpeg(pixels),
    "empty_caption": lambda pixels, _: _jpeg(pixels),
}
