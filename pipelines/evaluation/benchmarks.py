"""Every benchmark: how its files are read, what is asked, how replies are read and scored, what others got.

Published figures: LLaVA's model zoo (1.5, 1.6) and the LLaVA-OneVision paper (OV). `parsers` has the default first.
What this does *not* do: run anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llava_core.errors import ConfigError
from llava_core.prompts import CHOICE_SUFFIX, JUDGE_SUFFIX, SHORT_SUFFIX
from pipelines.choices import read_letter
from pipelines.evaluation import metrics, replies, submissions, totals, vqa_metrics
from pipelines.evaluation import readers_choice as choice
from pipelines.evaluation import readers_documents as documents
from pipelines.evaluation import readers_open as opened
from pipelines.evaluation import readers_vqa as vqa
from pipelines.evaluation.items import Item
from pipelines.evaluation.sources import Source
from pipelines.evaluation.submissions import Submission
from pipelines.evaluation.totals import Metric

Parser = Callable[[Item, str], str | None]
_MODELS = ("1.5-7B", "1.5-13B", "1.6-Vicuna-7B", "1.6-Vicuna-13B", "1.6-Mistral-7B", "1.6-34B")
_OV = ("OV-0.5B", "OV-7B", "OV-72B")
_LETTER, _LINE = "letter or option", "first line"


def _llava(*figures: float) -> Mapping[str, float]:
    return dict(zip(_MODELS, figures, strict=True))


def _ov(*figures: float) -> Mapping[str, float]:
    return dict(zip(_OV, figures, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One benchmark."""

    name: str
    """On the command line."""
    title: str
    """For people."""
    splits: tuple[str, ...]
    """The default first."""
    read: Callable[[Source], list[Item]]
    """Its official files."""
    metric: Metric
    """How it is scored."""
    parsers: Mapping[str, Parser]
    """Ways to read a reply by name; the default first."""
    suffix: str
    """What is added to a question, for people."""
    max_new_tokens: int = 16
    """Most tokens of a reply."""
    published: Mapping[str, float] = field(default_factory=dict)
    """Main score of LLaVA models, as published; by model."""
    note: str = ""
    """What a reader of the score has to know."""
    submission: Submission | None = None
    """The file that its server takes."""
    judge: str | None = None
    """"relative" or "mmvet", where a language model scores the answers."""
    ocr: bool = False
    """Whether OCR tokens can go into the prompt."""


def _first_line(item: Item, reply: str) -> str:
    return replies.first_line(reply)


def _whole(item: Item, reply: str) -> str:
    return reply.strip()


_WHOLE: Mapping[str, Parser] = {"whole reply": _whole}
_SHORT: Mapping[str, Parser] = {**_WHOLE, _LINE: _first_line}
_LETTERS: Mapping[str, Parser] = {
    _LETTER: lambda item, reply: read_letter(reply, item.choices),
    "letter alone": lambda item, reply: replies.letter_exact(reply.strip(), item.choices),
}
_YES: Mapping[str, Parser] = {
    "llava": lambda item, reply: replies.yes_no_llava(reply),
    "strict": lambda item, reply: replies.yes_no_strict(reply),
}


def _by_vqa(item: Item, answer: str) -> float:
    return vqa_metrics.vqa_accuracy(answer, item.references)


def _by_textvqa(item: Item, answer: str) -> float:
    return vqa_metrics.textvqa_accuracy(answer, item.references)


def _by_anls(item: Item, answer: str) -> float:
    return metrics.anls(answer, item.references)


def _by_drawn(item: Item, answer: str) -> float:
    """Exact match, but for values read off a chart, all within 5 %, and the verdict on a statement."""
    task, [reference] = item.facts["task"], item.references
    if task == "statement":
        return float(replies.true_false(answer) == replies.true_false(reference))
    if task not in ("value", "values"):
        return metrics.exact_match(answer, reference)
    given, wanted = (text.replace(" ", "").split(",") for text in (answer, reference))
    near = [metrics.relaxed_match(one, other) for one, other in zip(given, wanted, strict=False)]
    return float(len(given) == len(wanted) and all(near))


_ACCURACY = "VQA accuracy"

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="vqav2",
        title="VQAv2",
        splits=("val", "test-dev", "test"),
        read=vqa.read_vqav2,
        metric=totals.mean_metric(_ACCURACY, _by_vqa),
        parsers=_SHORT,
        suffix=SHORT_SUFFIX,
        published=_llava(78.5, 80.0, 81.8, 82.8, 82.2, 83.7),
        note="published figures are of test-dev, which only the server scores",
        submission=submissions.vqa_submission,
    ),
    Benchmark(
        name="gqa",
        title="GQA",
        splits=("testdev", "val"),
        read=vqa.read_gqa,
        metric=totals.mean_metric("accuracy", lambda item, answer: metrics.gqa_match(answer, item.references[0])),
        parsers=_SHORT,
        suffix=SHORT_SUFFIX,
        published=_llava(62.0, 63.3, 64.2, 65.4, 64.8, 67.1),
        submission=submissions.gqa_submission,
    ),
    Benchmark(
        name="vizwiz",
        title="VizWiz",
        splits=("val", "test"),
        read=vqa.read_vizwiz,
        metric=totals.mean_metric(_ACCURACY, _by_vqa),
        parsers=_SHORT,
        suffix=f"{vqa.UNANSWERABLE} {SHORT_SUFFIX}",
        published=_llava(50.0, 53.6, 57.6, 60.5, 60.0, 63.8),
        note="published figures are of the test split, which only the server scores",
        submission=submissions.vizwiz_submission,
    ),
    Benchmark(
        name="textvqa",
        title="TextVQA",
        splits=("val", "test"),
        read=vqa.read_textvqa,
        metric=totals.mean_metric("accuracy", _by_textvqa),
        parsers=_SHORT,
        suffix=SHORT_SUFFIX,
        published=_llava(58.2, 61.3, 64.9, 67.1, 65.7, 69.5),
        note="1.5 was published with OCR tokens in the prompt (--ocr-tokens), 1.6 without",
        submission=submissions.vqa_submission,
        ocr=True,
    ),
    Benchmark(
        name="okvqa",
        title="OK-VQA",
        splits=("val",),
        read=vqa.read_okvqa,
        metric=totals.mean_metric(_ACCURACY, _by_vqa),
        parsers=_SHORT,
        suffix=SHORT_SUFFIX,
        submission=submissions.vqa_submission,
    ),
    Benchmark(
        name="aokvqa",
        title="A-OKVQA, multiple choice",
        splits=("val", "test"),
        read=vqa.read_aokvqa_choice,
        metric=totals.mean_metric("accuracy", totals.right),
        parsers=_LETTERS,
        suffix=CHOICE_SUFFIX,
        submission=submissions.aokvqa_submission,
    ),
    Benchmark(
        name="aokvqa-direct",
        title="A-OKVQA, direct answers",
        splits=("val", "test"),
        read=vqa.read_aokvqa_direct,
        metric=totals.mean_metric(
            "accuracy", lambda item, answer: metrics.direct_answer_score(answer, item.references)
        ),
        parsers=_SHORT,
        suffix=SHORT_SUFFIX,
        submission=submissions.aokvqa_submission,
    ),
    Benchmark(
        name="docvqa",
        title="DocVQA",
        splits=("val", "test"),
        read=documents.read_docvqa,
        metric=totals.mean_metric("ANLS", _by_anls),
        parsers=_SHORT,
        suffix=SHORT_SUFFIX,
        max_new_tokens=32,
        published=_ov(73.7, 90.2, 93.1),
        submission=submissions.rrc_submission,
    ),
    Benchmark(
        name="infographicvqa",
        title="InfographicVQA",
        splits=("val", "test"),
        read=documents.read_infographicvqa,
        metric=totals.mean_metric("ANLS", _by_anls),
        parsers=_SHORT,
        suffix=SHORT_SUFFIX,
        max_new_tokens=32,
        published=_ov(46.3, 70.7, 79.2),
        submission=submissions.rrc_submission,
    ),
    Benchmark(
        name="chartqa",
        title="ChartQA",
        splits=("test", "val"),
        read=documents.read_chartqa,
        metric=totals.mean_metric(
            "relaxed accuracy", lambda item, answer: metrics.relaxed_match(answer, item.references[0])
        ),
        parsers=_SHORT,
        suffix=documents.SINGLE_WORD,
        published=_ov(61.4, 80.0, 83.7),
    ),
    Benchmark(
        name="ocrvqa",
        title="OCR-VQA",
        splits=("test", "val", "train"),
        read=vqa.read_ocrvqa,
        metric=totals.mean_metric("exact match", lambda item, answer: metrics.exact_match(answer, item.references[0])),
        parsers=_SHORT,
        suffix=SHORT_SUFFIX,
        max_new_tokens=32,
        note="OCR-VQA's training split is in LLaVA's training mix",
    ),
    Benchmark(
        name="scienceqa",
        title="ScienceQA-IMG",
        splits=("test", "val"),
        read=choice.read_scienceqa,
        metric=totals.mean_metric("accuracy", totals.right),
        parsers={"scienceqa": lambda item, reply: replies.letter_scienceqa(reply.strip(), item.choices), **_LETTERS},
        suffix=CHOICE_SUFFIX,
        published=_llava(66.8, 71.6, 70.1, 73.6, 72.8, 81.8),
    ),
    Benchmark(
        name="pope",
        title="POPE",
        splits=("coco",),
        read=choice.read_pope,
        metric=totals.pope_metric(),
        parsers=_YES,
        suffix=SHORT_SUFFIX,
        published=_llava(85.9, 85.9, 86.5, 86.2, 86.7, 87.7),
        submission=submissions.pope_submission,
    ),
    Benchmark(
        name="mmbench",
        title="MMBench, single pass",
        splits=("dev", "test", "dev-cn"),
        read=choice.read_mmbench,
        metric=totals.mean_metric("accuracy", totals.right),
        parsers=_LETTERS,
        suffix=CHOICE_SUFFIX,
        published=_llava(64.3, 67.7, 67.4, 70.0, 68.7, 79.3),
        note="published figures come from the server, which reads unclear replies by a language model",
        submission=submissions.mmbench_submission,
    ),
    Benchmark(
        name="mmbench-circular",
        title="MMBench, circular",
        splits=("dev", "dev-cn"),
        read=choice.read_mmbench_circular,
        metric=totals.together_metric("circular accuracy", totals.right, "accuracy"),
        parsers=_LETTERS,
        suffix=CHOICE_SUFFIX,
    ),
    Benchmark(
        name="mme",
        title="MME",
        splits=("test",),
        read=choice.read_mme,
        metric=totals.mme_metric(),
        parsers={"mme": lambda item, reply: replies.yes_no_mme(reply)},
        suffix=SHORT_SUFFIX,
        published=_llava(1510.7, 1531.3, 1519.0, 1575.0, 1498.0, 1631.0),
        submission=submissions.mme_submission,
    ),
    Benchmark(
        name="seed",
        title="SEED-Bench, images",
        splits=("test",),
        read=choice.read_seed,
        metric=totals.mean_metric("accuracy", totals.right),
        parsers=dict(reversed(list(_LETTERS.items()))),
        suffix=CHOICE_SUFFIX,
        published={"1.6-Vicuna-7B": 70.2, "1.6-Vicuna-13B": 71.9, "1.6-Mistral-7B": 72.2, "1.6-34B": 75.9},
        submission=submissions.seed_submission,
    ),
    Benchmark(
        name="mmvet",
        title="MM-Vet",
        splits=("test",),
        read=opened.read_mmvet,
        metric=totals.judged_metric(),
        parsers=_WHOLE,
        suffix="none",
        max_new_tokens=1024,
        published=_llava(31.1, 36.1, 43.9, 48.4, 47.3, 57.4),
        note="another judge gives other scores; published ones are GPT-4's",
        submission=submissions.mmvet_submission,
        judge="mmvet",
    ),
    Benchmark(
        name="llava-bench",
        title="LLaVA-Bench (in the wild)",
        splits=("test",),
        read=opened.read_llava_bench,
        metric=totals.relative_metric(),
        parsers=_WHOLE,
        suffix="none",
        max_new_tokens=1024,
        published=_llava(65.4, 72.5, 81.6, 87.3, 83.2, 89.6),
        note="another judge gives other scores; published ones are GPT-4's",
        submission=submissions.llava_bench_submission,
        judge="relative",
    ),
    Benchmark(
        name="nlvr",
        title="NLVR v1",
        splits=("test",),
        read=choice.read_nlvr,
        metric=totals.nlvr_metric(),
        parsers={"true/false": lambda item, reply: replies.true_false(reply)},
        suffix=JUDGE_SUFFIX,
        max_new_tokens=128,
    ),
    Benchmark(
        name="coco-captions",
        title="COCO captions",
        splits=("val", "test"),
        read=opened.read_coco_captions,
        metric=totals.caption_metric(),
        parsers=_WHOLE,
        suffix=opened.CAPTION_PROMPT,
        max_new_tokens=64,
        note="words are cut without Java, by rules made to agree with Stanford's",
        submission=submissions.coco_submission,
    ),
    Benchmark(
        name="flickr-captions",
        title="Flickr30k captions",
        splits=("test", "val"),
        read=opened.read_flickr_captions,
        metric=totals.caption_metric(),
        parsers=_WHOLE,
        suffix=opened.CAPTION_PROMPT,
        max_new_tokens=64,
    ),
    Benchmark(
        name="drawn",
        title="Tessera's drawings",
        splits=("held_out", "train"),
        read=opened.read_drawn,
        metric=totals.mean_metric("accuracy", _by_drawn),
        parsers=dict(reversed(list(_SHORT.items()))),
        suffix="none",
        max_new_tokens=96,
    ),
    Benchmark(
        name="drawn-captions",
        title="Captions of Tessera's drawings",
        splits=("held_out", "train"),
        read=opened.read_drawn_captions,
        metric=totals.caption_metric(),
        parsers=_WHOLE,
        suffix="none",
        max_new_tokens=64,
    ),
)


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark of a name.

    Raises:
        ConfigError: there is none; naming those that are.
    """
    found = next((one for one in BENCHMARKS if one.name == name), None)
    if found is None:
        raise ConfigError(f"--benchmark {name}: expected one of {', '.join(one.name for one in BENCHMARKS)}")
    return found
