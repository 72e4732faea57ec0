"""The stage as Ray sees it: a thin actor around `rows.generate_rows`, and a sample run through one.

The actor reads, and keeps what may die at arm's length: images are decoded in processes of their own (`decoders`), the
engine runs in one (`engine_guard`). What this does *not* do: commit (`flow`), or decide how many actors there are
(`runtime`).
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from llava_core.checkpoints import resolve_model
from llava_core.engine import EngineName
from llava_core.errors import ImageReason
from pipelines.corpus import read_fragment
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.fragments import CorpusRow, Fragment, rejected_row
from pipelines.inference.config import Dtype, Quantize
from pipelines.inference.decoders import Decoders, decoders_for
from pipelines.inference.engine_guard import FACTORY, EngineGuard, EngineSpec
from pipelines.inference.inquiry import Inquiry
from pipelines.inference.prepare import RunSettings
from pipelines.inference.replies import Replies
from pipelines.inference.rows import generate_rows
from pipelines.inference.work import Work
from pipelines.known_rows import take_over, unknown_rows
from pipelines.parts import Receipt, write_fragment
from pipelines.runtime import WorkerPlan
from pipelines.sandbox import SandboxSettings
from pipelines.stages import FragmentStage, stream_receipts
from pipelines.storage import corpus_options

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
"""Times that a fragment is begun, its worker having died, before its rows are rejected: Ray itself would begin it for
ever. What decodes and what generates cannot end a worker, so it was reading, or somebody killed it eight times."""

SIGN_SECONDS = 1.0
"""Between two signs of life: images are decoded by the hundred in a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """What an actor needs to start: plain values, none of them a secret except `storage_options`."""

    settings: RunSettings
    """Everything that changes a row, beside what is asked."""
    inquiry: Inquiry
    """What is asked."""
    model: str
    """What a worker finds the checkpoint by: "tiny", an absolute folder, `owner/name@commit`, or a URI."""
    dtype: Dtype
    """Of the weights; "auto" is bfloat16 on a GPU and float32 elsewhere."""
    quantize: Quantize | None
    """Bits of the language model; None leaves it as it is stored."""
    engine: EngineName
    """Which engine."""
    batch_size: int
    """Requests that the engine decodes together."""
    corpus: CorpusSettings
    """How fragments are read."""
    columns: CorpusColumns
    """Where rows keep their images."""
    table_uri: str
    """Where rows go."""
    storage_options: dict[str, str]
    """Of the stores; see `pipelines.storage.storage_options`."""
    sandbox: SandboxSettings
    """Limits of the processes that decode images."""
    engine_timeout: float
    """Seconds without a pass through the model after which the engine is ended."""
    decoders: int | None = None
    """Processes that decode for each engine; by its share of the cores if None."""
    engine_factory: str = FACTORY
    """What makes the engine."""
    runtime_env: dict[str, Any] | None = None
    """Ray's, of the workers, where their engine needs another environment than the cluster's."""


class InferenceStage(FragmentStage):
    """One engine and its decoders, held by one actor; called with work, answers with receipts."""

    def __init__(self, spec: StageSpec, threads: int, device: str, attempts: Any = None) -> None:
        super().__init__(attempts)
        self.spec, self.threads, self.device = spec, threads, device
        count = spec.decoders or decoders_for(threads, on_gpu=device != "cpu")
        self._sign, self._early = -math.inf, 0
        self.decoders = Decoders(spec.sandbox, count, spec.settings.config, self._alive)
        self.replies = Replies()
        self._restarts = 0
        # at once, because loading takes longer than what comes before the first row
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="engine").submit(self._start)

    @property
    def engine(self) -> EngineGuard:
        """The engine, as soon as it is there: a refusal of the checkpoint is the answer to the first work."""
        return self._engine.result()

    def _start(self) -> EngineGuard:
        spec = self.spec
        return EngineGuard(
            EngineSpec(
                folder=spec.model if "://" in spec.model else str(resolve_model(spec.model)),
                dtype=spec.dtype,
                quantize=spec.quantize,
                engine=spec.engine,
                batch_size=spec.batch_size,
                device=self.device,
                threads=self.threads,
                timeout=spec.engine_timeout,
                factory=spec.engine_factory,
            ),
            moved=self._moved,
            options=spec.storage_options,
        )

    def _moved(self, tokens: int) -> None:
        """Say how many tokens have gone through the engine, long before a row is done; with none it is just alive."""
        if not tokens:
            return self._alive()
        self._early += tokens
        self.note(0, tokens)
        return None

    def _made(self, rows: int, tokens: int) -> None:
        """Say how many rows are done; of their tokens only those that were not told on the way."""
        self.note(rows, max(tokens - self._early, 0))
        self._early = 0

    def _alive(self) -> None:
        """Give a sign of life, unless one was given within a second: each is a message to another process."""
        if (now := time.monotonic()) - self._sign >= SIGN_SECONDS:
            self._sign = now
            self.note(0, 0)

    def do(self, work: Mapping[str, Any]) -> Receipt:
        """Do one piece of work, as JSON."""
        return self.generate(Work.from_json(work))

    def generate(self, work: Work) -> Receipt:
        """Do one piece of work and write its part files.

        Raises:
            EngineError: the engine is broken.
            TesseraError: the corpus or the store breaks its contract.
        """
        given_up = self.begun(work.work_id) > MAX_ATTEMPTS
        part, places = unknown_rows(work.fragment, work.known)
        found = self._given_up(part) if given_up else self._read(part)
        rows = (replace(row, index=places[row.index]) for row in found)
        place: dict[str, Any] = {
            "table_uri": self.spec.table_uri,
            "run_id": self.spec.settings.run_id,
            "storage_options": self.spec.storage_options,
        }
        made = self._rows(rows, work, self.replies)
        self._count(made)
        table = take_over(work.fragment, work.known, made, **place)
        return write_fragment(table, self.spec.inquiry.schema, fragment_id=work.work_id, **place)

    def _count(self, rows: pa.Table) -> None:
        """Count what the rows took, for `metrics`."""
        for kind, column in (("prompt", "prompt"), ("image", "image"), ("generated", "output")):
            self.counts[f"tokens/{kind}"] = pc.sum(rows[f"num_{column}_tokens"], min_count=0).as_py()
        # the base tile beside the grid
        tiles = pc.add(pc.multiply(rows["grid_rows"], rows["grid_cols"]), 1)
        self.counts["tiles"] = pc.sum(tiles, min_count=0).as_py()
        self.counts["requests/new"], self.counts["requests/known"] = self.replies.new, self.replies.known
        self.counts["engine_restarts"] = self.engine.restarts - self._restarts
        self._restarts = self.engine.restarts

    def close(self) -> None:
        """End its processes."""
        self.decoders.close()
        if not self._engine.exception():
            self.engine.close()

    def measure(self, works: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Do work without writing anything, its first row that is asked about once more beforehand to warm up.

        Returns:
            For each piece of work: rows, rejected, seconds, tokens (generated), and prompts (tokens of each).
        """
        # read beforehand, so that the seconds are the engine's
        sample = [(work, list(self._read(work.fragment))) for work in map(Work.from_json, works)]
        for work, rows in sample[:1]:
            self._rows([row for row in rows if row.index in work.asked][:1], work, Replies())
        # a sample of its own, not what earlier parts of it have answered
        return [self._measured(work, rows, Replies()) for work, rows in sample]

    def _measured(self, work: Work, rows: Sequence[CorpusRow], replies: Replies) -> dict[str, Any]:
        started = time.perf_counter()
        table = self._rows(rows, work, replies)
        return {
            "rows": table.num_rows,
            "rejected": len(table["error"].drop_null()),
            "seconds": time.perf_counter() - started,
            "tokens": sum(table["num_output_tokens"].drop_null().to_pylist()),
            "prompts": table["num_prompt_tokens"].drop_null().to_pylist(),
        }

    def _rows(self, rows: Iterable[CorpusRow], work: Work, replies: Replies) -> pa.Table:
        spec = self.spec
        return generate_rows(rows, self.engine, self.decoders, spec.settings, spec.inquiry, work, replies, self._made)

    def _given_up(self, fragment: Fragment) -> Iterator[CorpusRow]:
        """Rows of a fragment that nobody dares to read again."""
        detail = f"the worker that read its fragment ended {MAX_ATTEMPTS} times"
        log.warning("fragment %s is rejected whole: %s", fragment.fragment_id, detail)
        for index in range(fragment.num_rows):
            yield rejected_row(fragment, index, ImageReason.DECODER_CRASH, detail)

    def _read(self, fragment: Fragment) -> Iterator[CorpusRow]:
        return read_fragment(
            fragment,
            storage_options=corpus_options(fragment.root, self.spec.storage_options, *self.spec.corpus.places),
            columns=self.spec.columns,
            settings=self.spec.corpus,
        )


def stream_inferred(
    works: Sequence[Work], spec: StageSpec, workers: WorkerPlan, noted: Callable[[int, int, int], None] | None = None
) -> Iterator[Receipt]:
    """Send work through actors, and give their receipts as they come; see `stages.stream_receipts`."""
    arguments = (spec, workers.threads, device_of(workers))
    plain = (work.to_json() for work in works)
    return stream_receipts(plain, InferenceStage, arguments, workers, noted, runtime_env=spec.runtime_env)


def measure_sample(works: Sequence[Work], spec: StageSpec, workers: WorkerPlan) -> list[dict[str, Any]]:
    """Run a sample through one actor of the kind that the job would use; see `InferenceStage.measure`."""
    options = {"num_cpus": workers.num_cpus, "num_gpus": workers.num_gpus, "runtime_env": spec.runtime_env}
    remote: Any = ray.remote(InferenceStage)
    actor = remote.options(**options).remote(spec, workers.threads, device_of(workers))
    figures: list[dict[str, Any]] = ray.get(actor.measure.remote([work.to_json() for work in works]))
    ray.get(actor.close.remote())
    ray.kill(actor)
    return figures


def device_of(workers: WorkerPlan) -> str:
    """Where a worker's engine runs: by what it asks Ray for, never by what the driver happens to have."""
    return "cuda" if workers.num_gpus else "cpu"
