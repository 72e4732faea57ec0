"""VQA accuracy as its two reference scripts compute it, quirks included.

    vqa_accuracy       VQAv2, OK-VQA, VizWiz: `vqaEval.py` of the benchmark's authors
    textvqa_accuracy   TextVQA: `TextVQAAccuracyEvaluator` of Pythia, as LLaVA's own evaluation runs it

They differ: the first leaves a colon and an apostrophe alone and touches annotators' answers only where these disagree;
the second lowers and normalises both sides. What this does *not* do: read a reply out of a longer text.
"""

import functools
import re
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_DIGIT_COMMA = re.compile(r"\d,\d")
_DIGIT_COMMAS = re.compile(r"(?<=\d),+(?=\d)")
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_STOPS = int(re.UNICODE)
"""Both scripts pass the flag re.UNICODE where `sub` takes a count, so at most 32 full stops are removed."""
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"} | {
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's
where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
y'all'd've you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    """Misspelt contraction → contraction; a doubly contracted word may lack either apostrophe or both.

    The scripts' table lacks both apostrophes for none of the double ones, except where listed here.
    """
    table: dict[str, str] = {}
    for word in _CONTRACTED.split():
        places = [place for place, letter in enumerate(word) if letter == "'"]
        if len(places) == 1:
            table[word.replace("'", "")] = word
        else:
            table |= {word[:place] + word[place + 1 :]: word for place in places}
    return table | _IRREGULAR


_IRREGULAR = {
    "'ow'sat": "'ow's'at",
    "'ows'at": "'ow's'at",
    "ow's'at": "'ow's'at",
    "somebody'd": "somebodyd",
    "y'allll": "y'all'll",
    "yall'll": "y'all'll",
    "y'all'dve": "y'all'd've",
    "y'alld've": "y'all'd've",
    "yall'd've": "y'all'd've",
}
CONTRACTIONS = _contractions()
"""As in both scripts, less the entries with capitals (Im, Ive, Id've), which lowered text never meets."""


def _strip_punctuation(text: str, comma: re.Pattern[str]) -> str:
    digits_with_comma = comma.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        # every mark that touches a space anywhere vanishes everywhere; so do all marks if any number has a comma
        gone = digits_with_comma or mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if gone else " ")
    return _FULL_STOP.sub("", out, count=_MOST_STOPS)


def _fold_words(text: str) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(maxsize=1 << 18)
def normalise_vqa(text: str) -> str:
    """Normalise a prediction as `vqaEval.py` does.

    Example:
        >>> normalise_vqa("Two dogs, a cat."), normalise_vqa("1,000"), normalise_vqa("dont know")
        ('2 dogs cat', '1000', "don't know")
    """
    return _fold_words(_strip_punctuation(_on_one_line(text), _DIGIT_COMMA))


@functools.lru_cache(maxsize=1 << 18)
def normalise_evalai(text: str) -> str:
    """Normalise as `EvalAIAnswerProcessor` does: what LLaVA submits to test servers, and what TextVQA compares.

    Example:
        >>> normalise_evalai("The dog's bowl?"), normalise_evalai("None")
        ("dog 's bowl", '0')
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _fold_words(_strip_punctuation(_on_one_line(text), _DIGIT_COMMAS))


@functools.lru_cache(maxsize=1 << 18)
def _annotated(reference: str) -> str:
    return _strip_punctuation(reference, _DIGIT_COMMA)


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Score an answer against its annotators': the mean, over each left out, of min(1, matches among the others / 3).

    Args:
        prediction: as the model gave it; normalised here.
        references: one for each annotator, usually 10. Stripped of punctuation only if they are not all the same, and
            neither lowered nor freed of articles, which the benchmark's files have done already.

    Returns:
        0 to 1.

    Source: GT-Vision-Lab/VQA, `PythonEvaluationTools/vqaEvaluation/vqaEval.py`.

    Example:
        >>> vqa_accuracy("Two.", ["2"] * 3 + ["3"] * 7)
        0.9
        >>> vqa_accuracy("2", ["2"] * 10), vqa_accuracy("cat", ["2"] * 10)
        (1.0, 0.0)
    """
    agreed = len(set(references)) == 1
    given = references if agreed else [_annotated(one) for one in references]
    return _leave_one_out(normalise_vqa(prediction), given)


def textvqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Score an answer as TextVQA's evaluation in LLaVA does: both sides by `normalise_evalai`.

    Args:
        prediction: as the model gave it.
        references: one for each annotator.

    Returns:
        0 to 1.

    Source: LLaVA, `llava/eval/m4c_evaluator.py`, `TextVQAAccuracyEvaluator`.

    Example:
        >>> textvqa_accuracy("Dakota, Digital", ["dakota digital"] * 2 + ["nous les gosses"] * 8)
        0.6
    """
    return _leave_one_out(normalise_evalai(prediction), [normalise_evalai(one) for one in references])


def _leave_one_out(prediction: str, references: Sequence[str]) -> float:
    total = len(references)
    if not total:
        return 0.0
    matches = Counter(references)[prediction]
    # the matching annotators each see one match less among the others than those that do not match
    tenths = matches * min(3, max(matches - 1, 0)) + (total - matches) * min(3, matches)
    return tenths / (3 * total)
