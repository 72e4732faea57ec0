"""Real fonts, and text drawn with the place of every character; words that never repeat across splits.

Fonts: Source Sans Pro and Source Serif Pro (packages font-source-sans-pro and font-source-serif-pro) and Aileron, which
comes with Pillow. Words are pronounceable and made up, so that reading one takes every letter; one in ten is held out,
by its hash. What this does *not* do: lay out a page.
"""

import functools
import zlib
from importlib.resources import files
from random import Random

from PIL import ImageDraw, ImageFont

from pipelines.synthetic.drawing import Glyph, Split

Font = ImageFont.FreeTypeFont
Colour = tuple[int, int, int]

_FILES = (
    ("font_source_sans_pro", "SourceSansPro-Regular.ttf"),
    ("font_source_sans_pro", "SourceSansPro-Semibold.ttf"),
    ("font_source_sans_pro", "SourceSansPro-Bold.ttf"),
    ("font_source_serif_pro", "SourceSerifPro-Semibold.ttf"),
)
NUM_FONTS = len(_FILES) + 1
"""Fonts there are; the last one is Aileron."""
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./-:$%#"
"""Everything that is ever drawn as text, spaces apart."""
HELD_OUT_SHARE = 10
"""One word in so many is held out."""

_ONSETS = (
    "B",
    "BR",
    "C",
    "CL",
    "D",
    "DR",
    "F",
    "FL",
    "G",
    "GR",
    "H",
    "J",
    "K",
    "L",
    "M",
    "N",
    "P",
    "PL",
    "QU",
    "R",
    "S",
    "ST",
)
_ONSETS_MORE = ("T", "TR", "V", "W", "X", "Y", "Z", "SH", "CH")
_VOWELS = ("A", "E", "I", "O", "U", "A", "E", "O", "EA", "OU")
_CODAS = ("", "", "", "N", "R", "L", "S", "T", "K", "M", "ND", "RT", "X", "P", "D", "B", "G")


@functools.cache
def load_font(index: int, size: int) -> Font:
    """One of the fonts at a size in pixels."""
    if index == len(_FILES):
        return ImageFont.load_default(size)  # type: ignore[return-value]
    package, name = _FILES[index]
    path = files(package) / "files" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def advance(index: int, size: int, char: str) -> float:
    """How far a character moves the pen, pixels."""
    return float(load_font(index, size).getlength(char))


def width_of(text: str, font: int, size: int) -> float:
    """Width of a line, pixels."""
    return sum(advance(font, size, char) for char in text)


@functools.cache
def _capital(index: int, size: int) -> tuple[float, float]:
    """Top and bottom of a capital letter below the pen's height, pixels."""
    box = load_font(index, size).getbbox("H")
    return float(box[1]), float(box[3])


def write(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, font: int, size: int, fill: Colour
) -> list[Glyph]:
    """Draw one line of text.

    Args:
        pen: draws.
        at: (x, y) where the line's left edge and its capitals' upper edge are, pixels.
        text: of `CHARACTERS` and spaces.
        font: index, below `NUM_FONTS`.
        size: of the font, pixels.
        fill: colour.

    Returns:
        Its characters, with their centres.
    """
    top, bottom = _capital(font, size)
    pen.text((round(at[0]), round(at[1] - top)), text, font=load_font(font, size), fill=fill)
    x, y = float(round(at[0])), round(at[1] - top) + (top + bottom) / 2
    glyphs = []
    for char in text:
        step = advance(font, size, char)
        if char != " ":
            glyphs.append(Glyph(char, x + step / 2, y))
        x += step
    return glyphs


def is_held_out(text: str) -> bool:
    """Whether a word, or the name of a layout, belongs to held-out drawings."""
    return zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0


def make_word(draw: Random, split: Split, most: int = 7) -> str:
    """A made-up word of 4 to `most` capitals that belongs to a split.

    Example:
        >>> word = make_word(Random(3), "held_out")
        >>> word.isalpha() and word.isupper() and is_held_out(word)
        True
    """
    while True:
        word = "".join(
            draw.choice(_ONSETS + _ONSETS_MORE) + draw.choice(_VOWELS) + draw.choice(_CODAS)
            for _ in range(draw.choice((2, 2, 3)))
        )
        if 4 <= len(word) <= most and is_held_out(word) == (split == "held_out"):
            return word
