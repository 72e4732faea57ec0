"""Prompt templates: "{question}" and columns of the row, nothing else that `str.format` knows.

What is put in is never looked at again, so a caption that spells "{question}" stays a caption.
"""

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from llava_core.errors import ConfigError
from pipelines.fragments import CorpusRefused
from schemas.reasons import CorpusReason

QUESTION = "question"
IMAGE_PLACE = "<image>"


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with places in it; make one with `parse_template`."""

    parts: tuple[tuple[str, str | None], ...]
    """Literal text, and the name of the column that follows it; None after the last."""

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that it needs, each once, in order; the question is not one."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name not in (None, QUESTION)))

    def fill(self, values: Mapping[str, str | None]) -> str:
        """Put values into their places.

        Raises:
            CorpusRefused: NULL_FIELD where one is missing.

        Example:
            >>> parse_template("Caption: {text}. {question}").fill({"text": "{question}", "question": "Why?"})
            'Caption: {question}. Why?'
        """
        filled = []
        for literal, name in self.parts:
            filled.append(literal)
            if name is not None:
                value = values.get(name)
                if value is None:
                    raise CorpusRefused(CorpusReason.NULL_FIELD, f"{name}, which the prompt needs, is empty or missing")
                filled.append(value)
        return "".join(filled)


def parse_template(text: str) -> Template:
    """Read a template; `{{` and `}}` stand for braces.

    Raises:
        ConfigError: unbalanced braces, a place that is more than a name, no place for the question, or one for images.

    Example:
        >>> parse_template("Caption: {text}. {question}").names
        ('text',)
        >>> parse_template("{question!r}")
        Traceback (most recent call last):
        ...
        llava_core.errors.ConfigError: --prompt: {question!r} is more than a column's name
    """
    try:
        fields = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"--prompt {text!r}: {error}; write {{{{ and }}}} for braces that are meant") from error
    for _, name, spec, conversion in fields:
        if name is not None and (not name or spec or conversion or set(name) & set(".[]")):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ConfigError(f"--prompt: {{{shown}}} is {'more than' if name else 'less than'} a column's name")
    if IMAGE_PLACE in text:
        raise ConfigError(f"--prompt {text!r}: images stand before the prompt by themselves; leave {IMAGE_PLACE} out")
    if all(name != QUESTION for _, name, _, _ in fields):
        raise ConfigError(f"--prompt {text!r} has no place for {{question}}")
    return Template(tuple((literal, name) for literal, name, _, _ in fields))


def check_names(template: Template, known: Collection[str], num_rows: int) -> None:
    """Hold a template to the columns that there are.

    Args:
        template: of the prompt.
        known: columns that occur.
        num_rows: rows of the corpus that were looked at.

    Raises:
        ConfigError: naming those that are not, and those that are.
    """
    unknown = [name for name in template.names if name not in known]
    if unknown:
        raise ConfigError(
            f"--prompt names {', '.join(f'{{{name}}}' for name in unknown)}, which none of the first {num_rows} rows "
            f"has; there are {', '.join(f'{{{name}}}' for name in [QUESTION, *sorted(known)])}"
        )
