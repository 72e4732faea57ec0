"""What is settled before any cluster work: wrong settings, the run's name, the sample of a plan."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llava_core.errors import CheckpointRefused, ConfigError
from pipelines.cli import parse
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.fragments import make_fragment
from pipelines.inference import plan, recipes, vllm_environment
from pipelines.inference.config import CaptionConfig
from pipelines.inference.job import freeze
from pipelines.inference.plan import sample_works
from pipelines.inference.questions import Question
from pipelines.inference.stage import InferenceStage
from pipelines.inference.work import Work, asking, whole
from pipelines.row_refs import ObjectRef, RowRef
from pipelines.runtime import Node, WorkerPlan
from tests.pipelines.inference.fakes import photo
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three small photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(photo(20, 30, seed=number))
    return folder


def config(folder: Path, **changes: Any) -> CaptionConfig:
    """A config for a folder, with its output beside it."""
    return CaptionConfig(**({"input": (str(folder),), "output": str(folder.parent / "out")} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": ()}, "input is empty"),
        ({"output": " "}, "output is empty"),
        ({"prompt": ""}, "prompt is empty"),
        ({"resolution": "huge"}, "expected one of 'auto', 'low', 'medium', 'high'"),
        ({"task": "poetry"}, "'classification'"),
        ({"dtype": "int8"}, "'bfloat16'"),
        ({"quantize": "2bit"}, "'4bit', '8bit'"),
        ({"max_tiles": -1}, "max_tiles is -1; expected at least 0"),
        ({"limit": 0}, "limit is 0; expected at least 1"),
        ({"num_workers": 0}, "num_workers is 0; expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"gpus_per_worker": -0.5}, "gpus_per_worker is -0.5; expected at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"stall_timeout": 0.0}, "expected more than 0 seconds"),
        ({"stall_timeout": math.inf}, "stall_timeout is inf; expected more than 0 seconds, and finite"),
        ({"engine_timeout": math.nan}, "engine_timeout is nan"),
        ({"stall_timeout": 600.0}, r"stall_timeout is 600; expected more than config.engine_timeout \(600\)"),
        ({"price_per_hour": math.nan}, "price_per_hour is nan; expected at least 0 and finite"),
        ({"decoder_seconds": math.inf}, "cpu_seconds is inf"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"repetition_penalty": math.nan}, "repetition_penalty nan"),
    ],
)
def test_wrong_settings_say_what_was_expected(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **changes)


def test_the_command_line_of_the_design() -> None:
    words = "--input a s3://b/c --output o --model owner/name --model-revision main --prompt P --max-new-tokens 9"
    words += " --temperature 0 --max-tiles 3 --resolution high --task ocr --limit 5 --plan --overwrite --num-workers 2"
    words += " --ray-address auto --batch-size 4 --image-root /r --columns.image jpg"
    assert parse(CaptionConfig, words.split()) == CaptionConfig(
        input=("a", "s3://b/c"),
        output="o",
        model="owner/name",
        model_revision="main",
        prompt="P",
        max_new_tokens=9,
        max_tiles=3,
        resolution="high",
        task="ocr",
        limit=5,
        plan=True,
        overwrite=True,
        num_workers=2,
        ray_address="auto",
        batch_size=4,
        corpus=CorpusSettings(image_root="/r"),
        columns=CorpusColumns(image="jpg"),
    )


def test_missing_input_and_model_are_refused_before_anything_starts(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        freeze(config(tmp_path / "nowhere"))
    with pytest.raises(CheckpointRefused, match="NOT_FOUND"):
        freeze(config(corpus, model="./no-such-model"))
    assert not (tmp_path / "out").exists()


def test_an_output_that_delta_would_split_is_refused_before_any_work(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="'#'"):
        freeze(config(corpus, output="s3://bucket/captions#2"))


def test_a_job_knows_its_rows_its_model_and_where_workers_find_it(corpus: Path) -> None:
    job = freeze(config(corpus, task="classification", batch_size=2))
    assert (job.rows_in, job.spec.model) == (3, "tiny")
    assert job.spec.settings.resolution == "low"
    assert job.spec.settings.chunk_rows == 8
    assert ("NOT TRAINED" in job.model_line) == (not job.trained)
    assert job.spec.settings.model_revision in job.model_line
    assert dataclasses.replace(job, trained=True).model_line.endswith(")")
    assert list(job.planned) == [str(corpus)]


def test_workers_reach_images_in_a_store_by_the_driver_s_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_bucket: S3Bucket
) -> None:
    """The rows are on a local disk, their images are not; a worker of another machine has none of the variables."""
    s3_bucket.put("img/0.jpg", photo(20, 30))
    for name, value in s3_bucket.delta_options.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "rows.jsonl").write_text('{"image": "0.jpg"}\n' + f'{{"image": "{s3_bucket.uri}/img/0.jpg"}}\n')
    changes: list[dict[str, Any]] = [
        {"image_root": f"{s3_bucket.uri}/img"},
        {"allowed_prefixes": (f"{s3_bucket.uri}/",)},
    ]
    found = [config(tmp_path / "rows.jsonl", corpus=CorpusSettings(**one)) for one in changes]
    jobs = [freeze(one) for one in found]
    for name in s3_bucket.delta_options:
        monkeypatch.delenv(name)
    errors = []
    for job in jobs:
        assert job.spec.storage_options["AWS_ENDPOINT_URL"] == s3_bucket.endpoint
        rows = InferenceStage._read(SimpleNamespace(spec=job.spec), job.works[0].fragment)  # type: ignore[arg-type]
        errors.append([row.error for row in rows])
    assert errors == [[None, None], ["NOT_FOUND", None]]


CHANGES = [
    {"prompt": "Why?"},
    {"max_new_tokens": 5},
    {"temperature": 0.5},
    {"top_p": 0.9},
    {"top_k": 3},
    {"repetition_penalty": 1.2},
    {"stop": ("x",)},
    {"seed": 1},
    {"max_tiles": 1},
    {"resolution": "low"},
    {"task": "ocr"},
    {"dtype": "bfloat16"},
    {"limit": 2},
    {"columns": CorpusColumns(image="x")},
    {"corpus": CorpusSettings(sidecars=False)},
]
SAME = [{"batch_size": 3}, {"num_workers": 2}, {"overwrite": True}, {"plan": True}, {"stall_timeout": 5000.0}]


def test_the_run_is_named_by_what_changes_a_row_and_by_nothing_else(corpus: Path) -> None:
    base = freeze(config(corpus)).run_id
    names = [freeze(config(corpus, **change)).run_id for change in CHANGES]
    assert len({base, *names}) == 1 + len(CHANGES)
    assert {freeze(config(corpus, **change)).run_id for change in SAME} == {base}
    (corpus / "3.jpg").write_bytes(photo(20, 30, seed=3))
    assert freeze(config(corpus)).run_id == base


def test_the_model_s_content_is_part_of_the_name(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = freeze(config(corpus)).run_id
    monkeypatch.setattr("pipelines.inference.job.revision", lambda folder: "another weights")
    assert freeze(config(corpus)).run_id != base
    monkeypatch.undo()
    monkeypatch.setattr("pipelines.inference.caption.CaptionInquiry.version", 10**6)
    assert freeze(config(corpus)).run_id != base


def test_a_local_model_travels_by_its_absolute_path(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_core.checkpoints import resolve_model

    (tmp_path / "models").symlink_to(resolve_model("tiny"))
    monkeypatch.chdir(tmp_path)
    assert freeze(config(corpus, model="models")).spec.model == str(tmp_path / "models")


def test_gpus_follow_the_setting_then_the_cluster(corpus: Path) -> None:
    with_gpu, without = [Node(cpus=8), Node(cpus=8, gpus=4)], [Node(cpus=8)]
    assert config(corpus).gpus_for(with_gpu) == 1
    assert config(corpus).gpus_for(without) == 0
    assert config(corpus, gpus_per_worker=0.5).gpus_for(without) == 0.5
    assert config(corpus, gpus_per_worker=0).gpus_for(with_gpu) == 0


def test_recipes_are_the_document_s_trade_offs(corpus: Path) -> None:
    found = [(one.resolution, one.max_tiles) for one in map(_apply(config(corpus)), TRADE_OFFS)]
    assert found == [("high", 2), ("high", 4), ("high", 6)]


TRADE_OFFS = (recipes.fast, recipes.balanced, recipes.high_quality)


def _apply(base: CaptionConfig) -> Any:
    return lambda recipe: recipe(base)


def work(name: str, num_rows: int) -> Work:
    """Work of a fragment of files."""
    rows = tuple(RowRef(objects=(ObjectRef(uri=f"/{name}/{i}.jpg", size=1, version="1"),)) for i in range(num_rows))
    return whole(make_fragment(kind="files", source="/", root="/", rows=rows))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([100], [32]),
        ([5], [5]),
        ([3, 100], [3, 29]),
        ([100, 100, 100, 100, 100, 100, 100, 100], [8, 8, 8, 8]),
        ([1, 100, 2, 100], [1, 2, 14, 15]),
        ([0, 1], [1]),
    ],
)
def test_a_sample_is_spread_and_fills_up(sizes: list[int], expected: list[int]) -> None:
    found = sample_works([work(str(place), size) for place, size in enumerate(sizes)])
    assert sorted(one.num_rows for one in found) == sorted(expected)
    if len(sizes) == 8:
        assert [one.fragment.row_uri(0) for one in found] == ["/0/0.jpg", "/2/0.jpg", "/4/0.jpg", "/6/0.jpg"]


def test_a_sample_reaches_the_rows_that_are_asked_about() -> None:
    """Two questions each about rows 70 to 94 of a hundred: all that there are, of a head that just holds them."""
    questions = [Question(question_id=f"{at}", text="Who?", row=at // 2) for at in range(140, 190)]
    (found,) = sample_works([asking(work("a", 100).fragment, questions)])
    assert (found.num_rows, found.fragment.num_rows) == (50, 95)
    # of 8 rows each from four, the short one gives what it has: 3; then 29 are left for three
    some = [work("b", 3), *(asking(work(name, 100).fragment, questions) for name in "cde")]
    assert [(one.num_rows, one.fragment.num_rows) for one in sample_works(some)] == [
        (3, 3),
        (18, 79),
        (20, 80),
        (20, 80),
    ]


def test_a_plan_whose_sample_makes_no_row_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.jpg").write_bytes(photo(20, 30))
    settings = config(tmp_path / "in", price_per_hour=2.0)
    empty = {"rows": 0, "rejected": 0, "seconds": 0.02, "tokens": 0, "prompts": []}
    monkeypatch.setattr(plan, "measure_sample", lambda *_: [empty])
    said: list[str] = []
    job = freeze(settings)
    workers = WorkerPlan(num_actors=1, num_cpus=1, num_gpus=0, threads=1)
    plan.say_plan(job, job.works, workers, settings, said.append)
    assert "no row in the sample: no estimate" in said[0] and "time for all" not in said[0] and "cost" not in said[0]


@pytest.mark.parametrize(
    ("changes", "layout", "message"),
    [
        ({"resolution": "high"}, "own", "transformers' layout, .* has the own one; write it once with jobs/export"),
        ({}, "hf", "chooses tiles by the checkpoint's own settings"),
        ({"resolution": "high", "max_tiles": 2}, "hf", "chooses tiles"),
        ({"resolution": "high", "quantize": "4bit"}, "hf", "quantises in ways of its own"),
        ({"resolution": "high", "gpus_per_worker": 0.0}, "hf", "the workers of this job have none"),
    ],
)
def test_what_vllm_cannot_do_is_said_before_any_work(
    corpus: Path, changes: dict[str, Any], layout: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        vllm_environment.check_settings(config(corpus, engine="vllm", **changes), layout, Path("model"))
    vllm_environment.check_settings(config(corpus, engine="vllm", resolution="high"), "hf", Path("model"))


def test_vllm_without_gpus_is_refused() -> None:
    workers = WorkerPlan(num_actors=1, num_cpus=0.5, num_gpus=0.0, threads=2)
    with pytest.raises(ConfigError, match="its wheels are built for CUDA"):
        vllm_environment.check_cluster(workers)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_environment_that_cannot_be_made_is_said_in_pips_own_words() -> None:
    with pytest.raises(ConfigError, match=r"cannot be installed on this cluster: .*no-such-wheel"):
        vllm_environment.probe({"pip": ["/nowhere/no-such-wheel-1.0-py3-none-any.whl"]}, 0)
    with pytest.raises(ConfigError, match="No module named 'vllm'"):
        vllm_environment.probe({}, 0)
