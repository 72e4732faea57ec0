"""A language model as judge, asked through any OpenAI-compatible endpoint, in the words of each benchmark's own tool.

    MM-Vet       question | truth | prediction ─▶ a number 0.0 to 1.0
    LLaVA-Bench  context, question, two answers ─▶ a line with two numbers 1 to 10

Each review is kept in a file, so that a call that is cut off goes on where it was. What this does *not* do: guess a
score from a review that has none; such an item stays without.
"""

import contextlib
import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from llava_core.errors import ConfigError, TesseraError
from pipelines.evaluation.items import Item
from pipelines.storage import join_uri, read_json, write_json

_ATTEMPTS, _PATIENCE_SECONDS, _THREADS = 4, 120.0, 8
_OF_THE_REQUEST = (400, 413, 422)
"""HTTP codes that refuse what was asked, as content filters and limits of the context do, and not who asks."""
_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
_RULE = (
    "We would like to request your feedback on the performance of two AI assistants in response to the user "
    "question displayed above. The user asks the question on observing an image. For your reference, the visual "
    "content in the image is represented with a few sentences describing the image. \nPlease rate the helpfulness, "
    "relevance, accuracy, level of details of their responses. Each assistant receives an overall score on a scale "
    "of 1 to 10, where a higher score indicates better overall performance.\nPlease first output a single line "
    "containing only two values indicating the scores for Assistant 1 and 2, respectively. The two scores are "
    "separated by a space.\nIn the subsequent line, please provide a comprehensive explanation of your evaluation, "
    "avoiding any potential bias and ensuring that the order in which the responses were presented does not affect "
    "your judgment."
)
_MMVET_HEAD = (
    "Compare the ground truth and prediction from AI models, to give a correctness score for the prediction. <AND> "
    "in the ground truth means it is totally right only when all elements in the ground truth are present in the "
    "prediction, and <OR> means it is totally right when any one element in the ground truth is present in the "
    "prediction. The correctness score is 0.0 (totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, or 1.0 "
    "(totally right). Just complete the last space of the correctness score.\n\nQuestion | Ground truth | "
    "Prediction | Correctness\n--- | --- | --- | ---\n"
)
_EQUATION = "What is x in the equation? | -1 <AND> -5"
_MEME = (
    "Can you explain this meme? | This meme is poking fun at the fact that the names of the countries Iceland and "
    "Greenland are misleading. Despite its name, Iceland is known for its beautiful green landscapes, while "
    "Greenland is mostly covered in ice and snow. The meme is saying that the person has trust issues because the "
    "names of these countries do not accurately represent their landscapes."
)
_MEME_POOR = (
    "The meme talks about Iceland and Greenland. It's pointing out that despite their names, Iceland is not very "
    "icy and Greenland isn't very green."
)
_MEME_GOOD = (
    "The meme is using humor to point out the misleading nature of Iceland's and Greenland's names. Iceland, "
    "despite its name, has lush green landscapes while Greenland is mostly covered in ice and snow. The text 'This "
    "is why I have trust issues' is a playful way to suggest that these contradictions can lead to distrust or "
    "confusion. The humor in this meme is derived from the unexpected contrast between the names of the countries "
    "and their actual physical characteristics."
)
_MMVET_SHOTS = "".join(
    f"{truth} | {given} | {score}\n"
    for truth, given, score in (
        (_EQUATION, "x = 3", "0.0"),
        (_EQUATION, "x = -1", "0.5"),
        (_EQUATION, "x = -5", "0.5"),
        (_EQUATION, "x = -5 or 5", "0.5"),
        (_EQUATION, "x = -1 or x = -5", "1.0"),
        (_MEME, _MEME_POOR, "0.4"),
        (_MEME, _MEME_GOOD, "1.0"),
    )
)


class JudgeError(TesseraError):
    """The judge's endpoint does not answer; running the job again goes on where it was."""


class JudgeRefused(JudgeError):
    """The judge's endpoint refuses one request, and would again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """Where the judge is."""

    url: str
    """Of the API, as "http://host/v1"."""
    model: str
    """Its name there."""


def ask_mmvet(item: Item, reply: str) -> list[dict[str, str]]:
    """Messages for one item of MM-Vet: its instructions and its seven examples, then the item."""
    truth = item.references[0].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    text = f"{_MMVET_HEAD}{_MMVET_SHOTS}{item.question} | {truth} | {reply} |"
    return [{"role": "user", "content": text}]


def read_mmvet(review: str) -> tuple[float, ...] | None:
    """The number that a review begins with, if it is 0 to 1.

    Example:
        >>> read_mmvet("0.7 | because"), read_mmvet("7"), read_mmvet("good")
        ((0.7,), None, None)
    """
    try:
        score = float(review.strip().split()[0].strip("|"))
    except (ValueError, IndexError):
        return None
    return (score,) if 0.0 <= score <= 1.0 else None


def ask_llava_bench(item: Item, reply: str) -> list[dict[str, str]]:
    """Messages for one item of LLaVA-Bench: the reference is Assistant 1, the model Assistant 2."""
    text = (
        f"[Context]\n{item.facts['context']}\n\n[Question]\n{item.question}\n\n"
        f"[Assistant 1]\n{item.references[0]}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{reply}\n\n[End of Assistant 2]\n\n[System]\n{_RULE}\n\n"
    )
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}]


def read_llava_bench(review: str) -> tuple[float, ...] | None:
    """Two numbers on the first line; the item's own score is the second as a share of 10.

    Example:
        >>> read_llava_bench("8, 6\\nAssistant 1 …"), read_llava_bench("8 out of 10")
        ((0.6, 8.0, 6.0), None)
    """
    words = review.strip().split("\n")[0].replace(",", " ").split()
    try:
        reference, score = map(float, words)
    except ValueError:
        return None
    return (score / 10, reference, score) if 0 < reference <= 10 and 0 <= score <= 10 else None


_KINDS: dict[str, tuple[Callable[[Item, str], list[dict[str, str]]], Callable[[str], tuple[float, ...] | None], float]]
_KINDS = {"mmvet": (ask_mmvet, read_mmvet, 0.0), "relative": (ask_llava_bench, read_llava_bench, 0.2)}
"""What is asked, how it is read, the temperature."""


def review_items(
    kind: str, pairs: Sequence[tuple[Item, str]], judge: Judge, kept: str
) -> list[tuple[float, ...] | str]:
    """Let a judge score replies.

    Args:
        kind: "mmvet" or "relative".
        pairs: items and replies.
        judge: where it is.
        kept: folder of reviews, local or of a store; those that it has are not asked again, new ones are added as they
            come.

    Returns:
        Values of each item; where it has none, why: the judge refused it, or its review has no score.

    Raises:
        JudgeError: the endpoint does not answer, or refuses all.
    """
    ask, read, temperature = _KINDS[kind]
    bodies = [
        {"model": judge.model, "messages": ask(item, reply), "temperature": temperature, "max_tokens": 1024}
        for item, reply in pairs
    ]
    once = {_name(body): body for body in bodies}
    with ThreadPoolExecutor(_THREADS) as pool:
        reviews = pool.map(lambda name: _review(judge, once[name], join_uri(kept, f"{name}.json")), once)
        found = dict(zip(once, reviews, strict=True))
    refusals = [one for one in found.values() if isinstance(one, JudgeRefused)]
    if refusals and len(refusals) == len(found):
        raise refusals[0]
    return [_read(found[_name(body)], read) for body in bodies]


def _name(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]


def _review(judge: Judge, body: dict[str, Any], kept: str) -> str | JudgeRefused:
    """The review that is kept, or a new one; refusals are not kept."""
    with contextlib.suppress(FileNotFoundError):
        return str(read_json(kept)["review"])
    try:
        review = _post(judge, body)
    except JudgeRefused as refusal:
        return refusal
    write_json(kept, {"review": review})
    return review


def _read(review: str | JudgeRefused, read: Callable[[str], tuple[float, ...] | None]) -> tuple[float, ...] | str:
    if isinstance(review, JudgeRefused):
        return str(review)
    values = read(review)
    return "the review has no score in its first line" if values is None else values


def _post(judge: Judge, body: dict[str, Any]) -> str:
    if not judge.url.startswith(("http://", "https://")):
        raise ConfigError(f"--judge-url {judge.url}: expected http:// or https://")
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(
        f"{judge.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers=headers
    )
    why = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(0.2 * 4**attempt)
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as response:
                review = json.loads(response.read())["choices"][0]["message"]["content"]
            if not isinstance(review, str):
                raise JudgeRefused(f"--judge-url {judge.url}: the answer to this request has no text")
            return review
        except urllib.error.HTTPError as error:
            why = f"HTTP {error.code}"
            if error.code in _OF_THE_REQUEST:
                raise JudgeRefused(f"--judge-url {judge.url}: {why} for this request") from error
            if error.code not in (408, 409, 429) and error.code < 500:
                break
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            why = f"{type(error).__name__}: {error}"
    raise JudgeError(f"--judge-url {judge.url}: {why}; reviews so far are kept, run the command again")
