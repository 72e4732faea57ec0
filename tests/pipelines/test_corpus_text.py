"""Untrusted text: what strict JSON refuses, what captions lose, conversations in one form."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus_text import clean_text, parse_conversation, parse_json, scalars_json
from pipelines.fragments import CorpusRefused


def _reason(data: bytes) -> str:
    with pytest.raises(CorpusRefused) as caught:
        parse_json(data)
    return caught.value.reason


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 1}',
        b'[{"x": {"b": 1, "b": 2}}]',
        b"NaN",
        b"-Infinity",
        b"[1e999]",
        b"-1e999",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5000,
        b'{"nsfw": 1' + b"0" * 309 + b"}",
        b"[-1" + b"0" * 309 + b"]",
        b'{"a": 1',
        b'{"a": 1} x',
        b"",
        b"{'a': 1}",
        b'"a\x00b"',
    ],
)
def test_what_is_not_strict_json(data: bytes) -> None:
    assert _reason(data) == "BAD_JSON"


@pytest.mark.parametrize(
    "data",
    [
        b'"\xff"',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        '"ä"'.encode("latin-1"),
        '{"a": 1}'.encode("utf-16"),
        b'"\xed\xa0\x80"',
    ],
)
def test_what_is_not_utf8(data: bytes) -> None:
    assert _reason(data) == "BAD_ENCODING"


def test_a_byte_order_mark_and_a_surrogate_pair_are_fine() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


_NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(_JSON)
def test_whatever_is_json_is_read_as_it_is(value: object) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_captions_lose_what_cannot_be_seen() -> None:
    assert clean_text("a\x00b\x1b[31mc\x7f\x9d", 100) == "ab[31mc"
    assert clean_text("\ufeffx\u200by\u202ez\u2066w", 100) == "xyzw"
    assert clean_text("tab\tline\nend\r\nmac\rok", 100) == "tab\tline\nend\nmac\nok"
    assert clean_text("e\u0301 \u1100\u1161", 100) == "\u00e9 \uac00"
    # Joiners spell words and emoji.
    assert clean_text("نمی\u200cخواهم 👩\u200d🚀", 100) == "نمی\u200cخواهم 👩\u200d🚀"


def test_long_texts_are_refused_by_bytes() -> None:
    assert clean_text("ä" * 50, 100) == "ä" * 50
    with pytest.raises(CorpusRefused, match="TOO_LONG"):
        clean_text("ä" * 50 + "x", 100)
    with pytest.raises(CorpusRefused, match="BAD_ENCODING"):
        clean_text("\ud800", 100)


def test_metadata_keeps_scalars() -> None:
    values = {"z": 1, "a": "e\u0301", "used": 5, "b": b"x", "l": [1], "o": {}}
    values |= {"n": None, "f": 1.5, "t": True, "i": float("inf")}
    assert scalars_json(values, frozenset({"used"}), 100) == '{"a":"é","f":1.5,"i":null,"n":null,"t":true,"z":1}'
    assert scalars_json({"short": "x" * 4096, "long": "x" * 4097}, frozenset(), 10_000) == f'{{"short":"{"x" * 4096}"}}'


LLAVA = '[{"from":"system","value":"s"},{"from":"human","value":"<image>\\nq"},{"from":"gpt","value":"a"}]'


@pytest.mark.parametrize(
    ("turns", "images"),
    [
        (json.loads(LLAVA), []),
        (LLAVA, []),
        (
            [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "<image>\nq"},
                {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
            ],
            [],
        ),
        (
            [
                {"role": "system", "content": "s"},
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "1.jpg"}}, {"type": "text", "text": "\nq"}],
                },
                {"role": "assistant", "content": "a"},
            ],
            ["1.jpg"],
        ),
        (
            [
                {"from": "system", "value": "s"},
                {"from": "human", "value": [{"type": "image", "value": "1.jpg"}, {"type": "text", "value": "\nq"}]},
                {"from": "gpt", "value": "a"},
            ],
            ["1.jpg"],
        ),
        (
            [
                {"from": "system", "value": "s"},
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nq"}]},
                {"from": "gpt", "value": "a"},
            ],
            [],
        ),
    ],
)
def test_conversations_come_out_in_llavas_form(turns: object, images: list[str]) -> None:
    assert parse_conversation(turns, 1000) == (LLAVA, images)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "BAD_CONVERSATION"),
        ({"from": "human", "value": "x"}, "BAD_CONVERSATION"),
        (["x"], "BAD_CONVERSATION"),
        ([{"from": "tool", "value": "x"}], "BAD_CONVERSATION"),
        ([{"from": ["human"], "value": "x"}], "BAD_CONVERSATION"),
        ([{"value": "x"}], "BAD_CONVERSATION"),
        ([{"from": "human", "value": 7}], "BAD_CONVERSATION"),
        ([{"from": "human", "value": [{"type": "audio", "audio": "a.wav"}]}], "BAD_CONVERSATION"),
        ([{"from": "human", "value": [{"type": "text", "text": 3}]}], "BAD_CONVERSATION"),
        ("not json", "BAD_JSON"),
        ([{"from": "human", "value": "x" * 1001}], "TOO_LONG"),
        ([{"from": "human", "value": "x" * 600}, {"from": "gpt", "value": "x" * 600}], "TOO_LONG"),
    ],
)
def test_conversations_in_no_known_form(turns: object, reason: str) -> None:
    with pytest.raises(CorpusRefused) as caught:
        parse_conversation(turns, 1000)
    assert caught.value.reason == reason


def test_no_depth_of_nesting_ends_the_reader() -> None:
    """A list that loads can just so be parsed, and yet be too deep to be written."""
    outcomes = []
    for depth in range(100, 1100, 1):
        try:
            parse_json(b"[" * depth + b'"\\u0041"' + b"]" * depth)
            outcomes.append("read")
        except CorpusRefused as refusal:
            outcomes.append(refusal.reason)
    assert set(outcomes) <= {"read", "BAD_JSON"}
    assert outcomes == sorted(outcomes, reverse=True)
