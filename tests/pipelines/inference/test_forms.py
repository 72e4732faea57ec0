"""How questions are put, and what their replies are read as: strictly, with no guess."""

import json

import pytest

from llava_core.errors import ConfigError
from pipelines.inference.forms import Form, Kind, canonical_schema, check_form, put, read_reply

ANIMALS = Form(kind="choice", choices=("cat", "black cat", "A dog", "No animal"))
YES_NO = Form(kind="yes_no")


def json_form(**schema: object) -> Form:
    """A form whose replies fit a schema."""
    return Form(kind="json", schema=canonical_schema(json.dumps(schema).encode()))


def test_each_form_is_put_as_the_model_was_trained() -> None:
    assert put("What?", Form()) == "What?"
    short = "What?\nAnswer the question using a single word or phrase."
    assert put("What?", Form(kind="short")) == short
    assert put("What?", YES_NO) == short
    assert put("Which?", Form(kind="choice", choices=("one", "two", "three"))) == (
        "Which?\nA. one\nB. two\nC. three\nAnswer with the option's letter from the given choices directly."
    )
    assert put("List.", json_form(type="array")) == 'List.\nAnswer with JSON that fits this schema: {"type":"array"}'


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(C)", "C"),
        ("**D**.", "D"),
        ("B. black cat", "B"),
        ("B: it is black", "B"),
        ("C) because", "C"),
        ("cat", "A"),
        ("Black  Cat.", "B"),
        ("a dog", "C"),
        ("A cat", "A"),  # letter and option, without a full stop between
        ("no animal", "D"),
        ("The answer is B.", "B"),
        ("Answer: (D)", "D"),
        ("The correct option is C", "C"),
        ("I am sure: it must be (B), nothing else", "B"),
        ("the answer is black cat", "B"),
        ("E", None),  # there is no such option
        ("Zebra", None),
        ("A horse", None),  # an article is not a letter
        ("a horse", None),
        ("either (A) or (B)", None),
        ("A.cat", None),
        ("It is not a dog", None),
        ("the answer is not A", None),
        ("", None),
    ],
)
def test_a_choice_is_read_only_where_it_is_clear(reply: str, letter: str | None) -> None:
    reading = read_reply(reply, ANIMALS)
    assert reading.answer == letter
    assert (reading.detail is None) == (letter is not None)


def test_a_lone_letter_is_the_option_with_that_letter_and_not_the_one_that_spells_it() -> None:
    swapped = Form(kind="choice", choices=("B", "A", "first"))
    assert [read_reply(reply, swapped).answer for reply in ("A", "B", "C", "first")] == ["A", "B", "C", "C"]


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("**No**, there is none.", "no"),
        ("Yes, there is no doubt", "yes"),
        ("The answer is yes.", "yes"),
        ("Answer: no", "no"),
        ("Not in this picture", None),
        ("Nobody", None),
        ("There is no doubt that it is", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_yes_and_no_are_words_at_the_beginning(reply: str, word: str | None) -> None:
    assert read_reply(reply, YES_NO).answer == word


def test_open_and_short_replies_are_answers_themselves() -> None:
    assert read_reply("A red bus. ", Form()).answer == "A red bus. "
    assert read_reply(" A red bus. ", Form(kind="short")).answer == "A red bus"


def test_json_is_held_to_its_schema() -> None:
    form = json_form(type="object", properties={"n": {"type": "integer"}}, required=["n"])
    assert read_reply('{"n": 3, "a": "é"}', form).answer == '{"a":"é","n":3}'
    assert read_reply('```json\n{"n": 3}\n```', form).answer == '{"n":3}'
    details = {
        reply: read_reply(reply, form).detail
        for reply in ('{"n": "3"}', "{}", "three", '{"n": NaN}', 'Sure: {"n": 3}', '{"n": 1, "n": 2}', "[" * 5000)
    }
    assert details['{"n": "3"}'] == "n: '3' is not of type 'integer'"
    assert details["{}"] == "the whole: 'n' is a required property"
    assert all((detail or "").startswith("not JSON: ") for reply, detail in list(details.items())[2:])
    assert all(read_reply(reply, form).answer is None for reply in details)


def test_a_schema_that_leads_nowhere_or_round_in_circles_is_no_crash() -> None:
    for ref in ("#/$defs/gone", "#"):
        reading = read_reply("3", Form(kind="json", schema=json.dumps({"$ref": ref})))
        assert reading.answer is None
        assert "the schema cannot be followed" in (reading.detail or "")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "https://example.com/schema.json"}, "only references within it"),
        ({"items": [{"$dynamicRef": "file:///etc/passwd"}]}, "only references within it"),
        ({"type": "integr"}, "not a JSON schema"),
        ({"$schema": "https://example.com/own"}, "unknown dialect"),
    ],
)
def test_schemas_that_are_none_or_reach_outside_are_refused(schema: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_form(Form(kind="json", schema=json.dumps(schema)))


def test_nothing_is_fetched_even_if_a_reference_were_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *args: asked.append(args))
    monkeypatch.setattr("pipelines.inference.forms._references", lambda value: [])
    reading = read_reply("3", Form(kind="json", schema='{"$ref":"http://127.0.0.1:9/s.json"}'))
    assert "the schema cannot be followed" in (reading.detail or "")
    assert asked == []


@pytest.mark.parametrize("data", [b"{", b'{"a": 1, "a": 2}', b"[]", b"\xff"])
def test_a_schema_is_a_strict_json_object(data: bytes) -> None:
    with pytest.raises(ConfigError, match="the schema is"):
        canonical_schema(data)


@pytest.mark.parametrize(
    ("kind", "choices", "schema", "message"),
    [
        ("choice", (), None, "choices go with kind 'choice'"),
        ("open", ("a", "b"), None, "choices go with kind 'choice'"),
        ("choice", ("a",), None, "expected 2 to 26"),
        ("choice", tuple(map(str, range(27))), None, "expected 2 to 26"),
        ("choice", ("a", " "), None, "none of them empty"),
        ("choice", ("a", "A."), None, "texts that differ"),
        ("json", (), None, "without a schema"),
        ("short", (), "{}", "with a schema"),
    ],
)
def test_forms_whose_parts_do_not_fit(kind: Kind, choices: tuple[str, ...], schema: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_form(Form(kind=kind, choices=choices, schema=schema))
