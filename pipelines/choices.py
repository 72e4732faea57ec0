"""The option that a reply to a multiple choice gives: one reader for corpora and for benchmarks.

    "The answer is B.", "correct option: B"     goes first
    "B", "B. dog", "dog", "Option B: …"         at the beginning, where nothing goes first
    "I think it is B", "… so option B", "(B)"   anywhere, where the beginning gives nothing; and in a last line

Reading is strict: a reply that names two options, or says that one is wrong and no more, gives none, rather than a
guess. An article is not the letter A. What this does *not* do: put a question (`pipelines.inference.forms`), or read as
a benchmark's own tool does (`pipelines.evaluation.replies`).
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence

_LEFT, _RIGHT = r"[^\w]*", r"(?:[):\]]|[.,](?!\w))"
_MARKED = re.compile(rf"{_LEFT}([A-Za-z]){_RIGHT}")
"""A letter with a mark behind it; behind "it is" a capital needs none, unless it may be an article or a pronoun."""
_SAID = re.compile(
    rf"{_LEFT}(?:([A-Za-z]){_RIGHT}|([B-HJ-Z])(?=\s)|([AI])(?=\s+(?:because|since|as|for|due|or|and)\b))"
)
_LETTER = re.compile(rf"{_LEFT}(?:([A-Za-z]){_RIGHT}|([A-Z])(?!\w))")
_LONE = re.compile(r"[^\w]*([A-Za-z])[^\w]*")
_SPELT = re.compile(rf"{_LEFT}([A-Za-z])[^\w\s]*\s+(?:[-–—:]\s+)?")
"""What stands before an option's text where its letter does."""

_ANSWER = re.compile(
    r"\b(?:answer(?:\s+to\s+(?:the|this|that|your)\s+question)?|(?:correct|right|best)\s+(?:option|choice))\b"
    r"(?:\s+(?:is|was|(?:would|should|must)\s+be)\b)?\s*:?\s*(?:(?:the\s+)?(?:option|choice|letter)\b\s*:?\s*)?",
    re.IGNORECASE,
)
_OPTION = re.compile(r"\b(?:option|choice)\b(?:\s+is\b)?\s*:?\s*", re.IGNORECASE)
_HEADED = re.compile(rf"{_LEFT}(?:option|choice)\b(?:\s+is\b)?\s*:?\s*", re.IGNORECASE)
_IT_IS = re.compile(
    r"\b(?:it(?:\s+is|['’]s)|(?:must|would|should)\s+be|(?:would|['’]d)\s+say|choose|pick|select|go\s+with)\b\s*:?\s*",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"\(([A-Z])\)")

_CLAUSE = re.compile(r"[.,;:!?\n]")
_DOUBTED = re.compile(r"\b(?:not|never|cannot|neither|nor|whether|if|unless|wrong|incorrect)\b|n['’]t\b", re.IGNORECASE)
_REFUSED = re.compile(
    r"[\W_]*(?:(?:is|was)(?:n['’]t|\s+not)\b|(?:(?:is|was)\s+)?(?:wrong|incorrect|false)\b)", re.IGNORECASE
)
"""Right behind a letter: it is not the answer."""
_EXPLAINED = re.compile(
    r"[^.!?\n]{0,200}?(?:\b(?:wrong|incorrect|false|not\s+(?:correct|right|true|the))\b|n['’]t\b)", re.I
)
"""In the rest of the sentence behind another letter: it is spoken of, not given."""
_COMPARED = re.compile(
    r"(?:\b(?:not|than|unlike)|n['’]t)\s+(?:(?:option|choice)\s+)?[(\[]?[A-Z]\b[)\]]?", re.IGNORECASE
)
_OTHER = re.compile(
    r"[(\[]([A-Z])[)\]]|\b([A-Z])(?=[):\]]|[.,](?!\w)|\s*$)|^[^\w\n]*([A-Za-z])[).:\]](?!\w)"
    r"|\b(?:[Oo]ption|[Cc]hoice)\s+[(\[]?([A-Z])\b",
    re.MULTILINE,
)
_NEXT = re.compile(r"\W*(?:(?:or|and)\b\W*)?([A-Za-z])(?=\s*(?:$|[,.:;)\]]|(?:or|and)\b))", re.IGNORECASE)
_BULLET = re.compile(r"^\s*[-–—•]\s+(?=[^\W\d])")
_EDGES = "".join(set(string.punctuation) - set("+-<>=/\\^~|&")) + "“”‘’" + string.whitespace
"""What may stand around an option; signs are part of it."""
_LOOKED_AT = 1000
"""Characters behind and before a phrase."""


def read_letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that a reply gives, by letter or text; None where that is not clear.

    Args:
        text: the reply.
        choices: options, the first is A; 26 at most.

    Example:
        >>> replies = ("b", "B.", "The answer is C.", "Dog", "A cow", "A cat", "A horse", "A, B", "Not A: answer B")
        >>> [read_letter(text, ("cat", "dog", "a cow")) for text in replies]
        ['B', 'B', 'C', 'B', 'C', 'A', None, None, 'B']
    """
    options = dict(zip(string.ascii_uppercase[: len(choices)], choices, strict=True))
    named = {letter for part in after_answer(text) for letter in _given(part, options, _SAID)}
    headed = without_head(text)
    named = named or _given(headed, options, _MARKED if headed == text else _LETTER)
    named = named or _anywhere(text, options)
    return named.pop() if len(named) == 1 else None


def after_answer(text: str) -> list[str]:
    """What follows each "the answer is" of a reply, but where its clause denies or doubts it.

    Example:
        >>> after_answer("Answer: no. I do not say the answer is yes")
        ['no. I do not say the answer is yes']
    """
    return _after(_ANSWER, text)


def without_head(text: str) -> str:
    """A reply without the word "Option" or "Choice" that it begins with.

    Example:
        >>> without_head("Option: B"), without_head("Optional")
        ('B', 'Optional')
    """
    found = _HEADED.match(text)
    return text[found.end() :] if found else text


def _after(phrase: re.Pattern[str], text: str) -> list[str]:
    """What follows a phrase, each time, but where its clause denies or doubts it; once where a reply repeats itself."""
    found = {
        text[one.end() : one.end() + _LOOKED_AT]: None
        for one in phrase.finditer(text)
        if not _DOUBTED.search(_CLAUSE.split(text[max(0, one.start() - _LOOKED_AT) : one.start()])[-1])
    }
    return list(found)


def _anywhere(text: str, options: Mapping[str, str]) -> set[str]:
    """Letters that a reply gives within its sentences."""
    named = {letter for part in _after(_OPTION, text) for letter in _given(part, options, _LETTER)}
    named |= {letter for part in _after(_IT_IS, text) for letter in _given(part, options, _SAID)}
    spoken = _COMPARED.sub(" ", text)
    bracketed = [found for found in _BRACKETED.finditer(spoken) if not _REFUSED.match(spoken, found.end())]
    named |= {found[1] for found in bracketed if found[1] in options}
    before, _, last = text.rstrip().rpartition("\n")
    ending = _given(last, options, _MARKED) if before else set()
    return named | ending | (_others(_without_options(before, options), options) if ending else set())


def _given(part: str, options: Mapping[str, str], opening: re.Pattern[str]) -> set[str]:
    """Letters of what a part of a reply gives at its beginning: none, one, or several where it is not clear."""
    if len(named := _named(part, {letter: one for letter, one in options.items() if len(one) > 1}, _folded)) == 1:
        return named
    if (lone := _LONE.fullmatch(part)) and lone[1].upper() in options:
        return {lone[1].upper()}
    for fold in (_without_stop, _stripped):
        if len(named := _named(part, options, fold)) == 1:
            return named
    found = opening.match(part)
    letter = next(filter(None, found.groups())).upper() if found else ""
    if found is None or letter not in options:
        return set()
    rest = _without_options(part[found.end() :], options)
    return set() if _REFUSED.match(rest) else {letter} | _others(rest, options)


def _named(part: str, options: Mapping[str, str], fold: Callable[[str], str]) -> set[str]:
    """Letters of the options that a part is, alone or after its letter, in one folding or another."""
    found = _SPELT.match(part)
    alone, spelt = fold(part), fold(f"{found[1]} {part[found.end() :]}" if found else part)
    return {
        letter for letter, one in options.items() if alone == fold(one) or fold(f"{letter} {one}") in (alone, spelt)
    }


def _without_options(rest: str, options: Mapping[str, str]) -> str:
    """What follows a letter without the options' texts, whose last word may be a letter itself ("vitamin C")."""
    longest = sorted((one.strip() for one in options.values() if len(one.strip()) > 1), key=len, reverse=True)
    texts = "|".join(map(re.escape, longest))
    return re.sub(rf"(?<!\w)(?:{texts})(?!\w)", "_", rest, flags=re.IGNORECASE) if texts else rest


def _others(rest: str, options: Mapping[str, str]) -> set[str]:
    """Letters that are given beside the first one: what is compared, or said to be wrong, is not."""
    spoken = _COMPARED.sub(" ", rest)
    marked = [found for found in _OTHER.finditer(spoken) if not _EXPLAINED.match(spoken, found.end())]
    letters = [letter for found in (*marked, _NEXT.match(rest)) if found for letter in found.groups() if letter]
    return {letter.upper() for letter in letters if letter.upper() in options}


def _folded(text: str) -> str:
    """A text without case and runs of white space."""
    return " ".join(text.casefold().split())


def _without_stop(text: str) -> str:
    """The same without full stops around it, unless it is nothing else."""
    return _folded(text.strip(" \n.")) or _folded(text)


def _stripped(text: str) -> str:
    """The same without outer punctuation, unless it is nothing else."""
    return _folded(_BULLET.sub("", text).strip(_EDGES)) or _folded(text)
