"""Text measures against counts by hand."""

from pathlib import Path

import pytest

from llava_core.errors import ConfigError
from pipelines.curation.text_measures import measure_text, read_words, script


@pytest.mark.parametrize(
    ("text", "chars", "words"),
    [
        ("", 0, 0),
        ("   \n", 0, 0),
        ("A dog.", 6, 2),
        ("  it's 5 o’clock \n", 14, 3),
        ("赤い狐 fox", 7, 4),
        ("---", 3, 0),
        # a vowel sign, a virama and a nasal within words, a joiner within one
        ("लड़का हिन्दी में किताब पढ़ता है", 31, 6),
        ("வணக்கம் உலகம்", 13, 2),
        ("می‌خواهم", 8, 1),
        ("👩‍👩‍👧 fox", 9, 1),
    ],
)
def test_length(text: str, chars: int, words: int) -> None:
    found = measure_text(text)
    assert (found.text_chars, found.text_words) == (chars, words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat sat there", 0.0),
        ("dog dog", 0.0),
        ("dog dog dog dog dog", 0.75),
        ("red fox red fox red fox", 0.6),
        ("aaaaaaaaab", 0.9),
        ("well....", 0.0),
        ("no!!!!!!", 0.75),
    ],
)
def test_repetition(text: str, expected: float) -> None:
    assert measure_text(text).repetition == pytest.approx(expected)


def test_scripts() -> None:
    assert script("naïve Ünïcode") == "Latin"
    assert script("The word лиса") == "Latin"
    assert script("Кот, cat") == script("ёжик") == "Cyrillic"
    assert script("हिन्दी") == "Devanagari"
    assert script("ქართული") == "Georgian"
    assert script("ꙮ") == "other"


def test_shares_of_addresses_and_boilerplate() -> None:
    text = "see https://a.example/b?c=d now"
    assert measure_text(text).url_share == pytest.approx(len("https://a.example/b?c=d") / len(text))
    assert measure_text("write to me@mail.example.org").url_share == pytest.approx(19 / 28)
    assert measure_text("a boat at sea. Then home").url_share == 0
    assert measure_text("IMG_20231.JPG").boilerplate_share == 1
    assert measure_text("Stock photo: a cat").boilerplate_share == pytest.approx(11 / 18)
    assert measure_text("Click here to see it").boilerplate_share == pytest.approx(10 / 20)
    assert measure_text("A photo of 3 cats in stock").boilerplate_share == 0


def test_hostile_texts_take_no_time() -> None:
    for text in (
        "a." * 50_000,
        "www." * 20_000,
        "@" * 100_000,
        "a-" * 50_000 + ".jp",
        "img" * 30_000,
        "क्" * 50_000 + "'",
    ):
        assert measure_text(text).text_chars == len(text)


def test_flagged_words_are_the_user_s(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("# mine\nFoo\n\n straße \n", encoding="utf-8-sig")
    flagged = read_words(str(words))
    assert flagged == {"foo", "strasse"}
    assert measure_text("foo FOO bar STRASSE", flagged).flagged_share == pytest.approx(3 / 4)
    assert measure_text("foo FOO bar STRASSE").flagged_share == 0
    words.write_text("हिन्दी\ncafe\u0301\n", encoding="utf-8")
    assert measure_text("un caf\u00e9 हिन्दी", read_words(str(words))).flagged_share == pytest.approx(2 / 3)
    words.write_text("two words\n")
    with pytest.raises(ConfigError, match="'two words' is not one word"):
        read_words(str(words))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_words(str(tmp_path / "none"))
