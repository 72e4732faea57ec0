"""Forms of questions: how each is put to a model, and how a reply to it is read.

    choice   "Which?" + "\\nA. cat\\nB. dog" + what the model was trained to obey   ─▶ "B"
    yes_no   "Is it?" + …                                                         ─▶ "yes"

Reading is strict: where a reply does not say which of the allowed answers it gives, there is none, rather than a guess.
The suffixes are those of LLaVA's training mix and evaluation. What this does *not* do: decide what is asked
(`questions`), or where in a prompt a question stands (`template`).
"""

import functools
import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jsonschema
import referencing
from jsonschema.validators import validator_for

from llava_core.errors import ConfigError
from llava_core.prompts import CHOICE_SUFFIX, SHORT_SUFFIX
from pipelines.corpus_text import canonical_json, parse_json
from pipelines.fragments import CorpusRefused, printable
from schemas.reasons import CorpusReason

Kind = Literal["open", "short", "choice", "yes_no", "json"]

JSON_SUFFIX = "Answer with JSON that fits this schema:"
MAX_CHOICES = len(string.ascii_uppercase)

_ANSWER_IS = re.compile(r"\b(?:answer|option|choice)\b(?:\s+is)?\s*:?\s*", re.IGNORECASE)
_LONE_LETTER = re.compile(r"[^\w]*([A-Za-z])[^\w]*")
_LEADING_LETTER = re.compile(r"[^\w]*([A-Za-z])(?:[):\]]|[.,](?!\w))")
_BRACKETED = re.compile(r"\(([A-Z])\)")
_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_EDGES = string.punctuation + string.whitespace


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
    folded = [_folded(one) for one in form.choices]
    if not all(one.strip() for one in form.choices) or len(set(folded)) != len(folded):
        raise ConfigError(f"choices are {list(form.choices)!r}; expected texts that differ, none of them empty")
    if (form.kind == "json") != (form.schema is not None):
        raise ConfigError(f"kind is {form.kind!r} {'with' if form.schema else 'without'} a schema; it goes with 'json'")
    if form.schema is not None:
        _validator(form.schema)
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
            letter = _read_letter(text, form.choices)
            return Reading(answer=letter, detail=None if letter else "none of the options, or more than one")
        case "yes_no":
            word = next((word for part in _parts(text) if (word := _first_word(part)) in ("yes", "no")), None)
            return Reading(answer=word, detail=None if word else "neither yes nor no")
        case "json":
            assert form.schema is not None, "check_form has seen it"
            return _read_json(text, form.schema)


def _parts(text: str) -> list[str]:
    """The reply, and what follows "the answer is" in it."""
    return [text, *(text[found.end() :] for found in _ANSWER_IS.finditer(text))]


def _first_word(text: str) -> str:
    found = re.match(r"[^\w]*(\w+)", text)
    return found[1].casefold() if found else ""


def _read_letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter that a reply names, by itself, before or instead of its option; None where that is not clear.

    Example:
        >>> replies = ("b", "B.", "The answer is C.", "Dog", "A cow", "A cat", "A horse")
        >>> [_read_letter(text, ("cat", "dog", "a cow")) for text in replies]
        ['B', 'B', 'C', 'B', 'C', 'A', None]
    """
    letters = string.ascii_uppercase[: len(choices)]
    options = {_folded(option): letter for letter, option in zip(letters, choices, strict=True)}
    by_text = {f"{letter.casefold()} {option}": letter for option, letter in options.items()} | options
    for part in _parts(text):
        if (found := _LONE_LETTER.fullmatch(part)) and found[1].upper() in letters:
            return found[1].upper()
        if _folded(part) in by_text:
            return by_text[_folded(part)]
        if (found := _LEADING_LETTER.match(part)) and found[1].upper() in letters:
            return found[1].upper()
    bracketed = {letter for letter in _BRACKETED.findall(text) if letter in letters}
    return bracketed.pop() if len(bracketed) == 1 else None


def _folded(text: str) -> str:
    """A text without case, outer punctuation and runs of white space."""
    return " ".join(text.casefold().strip(_EDGES).split()) or text.strip()


def _read_json(text: str, schema: str) -> Reading:
    fenced = _FENCED.fullmatch(text)
    try:
        value = parse_json((fenced[1] if fenced else text).strip().encode())
        fault = next(_validator(schema).iter_errors(value), None)
    except CorpusRefused as refusal:
        return Reading(answer=None, detail=f"not JSON: {printable(refusal.detail)}")
    except (RecursionError, referencing.exceptions.Unresolvable) as error:
        return Reading(answer=None, detail=f"the schema cannot be followed: {printable(str(error))}")
    if fault is not None:
        place = "/".join(map(str, fault.absolute_path)) or "the whole"
        return Reading(answer=None, detail=printable(f"{place}: {fault.message}"))
    return Reading(answer=canonical_json(value))


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
