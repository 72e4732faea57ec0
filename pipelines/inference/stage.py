"""The stage as Ray sees it: a thin actor around `rows.generate_rows`, and a sample run through one.

What this does *not* do: commit (`flow`), or decide how many actors there are (`runtime`).
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import torch

from llava_core.checkpoints import load_model, resolve_model
from llava_core.engine import ENGINES, EngineName
from llava_core.processor import LLaVAProcessor
from pipelines.corpus import read_fragment
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.fragments import CorpusRow, Fragment
from pipelines.inference.config import Dtype
from pipelines.inference.inquiry import Inquiry
from pipelines.inference.prepare import RunSettings
from pipelines.inference.rows import Generator, generate_rows
from pipelines.inference.work import Work
from pipelines.parts import Receipt, write_fragment
from pipelines.runtime import WorkerPlan
from pipelines.sandbox import Sandbox, SandboxSettings
from pipelines.stages import FragmentStage, WorkerError, stream_receipts
from pipelines.storage import corpus_options

MAX_ATTEMPTS = 4
"""Times that a fragment is begun, its worker having died, before the job stops: Ray itself would begin it for ever."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """What an actor needs to start: plain values, none of them a secret except `storage_options`."""

    settings: RunSettings
    """Everything that changes a row, beside what is asked."""
    inquiry: Inquiry
    """What is asked."""
    model: str
    """What a worker finds the checkpoint by: "tiny", an absolute folder, or `owner/name@commit`."""
    dtype: Dtype
    """Of the weights; "auto" is bfloat16 on a GPU and float32 elsewhere."""
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
    """Limits of the process that decodes images."""


class InferenceStage(FragmentStage):
    """One engine and one decoding process, held by one actor; called with work, answers with receipts."""

    def __init__(self, spec: StageSpec, threads: int, device: str, attempts: Any = None) -> None:
        super().__init__(attempts)
        torch.set_num_threads(threads)
        self.spec = spec
        self.engine = load_engine(spec, device)
        self.sandbox = Sandbox(spec.sandbox)

    def do(self, work: Mapping[str, Any]) -> Receipt:
        """Do one piece of work, as JSON."""
        return self.generate(Work.from_json(work))

    def generate(self, work: Work) -> Receipt:
        """Do one piece of work and write its part files.

        Raises:
            WorkerError: it has been begun too often.
            TesseraError: the corpus or the store breaks its contract.
        """
        fragment = work.fragment
        if self.begun(work.work_id) > MAX_ATTEMPTS:
            raise WorkerError(
                f"fragment {work.work_id} ({fragment.row_uri(0)} and {fragment.num_rows - 1} more rows) "
                f"has killed {MAX_ATTEMPTS} workers; the others are committed. Leave its files out, or give workers "
                "more memory"
            )
        return write_fragment(
            self._rows(self._read(fragment), work),
            self.spec.inquiry.schema,
            table_uri=self.spec.table_uri,
            fragment_id=work.work_id,
            run_id=self.spec.settings.run_id,
            storage_options=self.spec.storage_options,
        )

    def measure(self, works: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Do work without writing anything, its first row once more beforehand to warm up.

        Returns:
            Figures named rows, rejected, seconds, tokens (generated ones).
        """
        # read beforehand, so that the seconds are the engine's
        sample = [(work, list(self._read(work.fragment))) for work in map(Work.from_json, works)]
        for work, rows in sample[:1]:
            self._rows(rows[:1], work)
        started = time.perf_counter()
        tables = [self._rows(rows, work) for work, rows in sample]
        seconds = time.perf_counter() - started
        tokens = sum(count or 0 for table in tables for count in table["num_output_tokens"].to_pylist())
        rejected = sum(len(table["error"].drop_null()) for table in tables)
        rows_out = sum(table.num_rows for table in tables)
        return {"rows": rows_out, "rejected": rejected, "seconds": seconds, "tokens": tokens}

    def _rows(self, rows: Iterable[CorpusRow], work: Work) -> pa.Table:
        return generate_rows(rows, self.engine, self.sandbox, self.spec.settings, self.spec.inquiry, work)

    def _read(self, fragment: Fragment) -> Iterator[CorpusRow]:
        return read_fragment(
            fragment,
            storage_options=corpus_options(fragment.root, self.spec.storage_options),
            columns=self.spec.columns,
            settings=self.spec.corpus,
        )


def load_engine(spec: StageSpec, device: str) -> Generator:
    """Load the checkpoint and put an engine around it.

    Raises:
        CheckpointRefused: with the reason.
    """
    folder = resolve_model(spec.model)
    auto = "bfloat16" if device.startswith("cuda") else "float32"
    model = load_model(folder, dtype=getattr(torch, auto if spec.dtype == "auto" else spec.dtype), device=device)
    engine = ENGINES[spec.engine]
    return engine(model, LLaVAProcessor.from_pretrained(folder), batch_size=spec.batch_size, device=device)


def stream_inferred(works: Sequence[Work], spec: StageSpec, workers: WorkerPlan) -> Iterator[Receipt]:
    """Send work through actors, and give their receipts as they come; see `stages.stream_receipts`."""
    arguments = (spec, workers.threads, device_of(workers))
    return stream_receipts([work.to_json() for work in works], InferenceStage, arguments, workers)


def measure_sample(works: Sequence[Work], spec: StageSpec, workers: WorkerPlan) -> dict[str, float]:
    """Run a sample through one actor of the kind that the job would use; see `InferenceStage.measure`."""
    options = {"num_cpus": workers.num_cpus, "num_gpus": workers.num_gpus}
    remote: Any = ray.remote(InferenceStage)
    actor = remote.options(**options).remote(spec, workers.threads, device_of(workers))
    figures: dict[str, float] = ray.get(actor.measure.remote([work.to_json() for work in works]))
    ray.kill(actor)
    return figures


def device_of(workers: WorkerPlan) -> str:
    """Where a worker's engine runs: by what it asks Ray for, never by what the driver happens to have."""
    return "cuda" if workers.num_gpus else "cpu"
