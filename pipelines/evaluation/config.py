"""Settings of the evaluation job; its command line is made from them.

Those that the answering job has too have the same names and meanings, and are handed on to it. What this does *not* do:
look at files, the model or the cluster.
"""

from dataclasses import dataclass
from typing import Any, Literal

from llava_core.config import check_at_least
from llava_core.errors import ConfigError
from llava_core.resolution import Resolution
from pipelines.evaluation.benchmarks import Benchmark, find_benchmark

HANDED_ON = (
    *("model", "model_revision", "max_tiles", "resolution", "dtype", "engine", "batch_size"),
    *("num_workers", "gpus_per_worker", "ray_address", "overwrite", "plan"),
)
"""Settings that go to the answering job as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Run benchmarks and score the answers as the benchmarks' own tools do."""

    benchmark: tuple[str, ...] = ("drawn",)
    """Which, one after the other: vqav2, gqa, vizwiz, textvqa, okvqa, aokvqa, aokvqa-direct, docvqa, infographicvqa,
    chartqa, ocrvqa, scienceqa, pope, mmbench, mmbench-circular, mme, seed, mmvet, llava-bench, nlvr, coco-captions,
    flickr-captions, drawn, drawn-captions."""
    data: tuple[str, ...] = ()
    """Folder of the official files; for several benchmarks NAME=FOLDER each. The drawings need none."""
    images: str | None = None
    """Folder that images are named below; that of the data if left out."""
    split: str | None = None
    """Part of the benchmark; the one that is reported most if left out."""
    output: str = "out/evaluate"
    """Folder, of a store too, for answers, scores, submission files, `results.json` and `results.html`; all nodes of a
    cluster have to see it."""
    model: str = "tiny"
    """"tiny" (embedded), a checkpoint folder, local or the URI of one in a store, or a hub name."""
    model_revision: str | None = None
    """Revision of a hub name; the newest if left out."""
    answers: str | None = None
    """JSONL file of answers made elsewhere (`question_id`, `text`), scored in place of a model's."""
    parser: str | None = None
    """How replies are read, where a benchmark knows several ways; its tool's own if left out, but letters strictly for
    MMBench, whose tool asks a language model, and A-OKVQA."""
    ocr_tokens: bool = False
    """Give TextVQA's OCR tokens in the prompt, as LLaVA 1.5 was evaluated."""
    max_new_tokens: int | None = None
    """Most tokens of a reply; the benchmark's own setting if left out."""
    max_tiles: int | None = None
    """Most tiles of an image beyond the base tile."""
    resolution: Resolution = "high"
    """Tiles of an image: low 0, medium up to 2, high all that the model was trained with."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; "auto" is bfloat16 on a GPU and float32 elsewhere."""
    engine: Literal["packed", "reference"] = "packed"
    """"packed", or "reference": transformers' `generate`."""
    batch_size: int = 32
    """Requests that an engine decodes together."""
    limit: int | None = None
    """Only about this many items, evenly spread, images with all their questions: a partial score, said to be one."""
    num_drawings: int = 60
    """Drawings that the benchmark "drawn" makes where --data is not given."""
    judge_url: str | None = None
    """OpenAI-compatible endpoint (…/v1) that scores MM-Vet and LLaVA-Bench; the key is read from OPENAI_API_KEY."""
    judge_model: str = "gpt-4-0613"
    """Model that the judge's endpoint is asked for."""
    compare: tuple[str, ...] = ()
    """Two output folders of earlier calls: compare them and run nothing."""
    report: tuple[Literal["hallucination"], ...] = ()
    """Reports to add to the page."""
    synonyms: str | None = None
    """File of object names for --report hallucination, as CHAIR's synonyms.txt: a line an object, commas between."""
    num_workers: int | None = None
    """Engines, one in each actor; as many as the cluster carries if left out."""
    gpus_per_worker: float | None = None
    """GPUs of each engine; 1 where the cluster has GPUs if left out."""
    overwrite: bool = False
    """Remove other runs' answers from the table once this run is complete."""
    plan: bool = False
    """Run a sample, print how long the whole would take, and stop."""
    ray_address: str | None = None
    """A running Ray cluster; without one Ray starts on this machine."""

    def __post_init__(self) -> None:
        if len(self.compare) not in (0, 2):
            raise ConfigError(f"--compare has {len(self.compare)} folders; expected two")
        if not self.benchmark or len(set(self.benchmark)) < len(self.benchmark):
            raise ConfigError(f"--benchmark is {list(self.benchmark)}; expected at least one name, each once")
        for benchmark in self.benchmarks:
            self._check(benchmark)
        for name in ("limit", "max_new_tokens", "num_drawings", "batch_size"):
            check_at_least("config", name, 1 if getattr(self, name) is None else getattr(self, name), 1)
        if self.answers is not None and len(self.benchmark) > 1:
            raise ConfigError("--answers goes with one --benchmark")
        if self.synonyms is not None and "hallucination" not in self.report:
            raise ConfigError("--synonyms goes with --report hallucination")
        if not self.compare:
            _ = self.folders

    def _check(self, benchmark: Benchmark) -> None:
        if self.split is not None and self.split not in benchmark.splits:
            raise ConfigError(f"--split {self.split}: {benchmark.name} has {', '.join(benchmark.splits)}")
        if self.parser is not None and self.parser not in benchmark.parsers:
            names = ", ".join(f'"{name}"' for name in benchmark.parsers)
            raise ConfigError(f"--parser {self.parser!r}: {benchmark.name} has {names}")
        if self.ocr_tokens and not benchmark.ocr:
            raise ConfigError(f"--ocr-tokens: {benchmark.name} has none")

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """What is run."""
        return tuple(map(find_benchmark, self.benchmark))

    @property
    def folders(self) -> dict[str, str]:
        """Benchmark → folder of its files; none for the drawings unless one is given.

        Raises:
            ConfigError: a benchmark has none, or a folder is no benchmark's.
        """
        named = {}
        plain = []
        for entry in self.data:
            name, equals, folder = entry.partition("=")
            if equals and name in self.benchmark:
                named[name] = folder
            else:
                plain.append(entry)
        needing = [name for name in self.benchmark if name not in named and not name.startswith("drawn")]
        if plain and not needing and len(self.benchmark) == 1:
            needing = list(self.benchmark)
        if len(plain) != len(needing) or len(plain) > 1:
            raise ConfigError(
                f"--data {' '.join(self.data) or '(nothing)'}: {', '.join(needing) or 'no benchmark'} needs a folder "
                "of official files; give one folder, or NAME=FOLDER for each benchmark"
            )
        return named | dict(zip(needing, plain, strict=True))

    def handed_on(self) -> dict[str, Any]:
        """Settings for the answering job."""
        return {name: getattr(self, name) for name in HANDED_ON}
