"""Answers read out of replies, by the rules of each benchmark's own tools.

Where two sets of rules are in use, both are here and the one that was used is printed with the score. What this does
*not* do: decide whether an answer is right (`metrics`), or read a letter where a benchmark's tool has no rules of its
own, or asks a language model (`pipelines.choices`).
"""

import re
import string
from collections.abc import Sequence

_THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")


def yes_no_llava(reply: str) -> str:
    """LLaVA's reading for POPE: "no" if the first sentence has the word No, no or not; everything else is "yes".

    Source: LLaVA, `llava/eval/eval_pope.py`.

    Example:
        >>> yes_no_llava("There is no dog. Yes."), yes_no_llava("Perhaps"), yes_no_llava("NO"), yes_no_llava("")
        ('no', 'yes', 'yes', 'yes')
    """
    words = reply.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def yes_no_strict(reply: str) -> str | None:
    """The reply is yes or no, but for case, white space and a full stop; anything else is no answer.

    Example:
        >>> yes_no_strict(" Yes."), yes_no_strict("yes it is")
        ('yes', None)
    """
    word = reply.strip().lower().rstrip(".")
    return word if word in ("yes", "no") else None


def yes_no_mme(reply: str) -> str | None:
    """MME's reading: yes or no within the first four letters, or a lone y or n.

    Source: MME's `calculation.py`, as lmms-eval has it.

    Example:
        >>> yes_no_mme("Yes, it is"), yes_no_mme("n."), yes_no_mme("Not at all"), yes_no_mme("It is not")
        ('yes', 'no', 'no', None)
    """
    text = reply.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text)
    return next((word for word in ("yes", "no") if word in text[:4]), None)


def true_false(reply: str) -> str | None:
    """The verdict of a reply: its last "true" or "false"; if it has neither, a "yes" or "no" that it begins with.

    Example:
        >>> true_false("True."), true_false("one black block, two blue ones: so it is not true"), true_false("no, none")
        ('true', 'false', 'false')
    """
    said = reply.casefold()
    if verdicts := re.findall(r"\b(not )?(true|false)\b", said):
        refused, verdict = verdicts[-1]
        return {"true": "false", "false": "true"}[verdict] if refused else str(verdict)
    found = re.match(r"\W*(yes|no)\b", said)
    return {"yes": "true", "no": "false"}[found[1]] if found else None


def letter_exact(reply: str, choices: Sequence[str]) -> str | None:
    """The reply is a letter and nothing else: SEED-Bench's conversion in LLaVA compares whole texts.

    Example:
        >>> letter_exact("B", ["cat", "dog"]), letter_exact("B.", ["cat", "dog"])
        ('B', None)
    """
    return reply if reply and reply in string.ascii_uppercase[: len(choices)] else None


def letter_scienceqa(reply: str, choices: Sequence[str]) -> str | None:
    """ScienceQA's reading in LLaVA: a letter alone, a letter with ". " after it, or one "The answer is X.".

    Source: LLaVA, `llava/eval/eval_science_qa.py`.

    Example:
        >>> options = ["cat", "dog"]
        >>> letter_scienceqa("B. dog", options), letter_scienceqa("The answer is A.", options)
        ('B', 'A')
        >>> letter_scienceqa("dog", options), letter_scienceqa("D", options)
        (None, None)
    """
    if reply in tuple("ABCDE"):
        letter = reply
    elif len(reply) >= 3 and reply[0] in "ABCDE" and reply[1:3] == ". ":
        letter = reply[0]
    else:
        found = _THE_ANSWER_IS.findall(reply)
        letter = found[0] if len(found) == 1 else ""
    return letter if letter and letter in string.ascii_uppercase[: len(choices)] else None


def first_line(reply: str) -> str:
    """A short answer: the first line, without white space around it.

    Example:
        >>> first_line(" red\\nbecause it is")
        'red'
    """
    return reply.strip().split("\n")[0].strip()
