"""Readers of the benchmarks that ask for a word or phrase about a photo: official files in, items out.

File names and forms are as their authors publish them; images are named below the folder of images as COCO, Open
Images or the benchmark itself lays them out. What this does *not* do: score (`benchmarks` says how).
"""

from collections.abc import Mapping
from typing import Any

from llava_core.prompts import CHOICE_SUFFIX, SHORT_SUFFIX
from pipelines.evaluation.items import Item
from pipelines.evaluation.sources import Source, records

UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
_VQA, _GQA = "https://visualqa.org/download.html", "https://cs.stanford.edu/people/dorarad/gqa/download.html"


def short(question: str) -> str:
    """A question with the suffix for short answers."""
    return f"{question}\n{SHORT_SUFFIX}"


def lettered(question: str, choices: tuple[str, ...]) -> str:
    """A question with its options and the suffix for letters."""
    options = (f"{letter}. {choice}" for letter, choice in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", choices, strict=False))
    return "\n".join([question, *options, CHOICE_SUFFIX])


def coco_image(split: str, image_id: int) -> str:
    """Path of a COCO 2014 or 2015 image.

    Example:
        >>> coco_image("val2014", 42)
        'val2014/COCO_val2014_000000000042.jpg'
    """
    return f"{split}/COCO_{split}_{int(image_id):012d}.jpg"


def read_vqav2(source: Source) -> list[Item]:
    """VQAv2: questions, and annotations where they are public."""
    images = {"val": "val2014", "test-dev": "test2015", "test": "test2015"}[source.split]
    name = {"val": "val2014", "test-dev": "test-dev2015", "test": "test2015"}[source.split]
    questions = [f"v2_OpenEnded_mscoco_{name}_questions.json"]
    annotations = ["v2_mscoco_val2014_annotations.json"] if source.split == "val" else None
    return _read_vqa(source, questions, annotations, images, _VQA)


def read_okvqa(source: Source) -> list[Item]:
    """OK-VQA, validation (its test set)."""
    where = "https://okvqa.allenai.org/download.html"
    questions = ["OpenEnded_mscoco_val2014_questions.json"]
    return _read_vqa(source, questions, ["mscoco_val2014_annotations.json"], "val2014", where)


def _read_vqa(
    source: Source, questions: list[str], annotations: list[str] | None, images: str, where: str
) -> list[Item]:
    asked = source.json(questions, where)
    known: dict[int, Mapping[str, Any]] = {}
    if annotations is not None:
        listed = source.json(annotations, where)
        needs = ("question_id", "answers")
        known = {one["question_id"]: one for one in records(source, listed["annotations"], annotations[0], needs)}
    items = []
    for one in records(source, asked["questions"], questions[0], ("question_id", "image_id", "question")):
        truth = known.get(one["question_id"])
        if annotations is not None and truth is None:
            raise source.broken(annotations[0], f"question {one['question_id']} has no annotation; is it this split?")
        items.append(
            Item(
                item_id=str(one["question_id"]),
                image=coco_image(images, one["image_id"]),
                question=one["question"],
                prompt=short(one["question"]),
                references=tuple(answer["answer"] for answer in truth["answers"]) if truth else (),
                category=str(truth.get("answer_type", "")) if truth else "",
            )
        )
    return items


def read_vizwiz(source: Source) -> list[Item]:
    """VizWiz; ids are the names of images, one question each."""
    name = f"{source.split}.json"
    listed = source.json([name, f"Annotations/{name}"], "https://vizwiz.org/tasks-and-datasets/vqa/")
    return [
        Item(
            item_id=one["image"],
            image=f"{source.split}/{one['image']}",
            question=one["question"],
            prompt=short(f"{one['question']}\n{UNANSWERABLE}"),
            references=tuple(answer["answer"] for answer in one.get("answers", ())),
            category=one.get("answer_type", ""),
        )
        for one in records(source, listed, name, ("image", "question"))
    ]


def read_textvqa(source: Source) -> list[Item]:
    """TextVQA; with OCR tokens only where they are asked for (`--ocr-tokens`)."""
    where, name = "https://textvqa.org/dataset/", f"TextVQA_0.5.1_{source.split}.json"
    listed = source.json([name], where)["data"]
    tokens: dict[str, list[str]] = {}
    if source.ocr:
        found = source.json([f"TextVQA_Rosetta_OCR_v0.2_{source.split}.json"], where)["data"]
        tokens = {one["image_id"]: one["ocr_tokens"] for one in found}
    folder = "test_images" if source.split == "test" else "train_images"
    items = []
    for one in records(source, listed, name, ("question_id", "image_id", "question")):
        hint = f"\nReference OCR token: {', '.join(tokens.get(one['image_id'], []))}" if source.ocr else ""
        items.append(
            Item(
                item_id=str(one["question_id"]),
                image=f"{folder}/{one['image_id']}.jpg",
                question=one["question"],
                prompt=short(one["question"] + hint),
                references=tuple(one.get("answers", ())),
            )
        )
    return items


def read_gqa(source: Source) -> list[Item]:
    """GQA; categories are the structural types."""
    name = {"testdev": "testdev_balanced_questions.json", "val": "val_balanced_questions.json"}[source.split]
    listed = source.json([name, f"questions1.2/{name}"], _GQA)
    records_ = [{"id": key, **value} for key, value in listed.items()]
    return [
        Item(
            item_id=str(one["id"]),
            image=f"images/{one['imageId']}.jpg",
            question=one["question"],
            prompt=short(one["question"]),
            references=(one["answer"],) if "answer" in one else (),
            category=one.get("types", {}).get("structural", ""),
        )
        for one in records(source, records_, name, ("imageId", "question"))
    ]


def read_ocrvqa(source: Source) -> list[Item]:
    """OCR-VQA: five or so questions about each book cover."""
    wanted = {"train": 1, "val": 2, "test": 3}[source.split]
    listed = source.json(["dataset.json"], "https://ocr-vqa.github.io/")
    items = []
    for key, book in listed.items():
        if book["split"] != wanted:
            continue
        ending = book.get("imageURL", ".jpg").rpartition(".")[2] or "jpg"
        for place, (question, answer) in enumerate(zip(book["questions"], book["answers"], strict=True)):
            items.append(
                Item(
                    item_id=f"{key}/{place}",
                    image=f"images/{key}.{ending}",
                    question=question,
                    prompt=short(question),
                    references=(answer,),
                )
            )
    return items


def _aokvqa(source: Source) -> tuple[str, list[Mapping[str, Any]]]:
    name = f"aokvqa_v1p0_{source.split}.json"
    listed = source.json([name], "https://github.com/allenai/aokvqa")
    return name, list(records(source, listed, name, ("question_id", "image_id", "question", "choices")))


def _coco2017(split: str, image_id: int) -> str:
    return f"{split}2017/{int(image_id):012d}.jpg"


def read_aokvqa_choice(source: Source) -> list[Item]:
    """A-OKVQA, multiple choice."""
    return [
        Item(
            item_id=one["question_id"],
            image=_coco2017(source.split, one["image_id"]),
            question=one["question"],
            prompt=lettered(one["question"], tuple(one["choices"])),
            references=("ABCDEFGH"[one["correct_choice_idx"]],) if "correct_choice_idx" in one else (),
            choices=tuple(one["choices"]),
        )
        for one in _aokvqa(source)[1]
    ]


def read_aokvqa_direct(source: Source) -> list[Item]:
    """A-OKVQA, direct answers; those marked as difficult are left out, as its authors do."""
    return [
        Item(
            item_id=one["question_id"],
            image=_coco2017(source.split, one["image_id"]),
            question=one["question"],
            prompt=short(one["question"]),
            references=tuple(one.get("direct_answers", ())),
        )
        for one in _aokvqa(source)[1]
        if one.get("difficult_direct_answer") is not True
    ]
