"""Settings of the jobs that run a model over a corpus; their command lines are made from them.

What this does *not* do: look at the corpus, the model or the cluster (`flow` does, before any work starts).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import tyro

from llava_core.config import check_at_least, check_choice
from llava_core.engine import EngineName
from llava_core.engine.types import SamplingConfig
from llava_core.errors import ConfigError
from llava_core.resolution import Resolution, Task
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.inference.caption import CaptionInquiry
from pipelines.inference.inquiry import Inquiry
from pipelines.runtime import Node
from pipelines.sandbox import SandboxSettings

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["4bit", "8bit"]
DEFAULT_PROMPT = "Describe this image in detail."


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceConfig:
    """What all of them have in common."""

    input: tuple[str, ...]
    """Folders, Parquet files, WebDataset tars, JSONL or LLaVA JSON; local paths, s3:// or gs:// URIs."""
    output: str
    """The Delta table, made if it is missing; `gallery.html`, `run_report.html` and `_run/` go into its
    folder."""
    model: str = "tiny"
    """"tiny" (embedded), a checkpoint folder, local or the URI of one in a store, or a hub name."""
    model_revision: str | None = None
    """Revision of a hub name: a commit, tag or branch; the newest if left out."""
    max_new_tokens: int = 256
    """Most tokens of one reply."""
    temperature: float = 0.0
    """0 is greedy; above, tokens are drawn."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this."""
    top_k: int = 0
    """Only this many most likely tokens are drawn from; 0 for all."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that a reply has already become less likely in it."""
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A reply ends before this text; may be repeated."""
    seed: int = 0
    """Of the random choices, when the temperature is above 0."""
    max_tiles: int | None = None
    """Most tiles of an image beyond the base tile; lowers what the resolution allows."""
    visual_budget: int | None = None
    """Image tokens of an image, on average over the corpus: tiles go to the images with most detail. Within what
    `resolution` and `max_tiles` allow; a resolution of "auto" allows all tiles then."""
    resolution: Resolution = "auto"
    """Tiles of an image: low 0, medium up to 2, high all that the model was trained with; "auto" asks the task."""
    task: Task = "caption"
    """What the replies are for, when the resolution is "auto": tasks that read text take every tile, "general" lets
    each image decide."""
    limit: int | None = None
    """Stop after this many rows of the corpus; all if left out."""
    plan: bool = False
    """Run a sample, print rows, images/s, tokens/s and the time that the whole would take, and stop."""
    price_per_hour: float | None = None
    """Of one device (a GPU, or the cores of one worker), for the cost that --plan says; any currency."""
    retry_rejected: bool = False
    """Make the run's rejected rows again, once, beside what is missing; what becomes of them takes their place."""
    overwrite: bool = False
    """Remove other runs' rows (other prompt, model or settings) from the table once this run is complete."""
    num_workers: int | None = None
    """Engines, one in each actor; as many as the cluster carries if left out."""
    gpus_per_worker: float | None = None
    """GPUs of each engine, fractions allowed, 0 for CPU only; 1 where the cluster has GPUs if left out."""
    dtype: Dtype = "auto"
    """Of the weights; "auto" is bfloat16 on a GPU and float32 elsewhere."""
    quantize: Quantize | None = None
    """The language model in 4 or 8 bits, by bitsandbytes (the `[quantize]` extra); as it is stored if left out."""
    engine: EngineName = "packed"
    """"packed": no padding, images and prefixes shared. "reference": transformers' `generate` on padded batches, for
    language models that packed attention has not been proven for, and to compare with. "vllm": vLLM, on GPUs, installed
    by Ray into an environment of its own."""
    ray_address: str | None = None
    """A running Ray cluster; without one, and outside of `ray job submit`, Ray starts on this machine."""
    batch_size: int = 8
    """Requests that an engine decodes together. Not part of a run's identity: it may be lowered between attempts."""
    decoder_seconds: float = 20.0
    """Processor time for decoding one image, above which it is refused (TIMEOUT)."""
    decoder_bytes: int = 2 * 2**30
    """Memory of a decoding process, above which an image is refused (MEMORY)."""
    decoders: int | None = None
    """Processes that decode for each engine; by its share of the cores if left out, one up to 4 cores."""
    engine_timeout: float = 600.0
    """Seconds in which an engine makes no step at all, after which it counts as hung: its requests are tried in smaller
    groups, and the one that hangs it alone is refused (TIMEOUT)."""
    stall_timeout: float = 1800.0
    """Seconds in which no worker finishes a fragment or a chunk of it, makes a step of its engine or begins it anew,
    after which the job gives up rather than hang; more than `engine_timeout`, or a hung engine would end the job."""
    corpus: Annotated[CorpusSettings, tyro.conf.arg(name="")] = field(default_factory=CorpusSettings)
    """How the inputs are listed, cut and read."""
    columns: CorpusColumns = field(default_factory=CorpusColumns)
    """Where a table's rows keep their images and texts."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ConfigError("input is empty; expected at least one folder, file or URI of images")
        for name in ("output", "model"):
            if not str(getattr(self, name)).strip():
                raise ConfigError(f"{name} is empty; expected text")
        check_choice("config", "resolution", self.resolution, get_args(Resolution))
        check_choice("config", "task", self.task, get_args(Task))
        check_choice("config", "dtype", self.dtype, get_args(Dtype))
        check_choice("config", "engine", self.engine, get_args(EngineName))
        check_choice("config", "quantize", self.quantize or "4bit", get_args(Quantize))
        for name in ("limit", "num_workers", "batch_size", "decoders", "visual_budget"):
            check_at_least("config", name, 1 if getattr(self, name) is None else getattr(self, name), 1)
        for name in ("max_tiles", "gpus_per_worker", "price_per_hour"):
            check_at_least("config", name, getattr(self, name) or 0, 0)
        for name in ("stall_timeout", "engine_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"config.{name} is {getattr(self, name)}; expected more than 0 seconds, and finite")
        if self.stall_timeout <= self.engine_timeout:
            raise ConfigError(
                f"config.stall_timeout is {self.stall_timeout:g}; expected more than config.engine_timeout "
                f"({self.engine_timeout:g}), or the job would give up before a hung engine is found"
            )
        _ = self.sampling, self.sandbox

    @property
    def inquiry(self) -> Inquiry:
        """What is asked."""
        raise NotImplementedError

    def gpus_for(self, cluster: Sequence[Node]) -> float:
        """GPUs of each engine on a cluster."""
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker
        return float(any(node.gpus >= 1 for node in cluster))

    @property
    def sandbox(self) -> SandboxSettings:
        """Limits of the processes that decode."""
        return SandboxSettings(cpu_seconds=self.decoder_seconds, memory_bytes=self.decoder_bytes)

    @property
    def sampling(self) -> SamplingConfig:
        """How the engine chooses tokens."""
        return SamplingConfig(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            stop=self.stop,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionConfig(InferenceConfig):
    """Caption every image of a corpus into a Delta table."""

    prompt: str = DEFAULT_PROMPT
    """What the model is asked about each image."""

    def __post_init__(self) -> None:
        InferenceConfig.__post_init__(self)
        if not self.prompt.strip():
            raise ConfigError("prompt is empty; expected text")

    @property
    def inquiry(self) -> CaptionInquiry:
        """The prompt."""
        return CaptionInquiry(prompt=self.prompt)
