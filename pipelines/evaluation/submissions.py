"""Files that test servers take: answers in each benchmark's official form.

What this does *not* do: send them anywhere.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

from llava_core.errors import ConfigError
from pipelines.evaluation.items import Judged
from pipelines.evaluation.vqa_metrics import normalise_evalai

Submission = Callable[[Sequence[Judged]], Mapping[str, bytes]]
"""Judged items, all of a split, in its order → file name → bytes."""


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _lines(values: Sequence[object]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def as_number(item_id: str) -> int | str:
    """An id as its benchmark has it: a whole number where it is one.

    Example:
        >>> as_number("42"), as_number("v1_3")
        (42, 'v1_3')
    """
    return int(item_id) if item_id.isascii() and item_id.isdigit() else item_id


def vqa_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """VQAv2, OK-VQA, TextVQA: ids and answers, normalised as LLaVA's conversion does."""
    rows = [
        {"question_id": as_number(one.item.item_id), "answer": normalise_evalai(one.answer or "")} for one in judged
    ]
    return {"submission.json": _json(rows)}


def vizwiz_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """VizWiz: names of images and answers."""
    rows = [{"image": one.item.item_id, "answer": normalise_evalai(one.answer or "")} for one in judged]
    return {"submission.json": _json(rows)}


def gqa_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """GQA's prediction file."""
    rows = [{"questionId": one.item.item_id, "prediction": (one.answer or "").rstrip(".").lower()} for one in judged]
    return {"submission.json": _json(rows)}


def rrc_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """DocVQA and InfographicVQA, for the Robust Reading server."""
    rows = [{"questionId": as_number(one.item.item_id), "answer": one.answer or ""} for one in judged]
    return {"submission.json": _json(rows)}


def aokvqa_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """A-OKVQA: the chosen option's text, or the direct answer."""
    rows = {}
    for one in judged:
        if one.item.choices:
            place = "ABCDEFGH".find(one.answer or "?")
            rows[one.item.item_id] = {"multiple_choice": one.item.choices[place] if place >= 0 else ""}
        else:
            rows[one.item.item_id] = {"direct_answer": one.answer or ""}
    return {"submission.json": _json(rows)}


def seed_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """SEED-Bench's leaderboard."""
    return {"submission.jsonl": _lines([{"question_id": one.item.item_id, "prediction": one.reply} for one in judged])}


def pope_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """POPE's answer files, one for each category."""
    kinds = dict.fromkeys(one.item.category for one in judged)
    return {
        f"answers_{kind}.jsonl": _lines(
            [{"question": one.item.question, "answer": one.reply} for one in judged if one.item.category == kind]
        )
        for kind in kinds
    }


def mme_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """MME's result folder: a text file for each subtask with image, question, truth and reply."""
    files: dict[str, str] = {}
    for one in judged:
        facts = one.item.facts
        reply = " ".join(one.reply.split())
        line = "\t".join((facts["file"], facts["question"], facts["label"], reply)) + "\n"
        name = f"mme/{one.item.category}.txt"
        files[name] = files.get(name, "") + line
    return {name: text.encode() for name, text in files.items()}


def mmvet_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """MM-Vet's results file."""
    return {"submission.json": json.dumps({one.item.item_id: one.reply for one in judged}, indent=2).encode()}


def llava_bench_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """LLaVA-Bench's answers file."""
    rows = [
        {"question_id": as_number(one.item.item_id), "prompt": one.item.prompt, "text": one.reply} for one in judged
    ]
    return {"answers.jsonl": _lines(rows)}


def coco_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """COCO's caption results."""
    rows = [{"image_id": as_number(one.item.item_id), "caption": one.answer or ""} for one in judged]
    return {"submission.json": _json(rows)}


def mmbench_submission(judged: Sequence[Judged]) -> Mapping[str, bytes]:
    """MMBench's table with a column `prediction` after the options; see `check_installed`."""
    from openpyxl import Workbook

    known = [name for name in ("answer", "split") if any(name in one.item.facts for one in judged)]
    head = ["index", "question", "A", "B", "C", "D", "prediction", *known]
    book = Workbook()
    sheet = book.active
    sheet.append(head)
    for one in judged:
        cells = {**one.item.facts, "prediction": one.reply, "index": as_number(one.item.facts["index"])}
        sheet.append([cells.get(name, "") for name in head])
    file = io.BytesIO()
    book.save(file)
    return {"submission.xlsx": file.getvalue()}


def check_installed(submission: Submission | None) -> None:
    """Hold a submission to the package that it needs, before anything is asked.

    Raises:
        ConfigError: openpyxl, of the extra "evaluate", is not installed.
    """
    if submission is mmbench_submission and find_spec("openpyxl") is None:
        raise ConfigError("MMBench's server takes .xlsx files: pip install -c constraints.txt -e '.[evaluate]'")
