"""What makes a reply look wrong: nothing in it, cut off, the same again and again, a refusal.

Signs, not verdicts: they say which replies a person should look at first. What this does *not* do: know the image, or
decide that a reply leaves the table.
"""

import re
from collections.abc import Sequence
from enum import StrEnum


class Fault(StrEnum):
    """A sign that a reply is wrong."""

    EMPTY = "empty"
    """It has no letter and no digit."""
    CUT_OFF = "cut off"
    """The bound on new tokens ended it, not the model."""
    REPEATED = "repeats itself"
    """Much of it has been said before, word for word."""
    REFUSED = "refuses"
    """The model says that it cannot or will not."""
    UNREAD = "no answer in it"
    """The reply has not the form that was asked for."""


REPEATED_SHARE = 0.4
"""Share of a reply's n-grams that repeat an earlier one, from which on it counts. Of 5,303 texts that LLaVA's authors
published with it (answers, reviews, captions by box; longer than 60 letters) half have at most 0.05 and 99 % at most
0.25; the four at 0.4 and above do say the same again and again (measured). A loop of five words has 0.8 after six."""
_WORDS, _LEAST_WORDS = 3, 12
_LETTERS, _LEAST_LETTERS = 6, 40
_REFUSALS = re.compile(
    r"\b(?:i(?:['’])?m|i am|we(?:['’])?re) (?:really |very |so )?(?:sorry|unable|not able|afraid)\b"
    r"|\bi (?:can ?not|can['’]?t|could not|couldn['’]?t|won['’]?t|will not|do not|don['’]?t) (?:see|view|access|assist"
    r"|help|provide|describe|identify|answer|generate|comply|determine|have (?:the ability|access))\b"
    r"|\bas an? (?:ai|artificial|large language|language|text-based)\b"
    r"|\b(?:no image|image (?:was|is) not|(?:image|picture) (?:has|have) not been) "
    r"(?:provided|attached|available|visible)\b",
    re.IGNORECASE,
)


def faults_of(text: str, finish_reason: str | None, *, valid: bool | None = None) -> list[Fault]:
    """Say what looks wrong with a reply.

    Args:
        text: the reply.
        finish_reason: "stop" or "length".
        valid: whether an answer could be read out of it; None where none is asked for.

    Example:
        >>> faults_of("A dog.", "stop"), [str(one) for one in faults_of("I'm sorry, but I can't see it", "length")]
        ([], ['cut off', 'refuses'])
    """
    found = []
    if not any(letter.isalnum() for letter in text):
        found.append(Fault.EMPTY)
    if finish_reason == "length":
        found.append(Fault.CUT_OFF)
    if repeated_share(text) >= REPEATED_SHARE:
        found.append(Fault.REPEATED)
    if _REFUSALS.search(text):
        found.append(Fault.REFUSED)
    if valid is False:
        found.append(Fault.UNREAD)
    return found


def repeated_share(text: str) -> float:
    """Share of a text's n-grams that have come before in it: of 3 words, or of 6 letters where it has few words.

    Short texts have none: "a a a" may be right.

    Example:
        >>> repeated_share("a dog on a bed " * 6)  # 30 words, 28 n-grams, 5 different
        0.8214285714285714
        >>> repeated_share("A dog lies on a bed beside a lamp, and a cat looks at the dog from a chair.")
        0.0
    """
    words = text.split()
    if len(words) >= _LEAST_WORDS:
        return _repeats(words, _WORDS)
    letters = "".join(words)
    return _repeats(letters, _LETTERS) if len(letters) >= _LEAST_LETTERS else 0.0


def _repeats(units: Sequence[str], length: int) -> float:
    grams = [tuple(units[at : at + length]) for at in range(len(units) - length + 1)]
    return 1 - len(set(grams)) / len(grams)
