"""Forms of questions: how each is put to a model, and how a reply to it is read.

    choice   "Which?" + "\\nA. cat\\nB. dog" + what the model was trained to obey   ─▶ "B"
    yes_no   "Is it?" + …                                                         ─▶ "yes"

Reading is strict: where a reply does not say which of the allowed answers it gives, there is none, rather than a guess.
The suffixes are those of LLaVA's training mix and evaluation. What this does *not* do: decide what is asked
(`questions`), where in a prompt a question stands (`template`), or which option a reply gives (`pipelines.choices`).
"""

import functools
import json
import re
import string
from dataclasses import dataclass
from typing import Any, Literal

import jsonschema
import referencing
import referencing.jsonschema
from jsonschema.validators import validator_for

from llava_core.errors import ConfigError
from llava_core.prompts import CHOICE_SUFFIX, SHORT_SUFFIX
from pipelines.choices import after_answer, read_letter, without_head
from pipelines.corpus_text import canonical_json, parse_json
from pipelines.fragments import CorpusRefused, printable
from schemas.reasons import CorpusReason

Kind = Literal["open", "short", "choice", "yes_no", "json"]

JSON_SUFFIX = "Answer with JSON that fits this schema:"
MAX_CHOICES = len(string.ascii_uppercase)

_OTHER_TOO = re.compile(r"[^\w]*(?:yes|no)\s*(?:/|\b(?:or|and)\b)\s*(?:yes|no)\b", re.IGNORECASE)
_FENCED = re.compile(r"```(?:json)?[ \t]*(?:\r?\n)?(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What kind of reply is asked for."""

    kind: Kind = "open"
    """"open": any text; "short": a word or phrase; "choice": one of the options; "yes_no"; "json": fits the schema."""
    choices: tuple[str, ...] = ()
    """Options of a choice, the first is A."""
    schema: str | None = None
    """JSON schema of a "json" reply, as canonical JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a reply was read as."""

    answer: str | None
    """None where the reply gives none that is allowed."""
    detail: str | None = None
    """Why there is none, for people."""


def check_form(form: Form) -> Form:
    """Return a form whose parts fit one another.

    Raises:
        ConfigError: they do not, or the schema is none.

    Example:
        >>> check_form(Form(kind="choice", choices=("cat",)))
        Traceback (most recent call last):
        ...
        llava_core.errors.ConfigError: a choice has 1 options; expected 2 to 26
    """
    if (form.kind == "choice") != bool(form.choices):
        raise ConfigError(f"kind is {form.kind!r} with {len(form.choices)} choices; choices go with kind 'choice'")
    if form.kind == "choice" and not 2 <= len(form.choices) <= MAX_CHOICES:
        raise ConfigError(f"a choice has {len(form.choices)} options; expected 2 to {MAX_CHOICES}")
    different = {" ".join(one.casefold().split()) for one in form.choices} - {""}
    if len(different) != len(form.choices):
        raise ConfigError(f"choices are {list(form.choices)!r}; expected texts that differ, none of them empty")
    if (form.kind == "json") != (form.schema is not None):
        raise ConfigError(f"kind is {form.kind!r} {'with' if form.schema else 'without'} a schema; it goes with 'json'")
    if form.schema is not None:
        _try_schema(form.schema)
    return form


def put(question: str, form: Form) -> str:
    """Write a question the way a model is asked it.

    Example:
        >>> print(put("What is it?", Form(kind="choice", choices=("a cat", "a dog"))))
        What is it?
        A. a cat
        B. a dog
        Answer with the option's letter from the given choices directly.
    """
    match form.kind:
        case "open":
            return question
        case "short" | "yes_no":
            return f"{question}\n{SHORT_SUFFIX}"
        case "choice":
            lettered = zip(string.ascii_uppercase, form.choices, strict=False)
            options = [f"{letter}. {option}" for letter, option in lettered]
            return "\n".join([question, *options, CHOICE_SUFFIX])
        case "json":
            return f"{question}\n{JSON_SUFFIX} {form.schema}"


def read_reply(text: str, form: Form) -> Reading:
    """Read what a reply answers.

    Example:
        >>> read_reply("(B) a dog", Form(kind="choice", choices=("a cat", "a dog"))).answer
        'B'
        >>> read_reply("No, it is not.", Form(kind="yes_no")).answer
        'no'
        >>> read_reply("Perhaps.", Form(kind="yes_no"))
        Reading(answer=None, detail='neither yes nor no')
    """
    match form.kind:
        case "open":
            return Reading(answer=text)
        case "short":
            return Reading(answer=text.strip().removesuffix("."))
        case "choice":
            letter = read_letter(text, form.choices)
            return Reading(answer=letter, detail=None if letter else "none of the options, or more than one")
        case "yes_no":
            said = (*after_answer(text), without_head(text))
            parts = [part for part in said if _first_word(part) in ("yes", "no")]
            if not parts or _OTHER_TOO.match(parts[0]):
                return Reading(answer=None, detail="both yes and no" if parts else "neither yes nor no")
            return Reading(answer=_first_word(parts[0]))
        case "json":
            assert form.schema is not None, "check_form has seen it"
            return _read_json(text, form.schema)


def _first_word(text: str) -> str:
    found = re.match(r"[^\w]*(\w+)", text)
    return found[1].casefold() if found else ""


def _read_json(text: str, schema: str) -> Reading:
    try:
        value = _json_value(text)
        fault = next(_validator(schema).iter_errors(value), None)
    except CorpusRefused as refusal:
        return Reading(answer=None, detail=f"not JSON: {printable(refusal.detail)}")
    except (RecursionError, referencing.exceptions.Unresolvable) as error:
        return Reading(answer=None, detail=f"the schema cannot be followed: {printable(str(error))}")
    if fault is not None:
        place = "/".join(map(str, fault.absolute_path)) or "the whole"
        return Reading(answer=None, detail=printable(f"{place}: {fault.message}"))
    return Reading(answer=canonical_json(value))


def _json_value(text: str) -> Any:
    """The value of a reply that is JSON, or has just one fence with JSON in it.

    Raises:
        CorpusRefused: neither.
    """
    try:
        return parse_json(text.strip().encode())
    except CorpusRefused:
        fenced = _FENCED.findall(text)
        if len(fenced) != 1:
            raise
        return parse_json(fenced[0].strip().encode())


def _try_schema(schema: str) -> None:
    """See that a schema is one, and can be followed.

    Raises:
        ConfigError: it is none, points outside of itself or nowhere, or in circles.
    """
    try:
        validator = _validator(schema)
        resolver = referencing.Registry().resolver_with_root(
            referencing.jsonschema.DRAFT202012.create_resource(validator.schema)
        )
        if "$id" not in schema:  # by which parts of a schema may be roots of their own
            for ref in _references(validator.schema):
                resolver.lookup(ref)
        values: tuple[Any, ...] = ({}, [], "", 0, None)
        for value in values:
            next(validator.iter_errors(value), None)
    except (RecursionError, referencing.exceptions.Unresolvable) as error:
        raise ConfigError(f"the schema cannot be followed: {printable(str(error))[:300]}") from error
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"not a JSON schema: {printable(str(error))[:300]}") from error


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    """Return the validator of a schema, which fetches nothing.

    Raises:
        ConfigError: it is no JSON schema, or points outside of itself.
    """
    value = json.loads(schema)
    outside = sorted(ref for ref in _references(value) if not ref.startswith("#"))
    if outside:
        raise ConfigError(f"the schema refers to {outside[0]!r}; only references within it (#…) are followed")
    named = isinstance(value, dict) and "$schema" in value
    kind = validator_for(value, default=None if named else jsonschema.Draft202012Validator)
    if kind is None:
        raise ConfigError(f"the schema names the unknown dialect {value['$schema']!r}")
    try:
        kind.check_schema(value)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"not a JSON schema: {error.message[:300]}") from error
    return kind(value, registry=referencing.Registry())


def _references(value: object) -> list[str]:
    """Every `$ref` and `$dynamicRef` in a schema."""
    if isinstance(value, list):
        return [ref for one in value for ref in _references(one)]
    if not isinstance(value, dict):
        return []
    own = [ref for name in ("$ref", "$dynamicRef") if isinstance(ref := value.get(name), str)]
    return own + [ref for one in value.values() for ref in _references(one)]


def canonical_schema(data: bytes) -> str:
    """Return a schema's text in one spelling.

    Raises:
        ConfigError: not strict JSON, or neither an object nor a boolean.
    """
    try:
        value = parse_json(data)
    except CorpusRefused as refusal:
        raise ConfigError(f"the schema is not strict JSON: {refusal}") from refusal
    if not isinstance(value, dict | bool):
        raise ConfigError(f"the schema is {type(value).__name__}; expected an object")
    return canonical_json(value)


def refused_form(error: ConfigError) -> CorpusRefused:
    """Return what rejects one question whose form is wrong."""
    return CorpusRefused(CorpusReason.SCHEMA, str(error))
