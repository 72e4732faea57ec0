"""Readers of the benchmarks on text-rich images: documents, infographics, charts.

What this does *not* do: score (`benchmarks` says how).
"""

from typing import Any

from llava_core.errors import ConfigError
from pipelines.evaluation.items import Item
from pipelines.evaluation.readers_vqa import short
from pipelines.evaluation.sources import Source, records

_RRC = "https://rrc.cvc.uab.es/?ch=17 (Task {task})"
_CHARTQA = "https://github.com/vis-nlp/ChartQA"
SINGLE_WORD = "Answer the question with a single word."


def read_docvqa(source: Source) -> list[Item]:
    """DocVQA, single page; an item counts in the category of its first question type."""
    names = [f"{source.split}_v1.0_withQT.json", f"{source.split}_v1.0.json"]
    return [
        Item(
            item_id=str(one["questionId"]),
            image=one["image"],
            question=one["question"],
            prompt=short(one["question"]),
            references=tuple(one.get("answers", ())),
            category=next(iter(one.get("question_types", ())), ""),
        )
        for one in _rrc(source, names, 1, "image")
    ]


def read_infographicvqa(source: Source) -> list[Item]:
    """InfographicVQA."""
    stem = f"infographicsVQA_{source.split}_v1.0"
    return [
        Item(
            item_id=str(one["questionId"]),
            image=f"infographicsvqa_images/{one['image_local_name']}",
            question=one["question"],
            prompt=short(one["question"]),
            references=tuple(one.get("answers", ())),
            category=next(iter(one.get("answer_type", ())), ""),
        )
        for one in _rrc(source, [f"{stem}_withQT.json", f"{stem}.json"], 3, "image_local_name")
    ]


def _rrc(source: Source, names: list[str], task: int, image: str) -> list[dict[str, Any]]:
    listed = source.json(names, _RRC.format(task=task))
    found = list(records(source, listed["data"], names[0], ("questionId", "question", image)))
    other = {one["data_split"] for one in found if "data_split" in one} - {source.split}
    if other:
        raise ConfigError(f"{source.benchmark}: {names[0]} holds the split {other}; expected {source.split}")
    return [dict(one) for one in found]


def read_chartqa(source: Source) -> list[Item]:
    """ChartQA: the human and the augmented questions, as categories."""
    items = []
    for kind in ("human", "augmented"):
        name = f"{source.split}/{source.split}_{kind}.json"
        names = [name, f"ChartQA Dataset/{name}"]
        root = "ChartQA Dataset/" if source.find(names, _CHARTQA).endswith(names[1]) else ""
        listed = source.json([root + name], _CHARTQA)
        for place, one in enumerate(records(source, listed, name, ("imgname", "query", "label"))):
            items.append(
                Item(
                    item_id=f"{kind}/{place}",
                    image=f"{root}{source.split}/png/{one['imgname']}",
                    question=one["query"],
                    prompt=f"{one['query']}\n{SINGLE_WORD}",
                    references=(str(one["label"]),),
                    category=kind,
                )
            )
    return items
