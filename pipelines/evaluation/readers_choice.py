"""Readers of the benchmarks that ask for a letter, or for yes or no.

What this does *not* do: score (`benchmarks` says how).
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from llava_core.prompts import CHOICE_SUFFIX, JUDGE_SUFFIX
from pipelines.evaluation.items import Item
from pipelines.evaluation.readers_vqa import lettered, short
from pipelines.evaluation.sources import Source, records
from pipelines.evaluation.totals import COGNITION, PERCEPTION
from pipelines.storage import join_uri, read_bytes

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHOICE_SUFFIX_CN = "请直接回答选项字母。"
POPE_SPLITS = ("random", "popular", "adversarial")
NLVR_ORDERS = 6
"""Images of a sentence of NLVR: the same boxes in other orders."""
MMBENCH_ROUND = 1_000_000
"""Added to a question's index in the rows of MMBench's files that turn its options, once for each turn."""
_LONGEST_INDEX = 64
"""What is as short in the column of images is another row's index: both as in VLMEvalKit's `image_mcq`."""
_MME_REQUEST = "Please answer yes or no."


def read_scienceqa(source: Source) -> list[Item]:
    """ScienceQA, only the questions with an image; a hint stands before the question as its context."""
    where = "https://github.com/lupantech/ScienceQA"
    problems = source.json(["problems.json", "data/scienceqa/problems.json"], where)
    wanted = source.json(["pid_splits.json", "data/scienceqa/pid_splits.json"], where)[source.split]
    items = []
    for key in wanted:
        one = problems[key]
        if one.get("image") is None:
            continue
        choices = tuple(one["choices"])
        context = f"Context: {one['hint']}\n" if one.get("hint") else ""
        items.append(
            Item(
                item_id=str(key),
                image=f"{source.split}/{key}/{one['image']}",
                question=one["question"],
                prompt=context + lettered(one["question"], choices),
                references=(LETTERS[one["answer"]],),
                choices=choices,
                category=one.get("subject", ""),
            )
        )
    return items


def read_pope(source: Source) -> list[Item]:
    """POPE on COCO: its three files, which are the categories; ids are `category/question_id`."""
    items = []
    for kind in POPE_SPLITS:
        name = f"coco_pope_{kind}.json"
        listed = source.lines([name, f"coco/{name}", f"output/coco/{name}"], "https://github.com/AoiDragon/POPE")
        for one in records(source, listed, name, ("question_id", "image", "text", "label")):
            items.append(
                Item(
                    item_id=f"{kind}/{one['question_id']}",
                    image=f"val2014/{one['image']}",
                    question=one["text"],
                    prompt=short(one["text"]),
                    references=(one["label"],),
                    category=kind,
                )
            )
    return items


def read_mmbench(source: Source) -> list[Item]:
    """MMBench in one pass, as LLaVA's script runs it: every row for the server, main rows alone for the score."""
    return [_mmbench_item(row, 0) for row in _mmbench(source)]


def read_mmbench_circular(source: Source) -> list[Item]:
    """MMBench's CircularEval: each question once for each of its options, the options turned on by one each time.

    They are turned here, so that the file's own rotations, where it has them, are left out.
    """
    main = [row for row in _mmbench(source) if int(row["index"]) < MMBENCH_ROUND]
    return [_mmbench_item(row, turn) for row in main for turn in range(len(_options(row)))]


def _mmbench(source: Source) -> list[dict[str, str]]:
    names = {
        "dev": ["mmbench_dev_20230712.tsv", "mmbench_dev_en_20231003.tsv", "MMBench_DEV_EN.tsv"],
        "test": ["mmbench_test_en_20231003.tsv", "MMBench_TEST_EN.tsv"],
        "dev-cn": ["mmbench_dev_cn_20231003.tsv", "MMBench_DEV_CN.tsv"],
    }[source.split]
    rows = source.table(names, "https://github.com/open-compass/MMBench")
    needs = ("index", "question", "A", "B", "image")
    found = [{name: value or "" for name, value in row.items()} for row in records(source, rows, names[0], needs)]
    images = {row["index"]: row["image"] for row in found if len(row["image"]) > _LONGEST_INDEX}
    for row in found:
        if not row["index"].isdecimal():
            raise source.broken(names[0], f"index {row['index']!r} is no number")
        if row["image"] not in images and len(row["image"]) <= _LONGEST_INDEX:
            raise source.broken(names[0], f"row {row['index']} has the image of row {row['image']!r}, which has none")
        row |= {"image": images.get(row["image"], row["image"]), "lang": "cn" if source.split == "dev-cn" else "en"}
    return found


def _options(row: Mapping[str, str]) -> tuple[str, ...]:
    """The options before the first that is missing."""
    found = []
    for letter in "ABCD":
        value = row.get(letter) or ""
        if value.lower() in ("", "nan", "none"):
            break
        found.append(value)
    return tuple(found)


def _mmbench_item(row: Mapping[str, str], turn: int) -> Item:
    options = _options(row)
    turned = options[turn:] + options[:turn]
    hint = row.get("hint") or ""
    question = row["question"] if hint.lower() in ("", "nan", "none") else f"{hint}\n{row['question']}"
    prompt = lettered(question, turned)
    if row["lang"] == "cn":
        prompt = prompt.removesuffix(CHOICE_SUFFIX) + CHOICE_SUFFIX_CN
    answer = row.get("answer") or ""
    right = (
        LETTERS[(LETTERS.index(answer) - turn) % len(options)] if answer in LETTERS[: len(options)] and answer else ""
    )
    kept = ("index", "question", "A", "B", "C", "D", "answer", "split")
    return Item(
        item_id=f"{row['index']}/{turn}" if turn else str(row["index"]),
        # bytes, not a path: the type is found from them
        image=f"data:image/jpeg;base64,{row['image']}",
        question=question,
        prompt=prompt,
        references=(right,) if right else (),
        choices=turned,
        category=row.get("category") or "",
        group=str(int(row["index"]) % MMBENCH_ROUND),
        counts=int(row["index"]) < MMBENCH_ROUND,
        facts={name: row[name] or "" for name in kept if name in row},
    )


def read_mme(source: Source) -> list[Item]:
    """MME: a text file beside each image, two questions in it; the request for yes or no is LLaVA's suffix instead."""
    items = list(_mme_items(source))
    if not items:
        source.find(
            ["existence", "existence/000000006040.txt"],
            "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models",
        )
    return items


def _mme_items(source: Source) -> Iterator[Item]:
    for subtask in (*PERCEPTION, *COGNITION):
        paths = source.glob(f"{subtask}/*") + source.glob(f"{subtask}/*/*")
        images = {PurePosixPath(path).stem: path for path in paths if path.endswith((".jpg", ".png"))}
        for path in (path for path in paths if path.endswith(".txt")):
            stem = PurePosixPath(path).stem
            lines = read_bytes(join_uri(source.folder, path)).decode("utf-8-sig").splitlines()
            for place, line in enumerate(line for line in lines if line.strip()):
                question, tab, label = line.strip().rpartition("\t")
                if not tab or label.strip().lower() not in ("yes", "no"):
                    raise source.broken(path, f"line {place}: expected a question, a tab, Yes or No")
                asked = question.replace(f" {_MME_REQUEST}", "").replace(_MME_REQUEST, "").strip()
                image = images.get(stem, path.removesuffix(".txt") + ".jpg")
                yield Item(
                    item_id=f"{subtask}/{stem}/{place}",
                    image=image,
                    question=asked,
                    prompt=short(asked),
                    references=(label.strip().lower(),),
                    category=subtask,
                    group=f"{subtask}/{stem}",
                    facts={"question": question, "label": label.strip(), "file": PurePosixPath(image).name},
                )


def read_seed(source: Source) -> list[Item]:
    """SEED-Bench, only the questions about images."""
    listed = source.json(["SEED-Bench.json"], "https://huggingface.co/datasets/AILab-CVC/SEED-Bench")
    names = {number: name for name, number in listed["question_type"].items()}
    needs = ("question_id", "data_id", "data_type", "question", "answer", "choice_a")
    return [_seed_item(one, names) for one in records(source, listed["questions"], "SEED-Bench.json", needs)
            if one["data_type"] == "image"]  # fmt: skip


def _seed_item(one: Mapping[str, Any], names: Mapping[int, str]) -> Item:
    choices = tuple(one[f"choice_{letter}"] for letter in "abcd")
    return Item(
        item_id=str(one["question_id"]),
        image=f"SEED-Bench-image/{one['data_id']}",
        question=one["question"],
        prompt=lettered(one["question"], choices),
        references=(one["answer"],),
        choices=choices,
        category=names.get(one["question_type_id"], ""),
    )


def read_nlvr(source: Source) -> list[Item]:
    """NLVR v1: each sentence with each of its images, six orders of the boxes; ids are names of image files.

    An image that the copy at hand lacks is an item all the same: without it the split is not whole.
    """
    name = f"{source.split}.json"
    where = "https://github.com/lil-lab/nlvr"
    listed = source.lines([f"{source.split}/{name}", f"nlvr/{source.split}/{name}"], where)
    pictures = {PurePosixPath(path).stem: path for path in source.glob(f"**/{source.split}-*.png")}
    items = []
    for one in records(source, listed, name, ("identifier", "sentence", "label", "directory")):
        sentence = one["sentence"].strip()
        for order in range(NLVR_ORDERS):
            item_id = f"{source.split}-{one['identifier']}-{order}"
            items.append(
                Item(
                    item_id=item_id,
                    image=pictures.get(item_id, f"{source.split}/images/{one['directory']}/{item_id}.png"),
                    question=sentence,
                    prompt=f"{sentence}\n{JUDGE_SUFFIX}",
                    references=(one["label"],),
                    group=one["identifier"],
                )
            )
    return items
