"""What can be measured on a caption or conversation without a model.

    chars, words        length; in scripts without spaces each letter counts as a word
    repetition          share of the text that repeats itself, 0 to 1
    script              writing system of most letters: "Latin", "Han", …; "none" without letters
    url share           characters in web and mail addresses
    boilerplate share   characters in file names, "click to enlarge", "all rights reserved" and their like
    flagged share       words that are in a list the user gives; none is shipped

What this does *not* do: guess the language, judge.
"""

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby, pairwise

from llava_core.errors import ConfigError
from pipelines.storage import StorageOptions, read_bytes

LEAST_WORDS = 4
"""Fewer words cannot repeat themselves."""

_SCRIPTS = (
    (0x0041, 0x024F, "Latin"),
    (0x0370, 0x03FF, "Greek"),
    (0x0400, 0x052F, "Cyrillic"),
    (0x0530, 0x058F, "Armenian"),
    (0x0590, 0x05FF, "Hebrew"),
    (0x0600, 0x077F, "Arabic"),
    (0x0900, 0x097F, "Devanagari"),
    (0x0980, 0x09FF, "Bengali"),
    (0x0B80, 0x0BFF, "Tamil"),
    (0x0C00, 0x0C7F, "Telugu"),
    (0x0E00, 0x0E7F, "Thai"),
    (0x10A0, 0x10FF, "Georgian"),
    (0x1100, 0x11FF, "Hangul"),
    (0x1E00, 0x1EFF, "Latin"),
    (0x1F00, 0x1FFF, "Greek"),
    (0x3040, 0x30FF, "Kana"),
    (0x3400, 0x9FFF, "Han"),
    (0xAC00, 0xD7AF, "Hangul"),
    (0xF900, 0xFAFF, "Han"),
    (0x20000, 0x323AF, "Han"),
)
_STARTS = [start for start, _, _ in _SCRIPTS]
# Vowels of Indic scripts, points of Hebrew and the like stand after a letter, and are none for `re`.
_MARKS = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
_LETTERS = f"(?:[^\\W_][{_MARKS}\u200c\u200d]*)+"
_WORD = re.compile(
    f"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]|{_LETTERS}(?:['’]{_LETTERS})*"
)
_URL = re.compile(
    r"(?:https?://|www\.)\S{1,2000}|[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"
    r"|\b(?:[a-z0-9-]{1,63}\.){1,4}(?:com|org|net|info|biz|html?|php)\b(?:/\S{0,2000})?",
    re.IGNORECASE,
)
_BOILERPLATE = re.compile(
    r"\b(?:img|dsc[nf]?|p|image|photo|picture|screenshot|untitled)[ _-]?\d{2,14}(?:\.\w{2,4})?\b"
    r"|\b[\w-]{1,200}\.(?:jpe?g|png|gif|webp|bmp|tiff?)\b"
    r"|\bclick (?:here|(?:on )?(?:the )?(?:image|photo|picture)|to (?:enlarge|zoom|view))\b"
    r"|\b(?:image|photo|picture) (?:not available|may contain|unavailable|result for)\b"
    r"|\ball rights reserved\b|\bstock (?:photo|image|illustration|vector|photography)s?\b|\broyalty[ -]free\b"
    r"|\b(?:free shipping|buy now|add to cart|read more|load more|sign up|subscribe|loading\.\.\.)(?!\w)"
    r"|©|\bcopyright\b|\bthumbnail\b|\bplaceholder\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextMeasures:
    """What `measure_text` found; each as in the module's list."""

    text_chars: int
    """Characters, outer white space left out."""
    text_words: int
    """Words."""
    repetition: float
    """0 to 1."""
    script: str
    """Writing system, or "none"."""
    url_share: float
    """0 to 1."""
    boilerplate_share: float
    """0 to 1."""
    flagged_share: float
    """0 to 1; 0 without a list."""


def measure_text(text: str, flagged: Collection[str] = frozenset()) -> TextMeasures:
    """Measure a text.

    Args:
        text: clean (NFC, no controls).
        flagged: words, case-folded.

    Returns:
        The measures; zeros and "none" for an empty text.

    Example:
        >>> found = measure_text("A red fox, a red fox: see www.fox.com", {"fox"})
        >>> found.text_chars, found.text_words, round(found.repetition, 2), found.script
        (37, 10, 0.22, 'Latin')
        >>> round(found.url_share, 3), found.flagged_share
        (0.297, 0.3)
    """
    text = text.strip()
    words = [word.casefold() for word in _WORD.findall(text)]
    return TextMeasures(
        text_chars=len(text),
        text_words=len(words),
        repetition=_repetition(text, words),
        script=script(text),
        url_share=_share(_URL, text),
        boilerplate_share=_share(_BOILERPLATE, text),
        flagged_share=sum(word in flagged for word in words) / len(words) if words and flagged else 0.0,
    )


def script(text: str) -> str:
    """Name the writing system of most letters; of several equally frequent ones the first in the alphabet.

    Example:
        >>> [script(text) for text in ("Straße 7", "красная лиса", "赤い狐", "赤いきつね", "붉은 여우", "12 + 3", "🦊")]
        ['Latin', 'Cyrillic', 'Han', 'Kana', 'Hangul', 'none', 'none']
    """
    found = Counter(name for letter in text if letter.isalpha() and (name := _script_of(letter)) is not None)
    return min(found, key=lambda name: (-found[name], name)) if found else "none"


def read_words(uri: str, options: StorageOptions | None = None) -> frozenset[str]:
    """Read a list of words: one a line, UTF-8, in NFC and case-folded; lines that start with "#" are left out.

    Raises:
        ConfigError: the file is not there, is not UTF-8, or holds more than a word in a line.
    """
    try:
        lines = read_bytes(uri, options).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the list of flagged words {uri} cannot be read: {error}") from error
    # as texts are, whose words are compared
    lines = [unicodedata.normalize("NFC", line) for line in lines]
    words = [line.strip().casefold() for line in lines if line.strip() and not line.startswith("#")]
    strange = [word for word in words if not _WORD.fullmatch(word)]
    if strange:
        raise ConfigError(f"{uri}: {strange[0]!r} is not one word; expected one word a line")
    return frozenset(words)


def _script_of(letter: str) -> str | None:
    start, end, name = _SCRIPTS[max(0, bisect_right(_STARTS, ord(letter)) - 1)]
    return name if start <= ord(letter) <= end else "other"


def _repetition(text: str, words: list[str]) -> float:
    """The larger of two shares: pairs of words that occurred before, and the longest run of one character."""
    pairs = list(pairwise(words))
    again = 1 - len(set(pairs)) / len(pairs) if len(words) >= LEAST_WORDS else 0.0
    longest = max((sum(1 for _ in run) for _, run in groupby(text)), default=0)
    return max(again, longest / len(text) if longest > LEAST_WORDS else 0.0)


def _share(pattern: re.Pattern[str], text: str) -> float:
    """Share of a text's characters that a pattern covers."""
    return sum(len(found[0]) for found in pattern.finditer(text)) / len(text) if text else 0.0
