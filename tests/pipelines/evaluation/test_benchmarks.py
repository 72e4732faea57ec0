"""Every benchmark: its reader on official files, its prompt, and what the five answerers score exactly."""

import json
import random
from pathlib import Path

import pytest

from llava_core.errors import ConfigError
from llava_core.prompts import CHOICE_SUFFIX, SHORT_SUFFIX
from pipelines.evaluation.benchmarks import BENCHMARKS, find_benchmark
from pipelines.evaluation.hallucination import invented_objects, yes_biases
from pipelines.evaluation.items import Item
from pipelines.evaluation.readers_choice import CHOICE_SUFFIX_CN
from pipelines.evaluation.scoring import check_ids
from pipelines.evaluation.sources import Source
from tests.pipelines.evaluation.benchmark_cases import SCORED, WRITERS, items_of, perfect, put, scored

DATA = Path(__file__).parents[4] / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the project")

YES = {
    # 1 of 3 references is "yes"
    "vqav2": 100 / 3,
    "okvqa": 100 / 3,
    "gqa": 50.0,
    "vizwiz": 50.0,
    "textvqa": 50.0,
    # "yes" is option C of all three questions, and right for the first; read as an option's text
    "aokvqa": 100 / 3,
    "aokvqa-direct": 50.0,
    "docvqa": 50.0,
    "infographicvqa": 50.0,
    "chartqa": 100 / 3,
    "ocrvqa": 50.0,
    # LLaVA's reading knows letters only
    "scienceqa": 0.0,
    # half are yes: precision 1/2, recall 1
    "pope": 200 / 3,
    # "yes" is option A of the first, and wrong
    "mmbench": 0.0,
    "mmbench-circular": 0.0,
    # each of three images (2 in perception): acc 50, acc+ 0; three subtasks of perception
    "mme": 150.0,
    "seed": 0.0,
    # two of three sentences are true, about six images each
    "nlvr": 200 / 3,
    "drawn": 25.0,
    "coco-captions": 0.0,
    "flickr-captions": 0.0,
    "drawn-captions": 0.0,
}
"""Main score of an answerer that says "yes" to everything, worked out from the fixtures."""
FULL = {"mme": 600.0, "coco-captions": 500.0, "flickr-captions": 1000.0, "drawn-captions": 1000.0}
"""Main score of the perfect answerer where it is not 100. COCO's first reference is one of two for one image, so its
CIDEr is below 10; see the test."""


@pytest.mark.parametrize("name", SCORED)
def test_a_perfect_answerer_scores_all(name: str, tmp_path: Path) -> None:
    benchmark = find_benchmark(name)
    _, _, result = scored(benchmark, items_of(name, tmp_path), perfect)
    main = next(iter(result.scores.values()))
    assert result.complete and not result.gaps
    if name == "coco-captions":
        assert result.scores["BLEU-4"].value == pytest.approx(100, abs=1e-3)
        assert result.scores["ROUGE-L"].value == pytest.approx(100)
        assert 500 < main.value < 1000
    else:
        assert main.value == pytest.approx(FULL.get(name, 100.0))
        assert main.low == pytest.approx(main.value) or name == "mme" or "captions" in name


@pytest.mark.parametrize("name", SCORED)
def test_an_empty_answerer_scores_nothing(name: str, tmp_path: Path) -> None:
    _, _, result = scored(find_benchmark(name), items_of(name, tmp_path), lambda item: "")
    # LLaVA reads whatever is not "no" as "yes", an empty reply too
    wanted = YES["pope"] if name == "pope" else 0.0
    assert next(iter(result.scores.values())).value == pytest.approx(wanted)
    assert result.complete


@pytest.mark.parametrize("name", SCORED)
def test_an_answerer_that_always_says_yes_scores_what_the_truth_has_of_it(name: str, tmp_path: Path) -> None:
    _, _, result = scored(find_benchmark(name), items_of(name, tmp_path), lambda item: "yes")
    assert next(iter(result.scores.values())).value == pytest.approx(YES[name])


@pytest.mark.parametrize("name", SCORED)
def test_a_random_answerer_scores_the_mean_of_its_items(name: str, tmp_path: Path) -> None:
    """It is right or says nothing by the throw of a coin; the score is then known from the coins."""
    items = items_of(name, tmp_path)
    coins = random.Random(5)
    right = {item.item_id: coins.random() < 0.5 for item in items}
    benchmark = find_benchmark(name)
    judged, _, result = scored(benchmark, items, lambda item: perfect(item) if right[item.item_id] else "zzz")
    main = next(iter(result.scores.values())).value
    groups = {item.unit: [right[one.item_id] for one in items if one.unit == item.unit] for item in items}
    share = 100 * sum(right.values()) / len(items)
    if name == "mmbench-circular":
        assert main == pytest.approx(100 * sum(map(all, groups.values())) / len(groups))
    elif name == "mme":
        # one image a subtask: acc of its two questions, and acc+
        assert main == pytest.approx(sum(100 * (sum(two) / 2 + all(two)) for two in groups.values()))
    elif name == "pope":
        # LLaVA reads "zzz" as yes
        said = [one.answer == "yes" for one in judged]
        yes = [one.item.references[0] == "yes" for one in judged]
        f1 = [
            2 * sum(s and y for s, y in part) / max(sum(s for s, _ in part) + sum(y for _, y in part), 1)
            for part in (list(zip(said, yes, strict=True))[start : start + 4] for start in (0, 4, 8))
        ]
        assert main == pytest.approx(100 * sum(f1) / 3)
    elif "captions" in name:
        assert main == pytest.approx(100 * sum(one.score for one in judged) / len(judged))
        assert all((one.score > 0) == right[one.item.item_id] for one in judged)
    else:
        assert main == pytest.approx(share, abs=4)
        assert all((one.score > 0) == right[one.item.item_id] for one in judged)


def test_prompts_end_in_the_suffix_that_llava_was_trained_with(tmp_path: Path) -> None:
    first = {}
    for name in WRITERS:
        (tmp_path / name).mkdir()
        first[name] = items_of(name, tmp_path / name)[0].prompt
    short = f"\n{SHORT_SUFFIX}"
    assert first["vqav2"] == f"Is it?{short}"
    assert first["vizwiz"] == (
        f"What?\nWhen the provided information is insufficient, respond with 'Unanswerable'.{short}"
    )
    assert first["chartqa"] == "Is it?\nAnswer the question with a single word."
    assert first["pope"] == f"Is there a dog in the image?{short}"
    assert first["mme"] == f"Is a dog there?{short}"
    assert first["aokvqa"] == f"Is this a bus?\nA. no\nB. maybe\nC. yes\n{CHOICE_SUFFIX}"
    assert first["mmbench"] == f"Which?\nA. yes\nB. no\nC. so\n{CHOICE_SUFFIX}"
    assert first["seed"] == f"Which?\nA. aa\nB. bb\nC. cc\nD. dd\n{CHOICE_SUFFIX}"
    assert first["llava-bench"] == "Where is it?"
    assert first["drawn"] == "Is there a circle?"


def test_scienceqa_puts_the_hint_first_and_leaves_out_questions_without_image(tmp_path: Path) -> None:
    items = items_of("scienceqa", tmp_path)
    assert [item.item_id for item in items] == ["4", "5"]
    assert items[1].prompt == f"Context: It rains.\nWhich?\nA. yes\nB. no\nC. so\n{CHOICE_SUFFIX}"
    assert items[1].image == "test/5/image.png"


def test_textvqa_has_ocr_tokens_only_where_they_are_asked_for(tmp_path: Path) -> None:
    plain, hinted = (items_of("textvqa", tmp_path, ocr=ocr)[0].prompt for ocr in (False, True))
    assert plain == f"what brand?\n{SHORT_SUFFIX}"
    assert hinted == f"what brand?\nReference OCR token: DAKOTA, 55\n{SHORT_SUFFIX}"


def test_circular_mmbench_turns_the_options_and_the_right_letter_with_them(tmp_path: Path) -> None:
    items = items_of("mmbench-circular", tmp_path)
    assert [item.item_id for item in items] == ["3", "3/1", "3/2", "5", "5/1"]
    assert [item.references[0] for item in items] == ["C", "B", "A", "A", "B"]
    assert items[1].choices == ("no", "so", "yes")
    assert items[3].prompt.startswith('Look.\nSay "it"?\nA. up\nB. down\n')


def with_turned_rows(folder: Path) -> None:
    """MMBench's file as it is published: each question's rotations too, with the index of its image in its place."""
    WRITERS["mmbench"](folder)
    file = folder / "mmbench_dev_20230712.tsv"
    lines = file.read_text().splitlines()
    for index, options, answer in (("1000003", "no so yes", "B"), ("2000003", "so yes no", "A")):
        lines.append("\t".join([index, "Which?", "nan", *options.split(), "", answer, "color", "3", "dev"]))
    file.write_text("\n".join(lines) + "\n")


def test_rotations_in_the_file_of_mmbench_are_asked_for_the_server_and_not_scored(tmp_path: Path) -> None:
    with_turned_rows(tmp_path)
    source = Source(benchmark="mmbench", folder=str(tmp_path), split="dev")
    benchmark = find_benchmark("mmbench")
    items = benchmark.read(source)
    assert [(item.item_id, item.group, item.counts) for item in items] == [
        *(("3", "3", True), ("5", "5", True), ("1000003", "3", False), ("2000003", "3", False)),
    ]
    assert items[2].image == items[3].image == items[0].image and items[0].image.startswith(
        "data:image/jpeg;base64,/9j"
    )
    assert [item.references[0] for item in items] == ["C", "A", "B", "A"]
    # right about one of two questions, and wrong about each rotation
    judged, _, result = scored(benchmark, items, lambda item: "C")
    assert result.scores["accuracy"].value == 50.0 and result.complete and (result.items, result.scored) == (4, 4)
    assert {name: count for name, (count, _) in result.categories.items()} == {"color": 1, "shape": 1}
    assert [bool(one.values) for one in judged] == [True, True, False, False]
    assert benchmark.submission is not None and benchmark.submission(judged)["submission.xlsx"]
    circular = find_benchmark("mmbench-circular").read(source)
    assert [item.item_id for item in circular] == ["3", "3/1", "3/2", "5", "5/1"]


def test_an_image_of_mmbench_that_is_no_rows_is_named(tmp_path: Path) -> None:
    with_turned_rows(tmp_path)
    file = tmp_path / "mmbench_dev_20230712.tsv"
    file.write_text(file.read_text().replace("\t3\tdev", "\t4\tdev"))
    with pytest.raises(ConfigError, match="row 1000003 has the image of row '4', which has none"):
        find_benchmark("mmbench").read(Source(benchmark="mmbench", folder=str(tmp_path), split="dev"))


def test_mmbench_in_chinese_has_the_chinese_suffix(tmp_path: Path) -> None:
    WRITERS["mmbench"](tmp_path)
    (tmp_path / "mmbench_dev_20230712.tsv").rename(tmp_path / "MMBench_DEV_CN.tsv")
    items = find_benchmark("mmbench").read(Source(benchmark="mmbench", folder=str(tmp_path), split="dev-cn"))
    assert items[0].prompt.endswith(f"C. so\n{CHOICE_SUFFIX_CN}")


def test_images_are_named_as_the_benchmarks_lay_them_out(tmp_path: Path) -> None:
    found = {}
    for name in WRITERS:
        (tmp_path / name).mkdir()
        found[name] = items_of(name, tmp_path / name)[-1].image
    assert found["vqav2"] == "val2014/COCO_val2014_000000000043.jpg"
    assert found["aokvqa"] == "val2017/000000000006.jpg"
    assert found["ocrvqa"] == "images/111.gif"
    assert found["chartqa"] == "test/png/b.png"
    assert found["mme"] == "OCR/2.jpg"
    assert found["nlvr"] == "test/images/5/test-7-0-5.png"
    assert found["textvqa"] == "train_images/y.jpg"
    assert found["mmbench"].startswith("data:image/jpeg;base64,/9j/")


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_missing_file_is_named_with_where_it_comes_from(name: str, tmp_path: Path) -> None:
    benchmark = find_benchmark(name)
    with pytest.raises(ConfigError, match=rf"{name} .* is not in .*; it comes from"):
        benchmark.read(Source(benchmark=name, folder=str(tmp_path), split=benchmark.splits[0]))


def test_a_file_of_another_form_or_split_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "val.json", [{"image": "a.jpg"}])
    with pytest.raises(ConfigError, match="record 0 lacks question"):
        find_benchmark("vizwiz").read(Source(benchmark="vizwiz", folder=str(tmp_path), split="val"))
    put(tmp_path, "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [
        {"question_id": 1, "image_id": 2, "question": "Is it?"}]})  # fmt: skip
    put(tmp_path, "v2_mscoco_val2014_annotations.json", {"annotations": []})
    with pytest.raises(ConfigError, match="question 1 has no annotation; is it this split"):
        find_benchmark("vqav2").read(Source(benchmark="vqav2", folder=str(tmp_path), split="val"))
    row = {"questionId": 1, "question": "?", "image": "a.png", "data_split": "train"}
    put(tmp_path, "val_v1.0_withQT.json", {"data": [row]})
    with pytest.raises(ConfigError, match=r"holds the split \{'train'\}; expected val"):
        find_benchmark("docvqa").read(Source(benchmark="docvqa", folder=str(tmp_path), split="val"))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match="is not the official file"):
        find_benchmark("ocrvqa").read(Source(benchmark="ocrvqa", folder=str(tmp_path), split="test"))


def test_ids_that_are_taken_twice_are_refused(tmp_path: Path) -> None:
    items = items_of("gqa", tmp_path)
    with pytest.raises(ConfigError, match=r"1 ids .* taken twice: '20'"):
        check_ids([*items, items[0]])


def test_submissions_have_the_official_form(tmp_path: Path) -> None:
    found = {}
    for benchmark in BENCHMARKS:
        if benchmark.submission is not None and benchmark.judge is None:
            (tmp_path / benchmark.name).mkdir()
            judged, _, _ = scored(
                benchmark, items_of(benchmark.name, tmp_path / benchmark.name), lambda item: "Two, B."
            )
            found[benchmark.name] = benchmark.submission(judged)
    first = {name: json.loads(files["submission.json"]) for name, files in found.items() if "submission.json" in files}
    assert first["vqav2"][0] == {"question_id": 7, "answer": "2 b"}
    assert first["vizwiz"][0] == {"image": "a.jpg", "answer": "2 b"}
    assert first["gqa"][0] == {"questionId": "20", "prediction": "two, b"}
    assert first["docvqa"][0] == {"questionId": 11, "answer": "Two, B."}
    assert first["coco-captions"][0] == {"image_id": 42, "caption": "Two, B."}
    assert found["mme"]["mme/existence.txt"].decode().split("\n")[0] == (
        "1.jpg\tIs a dog there? Please answer yes or no.\tYes\tTwo, B."
    )
    assert set(found["pope"]) == {f"answers_{kind}.jsonl" for kind in ("random", "popular", "adversarial")}
    assert json.loads(found["seed"]["submission.jsonl"].splitlines()[0]) == {
        "question_id": "101",
        "prediction": "Two, B.",
    }


def test_mmbench_is_submitted_as_a_table(tmp_path: Path) -> None:
    import io

    from openpyxl import load_workbook

    benchmark = find_benchmark("mmbench")
    judged, _, _ = scored(benchmark, items_of("mmbench", tmp_path), lambda item: "B")
    assert benchmark.submission is not None
    sheet = load_workbook(io.BytesIO(benchmark.submission(judged)["submission.xlsx"])).active
    rows = [[cell.value for cell in row] for row in sheet.rows]
    assert rows[0] == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert rows[1] == [3, "Which?", "yes", "no", "so", None, "B", "C", "dev"]


def test_pope_by_the_strict_parser_counts_unclear_answers_as_wrong_and_as_no_yes(tmp_path: Path) -> None:
    items = items_of("pope", tmp_path)
    _, _, result = scored(find_benchmark("pope"), items, lambda item: "maybe", parser="strict")
    assert {name: one.value for name, one in result.scores.items()} == {
        "F1": 0, "accuracy": 0, "precision": 0, "recall": 0, "yes ratio": 0}  # fmt: skip
    assert result.unread == len(items)


def test_the_lean_towards_yes_and_invented_objects_are_reported(tmp_path: Path) -> None:
    judged, _, _ = scored(find_benchmark("pope"), items_of("pope", tmp_path), lambda item: "yes")
    one = yes_biases(judged)[0]
    assert (one.category, one.asked, one.said_yes, one.is_yes, one.false_yes, one.false_no) == (
        "adversarial",
        4,
        4,
        2,
        2,
        0,
    )
    judged, _, _ = scored(
        find_benchmark("coco-captions"), items_of("coco-captions", tmp_path), lambda item: "a bus, dogs"
    )
    found = invented_objects(judged)
    assert found is not None
    # each of two captions names both, and one of them is there
    assert (found.by_mention, found.by_caption, found.objects) == (0.5, 1.0, {"bus": 1, "dog": 1})


def test_an_image_of_nlvr_that_the_copy_lacks_is_an_item_all_the_same(tmp_path: Path) -> None:
    WRITERS["nlvr"](tmp_path)
    # the images may lie in any folder
    (tmp_path / "test/images/4/test-1-0-3.png").rename(tmp_path / "test/test-1-0-3.png")
    items = find_benchmark("nlvr").read(Source(benchmark="nlvr", folder=str(tmp_path), split="test"))
    assert [item.item_id for item in items[:7]] == [*(f"test-1-0-{order}" for order in range(6)), "test-1-1-0"]
    assert len(items) == 18
    assert {item.image for item in items if (tmp_path / item.image).is_file()} == {
        "test/images/4/test-1-0-0.png", "test/test-1-0-3.png", "test/images/4/test-1-1-0.png"}  # fmt: skip
    assert {item.group: item.references for item in items} == {"1-0": ("true",), "1-1": ("false",), "7-0": ("true",)}


@real
def test_nlvr_is_read_from_its_own_files() -> None:
    items = find_benchmark("nlvr").read(Source(benchmark="nlvr", folder=str(DATA / "nlvr"), split="test"))
    check_ids(items)
    # what the paper counts; this copy has two of the six images of each sentence
    assert len(items) == 5940
    there = [item for item in items if (DATA / "nlvr" / item.image).is_file()]
    assert len(there) == 1980
    assert sum(item.references == ("true",) for item in there) == 1112


@real
def test_pope_is_read_from_its_own_files() -> None:
    source = Source(benchmark="pope", folder=str(DATA / "metrics/pope/output/coco"), split="coco")
    items = find_benchmark("pope").read(source)
    check_ids(items)
    assert len(items) == 3 * 3000 - 90 or len(items) == 9000
    _, _, result = scored(find_benchmark("pope"), items, lambda item: "yes")
    assert result.scores["recall"].value == 100
    assert result.scores["yes ratio"].value == 100
    assert result.scores["accuracy"].value == pytest.approx(50, abs=0.6)


def test_a_statement_about_drawn_boxes_is_scored_by_its_verdict() -> None:
    item = Item(
        item_id="1",
        image="a.png",
        question="There is a tower with two black blocks.",
        prompt="",
        references=("black one black two yes, blue no: true",),
        facts={"task": "statement"},
    )
    replies = ["true", "black one blue no, blue no: true", "black one black two yes: false", "black one", None]
    values = find_benchmark("drawn").metric.values([item] * 5, replies)
    assert [value for [value] in values] == [1.0, 1.0, 0.0, 0.0, 0.0]
