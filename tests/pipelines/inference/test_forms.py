"""How questions are put, and what their replies are read as: strictly, with no guess."""

import json

import pytest

from llava_core.errors import ConfigError
from pipelines.inference.forms import Form, Kind, canonical_schema, check_form, put, read_reply

ANIMALS = Form(kind="choice", choices=("cat", "black cat", "A dog", "No animal"))
YES_NO = Form(kind="yes_no")


def nested_not(depth: int) -> dict[str, object]:
    """A schema that many levels of "not" lie around."""
    schema: dict[str, object] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


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
        ("A, B", None),
        ("Answer: A, B and C", None),
        ("A. cat\nB. black cat\nC. A dog", None),  # the options, said again
        ("a) cat\nb) black cat", None),
        ("(A) is wrong, the answer is B", "B"),
        ("A. is incorrect. The answer is (D).", "D"),
        ("The answer is A. No, the answer is B.", None),
        ("C. It is a dog, not a Bear", "C"),
        ("B. Option A: there is no cat, so it is wrong.", "B"),
        ("", None),
    ],
)
def test_a_choice_is_read_only_where_it_is_clear(reply: str, letter: str | None) -> None:
    reading = read_reply(reply, ANIMALS)
    assert reading.answer == letter
    assert (reading.detail is None) == (letter is not None)


def test_options_that_differ_in_signs_alone_are_told_apart() -> None:
    numbers = check_form(Form(kind="choice", choices=("-1", "1", "(1, 2)", "(1, 2]")))
    replies = {"-1": "A", "-1.": "A", "1": "B", "B. 1": "B", "(1, 2]": "D", "(1, 2)": "C", "1, 2": None, "D": "D"}
    assert {reply: read_reply(reply, numbers).answer for reply in replies} == replies
    languages = check_form(Form(kind="choice", choices=("Java", "C++", "Rust")))
    assert [read_reply(reply, languages).answer for reply in ("c++", "C", "java.")] == ["B", "C", "A"]


def test_the_line_that_was_put_is_read_as_its_option() -> None:
    form = Form(kind="choice", choices=("vitamin A", "vitamin C", "calcium"))
    lines = put("Which?", form).split("\n")[1:4]
    assert [read_reply(line, form).answer for line in lines] == ["A", "B", "C"]


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
        ("Yes or no", None),
        ("yes/no", None),
        ("No and yes.", None),
        ("No, or so it seems", "no"),
        ("No; the answer is yes", "yes"),
        ("Yes, option no. 2 is shown.", "yes"),
        ("Choice: no", "no"),
        ("I do not think the answer is yes", None),
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


@pytest.mark.parametrize(
    "reply",
    ['```JSON\r\n{"n": 3}\r\n```', '```json {"n": 3}```', 'Here:\n```\n{"n": 3}\n```\nDone.'],
)
def test_a_lone_fence_is_opened(reply: str) -> None:
    form = json_form(required=["n"])
    assert read_reply(reply, form).answer == '{"n":3}'
    assert "not JSON" in (read_reply(reply + "```\n{}\n```", form).detail or "")


def test_a_fence_within_a_value_stays() -> None:
    assert read_reply('{"n": "```3```"}', json_form(required=["n"])).answer == '{"n":"```3```"}'


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
        ({"$schema": 5}, "not a JSON schema"),
        ({"$schema": []}, "not a JSON schema"),
        ({"$schema": "http://[bad"}, "not a JSON schema"),
        (nested_not(300), "cannot be followed"),
        ({"$ref": "#/definitions/gone"}, "cannot be followed"),
        ({"properties": {"a": {"$ref": "#nope"}}}, "cannot be followed"),
        ({"$ref": "#"}, "cannot be followed"),
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
        ("choice", ("a  b", "A b "), None, "texts that differ"),
        ("json", (), None, "without a schema"),
        ("short", (), "{}", "with a schema"),
    ],
)
def test_forms_whose_parts_do_not_fit(kind: Kind, choices: tuple[str, ...], schema: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_form(Form(kind=kind, choices=choices, schema=schema))
