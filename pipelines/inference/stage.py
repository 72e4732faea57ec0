"""The stage as Ray sees it: a thin actor around `rows.generate_rows`, and the stream of its receipts.

A piece of work travels to an actor as JSON, a receipt comes back as JSON; images and rows never pass the object store
or the driver. What this does *not* do: commit (`flow`), or decide how many actors there are (`runtime`).
"""

import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data
import torch

from llava_core.checkpoints import load_model, resolve_model
from llava_core.engine import ENGINES, EngineName
from llava_core.errors import TesseraError
from llava_core.processor import LLaVAProcessor
from pipelines.corpus import read_fragment
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.fragments import CorpusRow, Fragment
from pipelines.inference.config import Dtype
from pipelines.inference.inquiry import Inquiry
from pipelines.inference.rows import Generator, RunSettings, generate_rows
from pipelines.inference.work import Work
from pipelines.parts import PartFile, Receipt, write_fragment
from pipelines.runtime import WorkerPlan
from pipelines.storage import fsspec_options

MAX_ATTEMPTS = 4
"""Times that a fragment is begun, its worker having died, before the job stops: Ray itself would begin it for ever."""


class WorkerError(TesseraError):
    """A worker found a broken contract (`InputChanged`, `PartError`, …) and says so; stops the job."""


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


class Attempts:
    """How often each fragment was begun; one small actor of a job, which outlives its workers."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, fragment_id: str) -> int:
        """Count one more, and return how many it are."""
        self._begun[fragment_id] += 1
        return self._begun[fragment_id]


class InferenceStage:
    """One engine, held by one actor; called with work, answers with receipts."""

    def __init__(self, spec: StageSpec, threads: int, device: str, attempts: Any = None) -> None:
        torch.set_num_threads(threads)
        self.spec = spec
        self.attempts = attempts
        self.engine = load_engine(spec, device)

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Do one piece of work and write its part files; `row` and answer hold JSON.

        A broken contract comes back as "broken", because an exception that crosses Ray loses its type and its cause.
        """
        try:
            receipt = self.generate(Work.from_json(json.loads(row["work"])))
        except TesseraError as error:
            return {"receipt": "", "broken": f"{type(error).__name__}: {error}"}
        return {"receipt": json.dumps(dataclasses.asdict(receipt)), "broken": ""}

    def generate(self, work: Work) -> Receipt:
        """Do one piece of work and write its part files.

        Raises:
            WorkerError: it has been begun too often.
            TesseraError: the corpus or the store breaks its contract.
        """
        fragment = work.fragment
        if ray.get(self.attempts.begin.remote(work.work_id)) > MAX_ATTEMPTS:
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
        return generate_rows(rows, self.engine, self.spec.settings, self.spec.inquiry, work)

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


def corpus_options(uri: str, options: dict[str, str]) -> dict[str, Any]:
    """Storage options as the corpus readers take them: fsspec's, without the listing cache that they switch off."""
    return {name: value for name, value in fsspec_options(uri, options).items() if name != "use_listings_cache"}


def stream_receipts(works: Sequence[Work], spec: StageSpec, workers: WorkerPlan) -> Iterator[Receipt]:
    """Send work through actors, and give their receipts as they come, in any order.

    A piece of work is one block and so one task: a worker that dies takes nothing finished with it.

    Raises:
        WorkerError: a worker found a broken contract.
    """
    rows = [{"work": json.dumps(work.to_json())} for work in works]
    # a warning that progress bars are off, which they are on purpose
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    # Ray types both arguments as functions; of classes it makes actors
    stage: Any = InferenceStage
    counter: Any = ray.remote(Attempts)
    attempts = counter.options(num_cpus=0).remote()
    receipts = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        stage,
        fn_constructor_args=(spec, workers.threads, device_of(workers), attempts),
        compute=ray.data.ActorPoolStrategy(size=min(workers.num_actors, len(rows))),
        num_cpus=workers.num_cpus,
        num_gpus=workers.num_gpus,
    )
    for row in receipts.iter_rows():
        if row["broken"]:
            raise WorkerError(row["broken"])
        values = json.loads(row["receipt"])
        yield Receipt(**{**values, "files": tuple(PartFile(**file) for file in values["files"])})


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
