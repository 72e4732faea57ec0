"""Prompt templates: names only, every one known, and nothing that is put in is read again."""

import pytest

from llava_core.errors import ConfigError
from pipelines.fragments import CorpusRefused
from pipelines.inference.template import check_names, parse_template


def test_values_are_put_in_once() -> None:
    template = parse_template("{{x}} {text}: {question} {text}")
    assert template.names == ("text",)
    assert (
        template.fill({"text": "{question} {0}", "question": "{text}"}) == "{x} {question} {0}: {text} {question} {0}"
    )


@pytest.mark.parametrize("missing", [{}, {"text": None}])
def test_a_missing_value_rejects_the_row(missing: dict[str, str | None]) -> None:
    with pytest.raises(CorpusRefused, match=r"NULL_FIELD: text, which the prompt needs") as caught:
        parse_template("{text} {question}").fill(missing | {"question": "?"})
    assert caught.value.reason == "NULL_FIELD"
    assert parse_template("{text}{question}").fill({"text": "", "question": "?"}) == "?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{question", "expected '}'"),
        ("{question} }", "Single '}'"),
        ("{question.__class__}", "more than a column's name"),
        ("{question[0]}", "more than a column's name"),
        ("{question:>10}", "more than a column's name"),
        ("{question!r}", "more than a column's name"),
        ("{} {question}", "less than a column's name"),
        ("{text}", "no place for {question}"),
        ("<image>\n{question}", "leave <image> out"),
    ],
)
def test_templates_that_are_more_than_names(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_template(text)


def test_unknown_columns_are_named_beside_those_that_are_known() -> None:
    with pytest.raises(
        ConfigError, match=r"\{txt\}, \{z\}, which none of the first 8 rows has; .* \{question\}, \{a\}, \{text\}$"
    ):
        check_names(parse_template("{txt} {text} {z} {question}"), {"text", "a"}, 8)
    check_names(parse_template("{text} {question}"), {"text"}, 8)
