"""A small folder in the official form of every benchmark, written by the tests, and answerers to run over them."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.evaluation.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from pipelines.evaluation.items import Item, Judged
from pipelines.evaluation.scoring import Joined, Reply, Result, join, judge_items, make_result
from pipelines.evaluation.sources import Source

SCORED = tuple(one.name for one in BENCHMARKS if one.judge is None)
"""Benchmarks that no judge is needed for."""


def put(folder: Path, name: str, value: Any) -> None:
    """Write JSON, or JSONL for a list of lines under a name that ends in .jsonl or is POPE's."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = name.endswith(".jsonl") or "pope" in name or name == "test/test.json"
    path.write_text("".join(json.dumps(one) + "\n" for one in value) if lines else json.dumps(value))


def jpeg(shade: int) -> bytes:
    """A tiny picture."""
    file = io.BytesIO()
    Image.new("RGB", (12, 8), (shade, 90, 10)).save(file, "JPEG")
    return file.getvalue()


def _ten(*answers: str) -> list[dict[str, Any]]:
    return [{"answer": one, "answer_id": place, "answer_confidence": "yes"} for place, one in enumerate(answers)]


def _vqa(folder: Path, questions: str, annotations: str) -> None:
    asked = [
        {"question_id": 7, "image_id": 42, "question": "Is it?"},
        {"question_id": 9, "image_id": 42, "question": "How many?"},
        {"question_id": 8, "image_id": 43, "question": "Which colour?"},
    ]
    answers = {7: ["yes"] * 10, 9: ["2"] * 10, 8: ["red"] * 9 + ["blue"]}
    kinds = {7: "yes/no", 9: "number", 8: "other"}
    put(folder, questions, {"questions": asked})
    truth = [{"question_id": key, "answer_type": kinds[key], "answers": _ten(*value)} for key, value in answers.items()]
    put(folder, annotations, {"annotations": truth})


def _vqav2(folder: Path) -> None:
    _vqa(folder, "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json")


def _okvqa(folder: Path) -> None:
    _vqa(folder, "OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json")


def _gqa(folder: Path) -> None:
    value = {
        "20": {"question": "Is it red?", "imageId": "n1", "answer": "yes", "types": {"structural": "verify"}},
        "21": {"question": "What is it?", "imageId": "n2", "answer": "dog", "types": {"structural": "query"}},
    }
    put(folder, "testdev_balanced_questions.json", value)


def _vizwiz(folder: Path) -> None:
    rows = [
        {"image": "a.jpg", "question": "What?", "answers": _ten(*["unanswerable"] * 10), "answer_type": "unanswerable"},
        {"image": "b.jpg", "question": "Why?", "answers": _ten(*["yes"] * 10), "answer_type": "yes/no"},
    ]
    put(folder, "val.json", rows)


def _textvqa(folder: Path) -> None:
    rows = [
        {"question_id": 1, "image_id": "x", "question": "what brand?", "answers": ["dakota"] * 10},
        {"question_id": 2, "image_id": "y", "question": "is it?", "answers": ["yes"] * 10},
    ]
    put(folder, "TextVQA_0.5.1_val.json", {"data": rows})
    put(folder, "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": [{"image_id": "x", "ocr_tokens": ["DAKOTA", "55"]}]})


def _aokvqa(folder: Path) -> None:
    rows = [
        {
            "question_id": name,
            "image_id": image,
            "question": "Is this a bus?",
            "choices": ["no", "maybe", "yes"],
            "correct_choice_idx": right,
            "direct_answers": answers,
            "difficult_direct_answer": hard,
        }
        for name, image, right, answers, hard in (
            ("q1", 5, 2, ["yes"] * 10, False),
            ("q2", 6, 0, ["no"] * 10, False),
            ("q3", 6, 1, ["maybe"] * 10, True),
        )
    ]
    put(folder, "aokvqa_v1p0_val.json", rows)


def _docvqa(folder: Path) -> None:
    rows = [
        {
            "questionId": 11,
            "question": "Is it signed?",
            "image": "documents/a.png",
            "answers": ["yes"],
            "question_types": ["form"],
            "data_split": "val",
        },
        {
            "questionId": 12,
            "question": "Date?",
            "image": "documents/a.png",
            "answers": ["1 May", "May 1"],
            "question_types": ["table/list"],
            "data_split": "val",
        },
    ]
    put(folder, "val_v1.0_withQT.json", {"data": rows})


def _infographicvqa(folder: Path) -> None:
    rows = [
        {"questionId": 1, "question": "Is it?", "image_local_name": "1.jpeg", "answers": ["yes"]},
        {"questionId": 2, "question": "Share?", "image_local_name": "2.jpeg", "answers": ["40%"]},
    ]
    put(folder, "infographicsVQA_val_v1.0_withQT.json", {"data": rows})


def _chartqa(folder: Path) -> None:
    put(folder, "test/test_human.json", [{"imgname": "a.png", "query": "Is it?", "label": "Yes"}])
    rows = [{"imgname": "b.png", "query": "Value?", "label": "40"}, {"imgname": "b.png", "query": "Max?", "label": "0"}]
    put(folder, "test/test_augmented.json", rows)


def _ocrvqa(folder: Path) -> None:
    book = {"imageURL": "http://x/y.gif", "questions": ["Is it?", "Who?"], "answers": ["Yes", "Ann B."], "split": 3}
    put(folder, "dataset.json", {"111": book, "222": {**book, "split": 1}})


def _scienceqa(folder: Path) -> None:
    one = {"question": "Which?", "choices": ["yes", "no", "so"], "answer": 1, "hint": "", "image": "image.png"}
    problems = {
        "4": {**one, "subject": "natural science"},
        "5": {**one, "answer": 0, "hint": "It rains.", "subject": "social science"},
        "6": {**one, "image": None},
    }
    put(folder, "problems.json", problems)
    put(folder, "pid_splits.json", {"test": ["4", "5", "6"]})


def _pope(folder: Path) -> None:
    for kind in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": 1, "image": "i.jpg", "text": "Is there a dog in the image?", "label": "yes"},
            {"question_id": 2, "image": "i.jpg", "text": "Is there a cat in the image?", "label": "no"},
            {"question_id": 3, "image": "j.jpg", "text": "Is there a car in the image?", "label": "no"},
            {"question_id": 4, "image": "j.jpg", "text": "Is there a bus in the image?", "label": "yes"},
        ]
        put(folder, f"coco_pope_{kind}.json", rows)


def _mmbench(folder: Path) -> None:
    head = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "split"]
    picture = base64.b64encode(jpeg(200)).decode()
    rows = [
        ["3", "Which?", "nan", "yes", "no", "so", "", "C", "color", picture, "dev"],
        ["5", 'Say "it"?', "Look.", "up", "down", "", "", "A", "shape", picture, "dev"],
    ]
    lines = ["\t".join(head), *("\t".join(f'"{x.replace(chr(34), chr(34) * 2)}"' for x in row) for row in rows)]
    (folder / "mmbench_dev_20230712.tsv").write_text("\n".join(lines) + "\n")


def _mme(folder: Path) -> None:
    ask = "Please answer yes or no."
    for path, first, second in (
        ("existence/1", "Is a dog there?", "Is a cat there?"),
        ("OCR/2", "Is it A?", "Is it B?"),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{path}.txt").write_text(f"{first} {ask}\tYes\n{second} {ask}\tNo\n")
        (folder / f"{path}.jpg").write_bytes(jpeg(10))
    (folder / "artwork/images").mkdir(parents=True)
    (folder / "artwork/questions_answers_YN").mkdir()
    (folder / "artwork/images/3.jpg").write_bytes(jpeg(30))
    (folder / "artwork/questions_answers_YN/3.txt").write_text(f"Old? {ask}\tYes\nNew? {ask}\tNo\n")


def _seed(folder: Path) -> None:
    one = {
        "data_id": "1_a",
        "data_type": "image",
        "question": "Which?",
        "answer": "B",
        "question_type_id": 1,
        **{f"choice_{letter}": letter * 2 for letter in "abcd"},
    }
    rows = [{**one, "question_id": "101"}, {**one, "question_id": "102", "answer": "D"}]
    rows.append({**one, "question_id": "v1", "data_type": "video"})
    put(folder, "SEED-Bench.json", {"questions": rows, "question_type": {"Scene Understanding": 1}})


def _nlvr(folder: Path) -> None:
    rows = [
        {"sentence": "A box is black.", "label": "true", "identifier": "1-0", "directory": "4"},
        {"sentence": "A box is blue.", "label": "false", "identifier": "1-1", "directory": "4"},
        {"sentence": "A box is red.", "label": "true", "identifier": "7-0", "directory": "5"},
    ]
    put(folder, "test/test.json", rows)
    for name in ("4/test-1-0-0", "4/test-1-0-3", "4/test-1-1-0"):
        path = folder / f"test/images/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (3, 200, 10)).save(path)


def _coco(folder: Path) -> None:
    images = [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}, {"id": 43, "file_name": "b.jpg"}]
    said = [(42, "A dog runs on green grass"), (43, "Two red buses wait here"), (42, "A dog is running outside")]
    put(
        folder,
        "captions_val2014.json",
        {"images": images, "annotations": [{"image_id": key, "caption": text} for key, text in said]},
    )
    names = [{"id": 1, "name": "dog"}, {"id": 2, "name": "bus"}]
    there = [{"image_id": 42, "category_id": 1}, {"image_id": 43, "category_id": 2}]
    put(folder, "instances_val2014.json", {"categories": names, "annotations": there})


def _flickr(folder: Path) -> None:
    rows = [
        {"imgid": 0, "filename": "1.jpg", "split": "test", "sentences": [{"raw": "A child plays with a big ball."}]},
        {"imgid": 1, "filename": "2.jpg", "split": "test", "sentences": [{"raw": "Men are working on the street."}]},
        {"imgid": 2, "filename": "3.jpg", "split": "train", "sentences": [{"raw": "No."}]},
    ]
    put(folder, "dataset_flickr30k.json", {"images": rows})


def _mmvet(folder: Path) -> None:
    value = {
        "v1_0": {
            "imagename": "v1_0.png",
            "question": "What is x?",
            "answer": "-1<AND>-5",
            "capability": ["ocr", "math"],
        },
        "v1_1": {"imagename": "v1_1.png", "question": "Where?", "answer": "Rome", "capability": ["rec"]},
    }
    put(folder, "mm-vet.json", value)


def _llava_bench(folder: Path) -> None:
    rows = [
        {"question_id": 0, "image": "001.jpg", "text": "Where is it?", "category": "conv"},
        {"question_id": 1, "image": "001.jpg", "text": "Describe it.", "category": "detail"},
    ]
    put(folder, "questions.jsonl", rows)
    put(folder, "context.jsonl", [{"id": "001", "image": "001.jpg", "caption": "Diamond Head, Hawaii."}])
    put(folder, "answers_gpt4.jsonl", [{"question_id": 0, "text": "Hawaii."}, {"question_id": 1, "text": "A coast."}])


def _drawn(folder: Path) -> None:
    def drawing(name: str, kind: str, rounds: list[tuple[str, str, str]], things: list[list[str]]) -> dict[str, Any]:
        turns = []
        for place, (_, question, answer) in enumerate(rounds):
            turns.append({"from": "human", "value": ("" if place else "<image>\n") + question})
            turns.append({"from": "gpt", "value": answer})
        truth = {"kind": kind, "tasks": [task for task, _, _ in rounds], "things": things}
        return {"id": name, "image": f"images/{name}.png", "conversations": turns, "truth": truth}

    rounds = [
        ("presence", "Is there a circle?", "yes"),
        ("caption", "Describe the image.", "A red circle above a blue square on white."),
    ]
    chart = [("values", "What are the values?", "59, 6"), ("value", "What is the value of T?", "6")]
    sign = [
        ("caption", "Describe the image.", "A white sign that says SHABYAT."),
        ("word", "What does it say?", "SHABYAT"),
    ]
    rows = [
        drawing("0", "scene", rounds, [["circle", "red"], ["square", "blue"]]),
        drawing("1", "chart", chart, []),
        drawing("2", "sign", sign, []),
    ]
    put(folder, "drawn.jsonl", rows)
    (folder / "images").mkdir()
    for name in "012":
        Image.new("RGB", (12, 8), (3, 20, 210)).save(folder / f"images/{name}.png")


WRITERS: dict[str, Callable[[Path], None]] = {
    "vqav2": _vqav2,
    "gqa": _gqa,
    "vizwiz": _vizwiz,
    "textvqa": _textvqa,
    "okvqa": _okvqa,
    "aokvqa": _aokvqa,
    "aokvqa-direct": _aokvqa,
    "docvqa": _docvqa,
    "infographicvqa": _infographicvqa,
    "chartqa": _chartqa,
    "ocrvqa": _ocrvqa,
    "scienceqa": _scienceqa,
    "pope": _pope,
    "mmbench": _mmbench,
    "mmbench-circular": _mmbench,
    "mme": _mme,
    "seed": _seed,
    "mmvet": _mmvet,
    "llava-bench": _llava_bench,
    "nlvr": _nlvr,
    "coco-captions": _coco,
    "flickr-captions": _flickr,
    "drawn": _drawn,
    "drawn-captions": _drawn,
}


def items_of(name: str, folder: Path, *, ocr: bool = False) -> list[Item]:
    """Write a benchmark's fixture and read it."""
    WRITERS[name](folder)
    benchmark = find_benchmark(name)
    return benchmark.read(Source(benchmark=name, folder=str(folder), split=benchmark.splits[0], ocr=ocr))


def scored(
    benchmark: Benchmark, items: list[Item], answer: Callable[[Item], str | None], parser: str | None = None
) -> tuple[list[Judged], Joined, Result]:
    """Score an answerer, which says nothing for None."""
    replies = [Reply(item_id=item.item_id, text=answer(item)) for item in items]
    joined = join(items, replies)
    judged = judge_items(benchmark, benchmark.parsers[parser or next(iter(benchmark.parsers))], joined.pairs)
    return judged, joined, make_result(benchmark, judged, joined, len(items))


def perfect(item: Item) -> str:
    """The right answer."""
    return item.references[0]
