"""The probe as Ray sees it: a thin actor around `probe.probe_rows`, and the stream of its receipts.

A fragment travels to an actor as JSON, a receipt comes back as JSON; images and rows never pass the object store or
the driver. What this does *not* do: commit (`flow`), or decide how many actors there are.
"""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data
from tokenizers import Tokenizer

from llava_core.errors import TesseraError
from pipelines.corpus import read_fragment
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.corpus_sources import normalise
from pipelines.curation.probe import ProbeSettings, probe_rows
from pipelines.curation.sandbox import Sandbox
from pipelines.curation.scorers import load_scorers
from pipelines.fragments import Fragment
from pipelines.parts import PartFile, Receipt, write_fragment
from pipelines.runtime import WorkerPlan
from pipelines.storage import fsspec_options
from schemas.score import SCORE

MAX_ATTEMPTS = 4
"""Times that a fragment is begun, its worker having died, before the job stops: Ray itself would begin it for ever."""


class ProbeError(TesseraError):
    """A worker found a broken contract (`InputChanged`, `PartError`, …) and says so; stops the job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSpec:
    """What an actor needs to start."""

    settings: ProbeSettings
    """Everything that changes a row."""
    tokenizer: str | None
    """`tokenizer.json` of the model; None estimates."""
    scorers: tuple[str, ...]
    """Models that score images, by name."""
    corpus: CorpusSettings
    """How fragments are read."""
    columns: CorpusColumns
    """Where rows keep their images."""
    table_uri: str
    """Where rows go."""
    storage_options: Mapping[str, str]
    """Of the stores; see `pipelines.storage.storage_options`."""


class Attempts:
    """How often each fragment was begun; one small actor of a job, which outlives its workers."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, fragment_id: str) -> int:
        """Count one more, and return how many it are."""
        self._begun[fragment_id] += 1
        return self._begun[fragment_id]


class ProbeStage:
    """One sandbox and its scorers, held by one actor; called with fragments, answers with receipts."""

    def __init__(self, spec: ProbeSpec, attempts: Any = None) -> None:
        self.spec = spec
        self.attempts = attempts
        self.scorers = load_scorers(spec.scorers)
        square = self.scorers[0].side if self.scorers else 0
        self.sandbox = Sandbox(dataclasses.replace(spec.settings.sandbox, square=square))
        self.tokenizer = None if spec.tokenizer is None else Tokenizer.from_str(spec.tokenizer)

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Probe one fragment and write its part files; a broken contract comes back as "broken"."""
        try:
            receipt = self.probe(Fragment.from_json(json.loads(row["fragment"])))
        except TesseraError as error:
            return {"receipt": "", "broken": f"{type(error).__name__}: {error}"}
        return {"receipt": json.dumps(dataclasses.asdict(receipt)), "broken": ""}

    def probe(self, fragment: Fragment) -> Receipt:
        """Probe one fragment and write its part files.

        Raises:
            ProbeError: it has been begun too often.
            TesseraError: the corpus or the store breaks its contract.
        """
        if ray.get(self.attempts.begin.remote(fragment.fragment_id)) > MAX_ATTEMPTS:
            raise ProbeError(
                f"fragment {fragment.fragment_id} ({fragment.row_uri(0)} and {fragment.num_rows - 1} more rows) "
                f"has killed {MAX_ATTEMPTS} workers; the others are committed. Leave its files out, or give workers "
                "more memory"
            )
        return write_fragment(
            self.table(fragment),
            SCORE,
            table_uri=self.spec.table_uri,
            fragment_id=fragment.fragment_id,
            run_id=self.spec.settings.run_id,
            storage_options=self.spec.storage_options,
        )

    def table(self, fragment: Fragment) -> pa.Table:
        """Probe one fragment: rows of SCORE."""
        spec = self.spec
        options = corpus_options(fragment.row_uri(0), spec.storage_options)
        rows = read_fragment(fragment, storage_options=options, columns=spec.columns, settings=spec.corpus)
        return probe_rows(
            rows,
            self.sandbox,
            spec.settings,
            fragment_id=fragment.fragment_id,
            root=normalise(fragment.source),
            tokenizer=self.tokenizer,
            scorers=self.scorers,
        )


def corpus_options(uri: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Storage options as the corpus readers take them: fsspec's, without the listing cache that they switch off."""
    return {name: value for name, value in fsspec_options(uri, options).items() if name != "use_listings_cache"}


def stream_receipts(fragments: Sequence[Fragment], spec: ProbeSpec, workers: WorkerPlan) -> Iterator[Receipt]:
    """Send fragments through actors, and give their receipts as they come, in any order.

    A fragment is one block and so one task: a worker that dies takes no finished fragment with it.

    Raises:
        ProbeError: a worker found a broken contract.
    """
    rows = [{"fragment": json.dumps(fragment.to_json())} for fragment in fragments]
    # a warning that progress bars are off, which they are on purpose
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    # Ray types both arguments as functions; of classes it makes actors
    stage: Any = ProbeStage
    counter: Any = ray.remote(Attempts)
    attempts = counter.options(num_cpus=0).remote()
    receipts = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        stage,
        fn_constructor_args=(spec, attempts),
        compute=ray.data.ActorPoolStrategy(size=min(workers.num_actors, len(rows))),
        num_cpus=workers.num_cpus,
    )
    for row in receipts.iter_rows():
        if row["broken"]:
            raise ProbeError(row["broken"])
        values = json.loads(row["receipt"])
        yield Receipt(**{**values, "files": tuple(PartFile(**file) for file in values["files"])})
