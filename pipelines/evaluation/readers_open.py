"""Readers of the benchmarks whose answers are sentences: judged ones, captions, and the project's own drawings.

What this does *not* do: score or judge (`benchmarks`, `judge`).
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.evaluation.items import Item
from pipelines.evaluation.sources import Source, records
from pipelines.storage import exists, join_uri, read_json

CAPTION_PROMPT = "Provide a one-sentence caption for the provided image."
_LLAVA_BENCH = "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
_KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/"


def read_llava_bench(source: Source) -> list[Item]:
    """LLaVA-Bench (in the wild): questions, what the images show in words, and GPT-4's answers."""
    asked = source.lines(["questions.jsonl"], _LLAVA_BENCH)
    context = {one["image"]: one["caption"] for one in source.lines(["context.jsonl"], _LLAVA_BENCH)}
    answers = {one["question_id"]: one["text"] for one in source.lines(["answers_gpt4.jsonl"], _LLAVA_BENCH)}
    items = []
    for one in records(source, asked, "questions.jsonl", ("question_id", "image", "text", "category")):
        caption = context.get(one["image"], "")
        items.append(
            Item(
                item_id=str(one["question_id"]),
                image=f"images/{one['image']}",
                question=one["text"],
                prompt=one["text"],
                references=(answers[one["question_id"]],),
                category=one["category"],
                facts={"context": caption if isinstance(caption, str) else "\n".join(caption)},
            )
        )
    return items


def read_mmvet(source: Source) -> list[Item]:
    """MM-Vet; the category is the combination of capabilities."""
    listed = source.json(["mm-vet.json"], "https://github.com/yuweihao/MM-Vet")
    values = [{"id": key, **value} for key, value in listed.items()]
    return [
        Item(
            item_id=one["id"],
            image=f"images/{one['imagename']}",
            question=one["question"],
            prompt=one["question"],
            references=(one["answer"],),
            category="+".join(sorted(one.get("capability", ()))),
        )
        for one in records(source, values, "mm-vet.json", ("imagename", "question", "answer"))
    ]


def read_coco_captions(source: Source) -> list[Item]:
    """COCO captions: Karpathy's split if his file is there, else the official annotations of val2014.

    Where `instances_val2014.json` is there too, the objects of each image come along, for CHAIR.
    """
    if source.split == "test" or exists(join_uri(source.folder, "dataset_coco.json")):
        items = _karpathy(source, "dataset_coco.json", lambda one: f"{one['filepath']}/{one['filename']}", "cocoid")
    else:
        listed = source.json(["captions_val2014.json", "annotations/captions_val2014.json"], "https://cocodataset.org")
        said: dict[int, list[str]] = {}
        for one in records(source, listed["annotations"], "captions_val2014.json", ("image_id", "caption")):
            said.setdefault(one["image_id"], []).append(one["caption"])
        items = [
            _caption_item(str(one["id"]), f"val2014/{one['file_name']}", said.get(one["id"], ()))
            for one in records(source, listed["images"], "captions_val2014.json", ("id", "file_name"))
        ]
    return _with_objects(items, source)


def read_flickr_captions(source: Source) -> list[Item]:
    """Flickr30k captions, Karpathy's split."""
    return _karpathy(source, "dataset_flickr30k.json", lambda one: f"flickr30k-images/{one['filename']}", "imgid")


def _karpathy(source: Source, name: str, path: Any, key: str) -> list[Item]:
    listed = source.json([name], _KARPATHY)
    return [
        _caption_item(str(one[key]), path(one), [said["raw"] for said in one["sentences"]])
        for one in records(source, listed["images"], name, ("filename", "split", "sentences", key))
        if one["split"] == source.split
    ]


def _caption_item(item_id: str, image: str, captions: Iterable[str], **facts: str) -> Item:
    return Item(
        item_id=item_id,
        image=image,
        question=CAPTION_PROMPT,
        prompt=CAPTION_PROMPT,
        references=tuple(captions),
        facts=facts,
    )


def _with_objects(items: list[Item], source: Source) -> list[Item]:
    uris = [join_uri(source.folder, name) for name in ("instances_val2014.json", "annotations/instances_val2014.json")]
    uri = next((one for one in uris if exists(one)), None)
    if uri is None:
        return items
    listed: Mapping[str, Any] = read_json(uri)
    names = {one["id"]: one["name"] for one in listed["categories"]}
    there: dict[str, set[str]] = {}
    for one in listed["annotations"]:
        there.setdefault(str(one["image_id"]), set()).add(names[one["category_id"]])
    vocabulary = json.dumps(sorted(names.values()))
    return [
        _caption_item(
            item.item_id,
            item.image,
            item.references,
            objects=json.dumps(sorted(there.get(item.item_id, ()))),
            vocabulary=vocabulary,
        )
        for item in items
    ]


def _drawings(source: Source) -> list[Mapping[str, Any]]:
    listed = source.lines(["drawn.jsonl"], "the job itself, which draws it where --data is not given")
    return list(records(source, listed, "drawn.jsonl", ("id", "image", "conversations", "truth")))


def _rounds(drawing: Mapping[str, Any]) -> list[tuple[int, str, str, str]]:
    """(place, task, question, answer) of a drawing's conversation."""
    turns = [turn["value"].removeprefix("<image>").strip() for turn in drawing["conversations"]]
    tasks = drawing["truth"]["tasks"]
    return [(place, tasks[place], turns[2 * place], turns[2 * place + 1]) for place in range(len(tasks))]


def read_drawn(source: Source) -> list[Item]:
    """The project's drawings: every question but the request for a caption; categories are what is asked for."""
    return [
        Item(
            item_id=f"{one['id']}/{place}",
            image=one["image"],
            question=question,
            prompt=question,
            references=(answer,),
            category=f"{one['truth']['kind']}: {task}",
            facts={"task": task},
        )
        for one in _drawings(source)
        for place, task, question, answer in _rounds(one)
        if task != "caption"
    ]


def read_drawn_captions(source: Source) -> list[Item]:
    """The captions of the project's drawings, and for scenes the shapes that are there, for CHAIR."""
    drawings = _drawings(source)
    vocabulary = json.dumps(sorted({thing[0] for one in drawings for thing in one["truth"]["things"]}))
    items = []
    for one in drawings:
        shapes = sorted({thing[0] for thing in one["truth"]["things"]})
        objects = {"objects": json.dumps(shapes), "vocabulary": vocabulary} if one["truth"]["kind"] == "scene" else {}
        for place, task, question, answer in _rounds(one):
            if task == "caption":
                items.append(
                    Item(
                        item_id=f"{one['id']}/{place}",
                        image=one["image"],
                        question=question,
                        prompt=question,
                        references=(answer,),
                        category=one["truth"]["kind"],
                        facts=objects,
                    )
                )
    return items
