"""The probe as Ray sees it: a thin actor around `probe.probe_rows`, and the stream of its receipts.

A fragment travels to an actor as JSON, a receipt comes back as JSON; images and rows never pass the object store or
the driver. What this does *not* do: commit (`flow`), or decide how many actors there are.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

from llava_core.errors import TesseraError
from pipelines.corpus import read_fragment
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.curation.looker import Looker
from pipelines.curation.probe import ProbeSettings, input_root, probe_rows
from pipelines.curation.scorers import load_scorers
from pipelines.curation.shard_plan import narrow_piece
from pipelines.fragments import Fragment
from pipelines.known_rows import NOTHING_KNOWN, Known, take_over, unknown_rows
from pipelines.parts import Receipt, write_fragment
from pipelines.runtime import WorkerPlan
from pipelines.stages import FragmentStage, stream_receipts
from pipelines.storage import corpus_options
from schemas.score import SCORE

MAX_ATTEMPTS = 4
"""Times that a fragment is begun, its worker having died, before the job stops: Ray itself would begin it for ever."""


class ProbeError(TesseraError):
    """A fragment ended its workers too often; stops the job."""


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


class ProbeStage(FragmentStage):
    """One sandbox and its scorers, held by one actor; called with fragments, answers with receipts."""

    def __init__(self, spec: ProbeSpec, attempts: Any = None) -> None:
        super().__init__(attempts)
        self.spec = spec
        self.scorers = load_scorers(spec.scorers)
        self.looker = Looker(spec.settings.sandbox, self.scorers[0].side if self.scorers else 0)
        self.tokenizer = None if spec.tokenizer is None else Tokenizer.from_str(spec.tokenizer)

    def do(self, work: Mapping[str, Any]) -> Receipt:
        """Probe one fragment, as JSON."""
        return self.probe(Fragment.from_json(dict(work["fragment"])), Known.from_json(work["known"]), work["only"])

    def probe(self, fragment: Fragment, known: Known = NOTHING_KNOWN, only: Sequence[int] = ()) -> Receipt:
        """Probe one fragment and write its part files.

        Args:
            fragment: whole.
            known: its rows that the table holds already.
            only: its rows that are probed again; all of them if empty.

        Raises:
            ProbeError: it has been begun too often.
            TesseraError: the corpus or the store breaks its contract.
        """
        if self.begun(fragment.fragment_id) > MAX_ATTEMPTS:
            raise ProbeError(
                f"fragment {fragment.fragment_id} ({fragment.row_uri(0)} and {fragment.num_rows - 1} more rows) "
                f"has killed {MAX_ATTEMPTS} workers; the others are committed. Leave its files out, or give workers "
                "more memory"
            )
        return write_fragment(
            self.table(fragment, known, only),
            SCORE,
            table_uri=self.spec.table_uri,
            fragment_id=fragment.fragment_id,
            run_id=self.spec.settings.run_id,
            storage_options=self.spec.storage_options,
        )

    def table(self, fragment: Fragment, known: Known = NOTHING_KNOWN, only: Sequence[int] = ()) -> pa.Table:
        """Probe the rows of one fragment that are not known: rows of SCORE, of all of it or of some rows only."""
        spec = self.spec
        options = corpus_options(fragment.row_uri(0), spec.storage_options, *spec.corpus.places)
        if only:
            piece = narrow_piece(fragment, only, ())
            part, places = piece.fragment, dict(zip(piece.indices, only, strict=True))
        else:
            part, left = unknown_rows(fragment, known)
            places = dict(enumerate(left))
        rows = read_fragment(part, storage_options=options, columns=spec.columns, settings=spec.corpus)
        found = probe_rows(
            (dataclasses.replace(row, index=places[row.index]) for row in rows if row.index in places),
            self.looker,
            spec.settings,
            fragment_id=fragment.fragment_id,
            root=input_root(fragment),
            container=fragment.container.uri if fragment.container else None,
            tokenizer=self.tokenizer,
            scorers=self.scorers,
        )
        return take_over(
            fragment,
            known,
            found,
            table_uri=spec.table_uri,
            run_id=spec.settings.run_id,
            storage_options=spec.storage_options,
        )


def stream_probed(
    fragments: Sequence[Fragment],
    spec: ProbeSpec,
    workers: WorkerPlan,
    known: Mapping[str, Known] | None = None,
    *,
    only: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[Receipt]:
    """Send fragments through actors, and give their receipts as they come; see `stages.stream_receipts`.

    Args:
        fragments: to do.
        spec: of the probe.
        workers: how many.
        known: by fragment, rows that the table holds already and that are not read again.
        only: by fragment, the rows that are probed; all of them where it is not named.
    """
    known, only = known or {}, only or {}
    works = (
        {
            "fragment": one.to_json(),
            "known": known.get(one.fragment_id, NOTHING_KNOWN).to_json(),
            "only": only.get(one.fragment_id, ()),
        }
        for one in fragments
    )
    return stream_receipts(works, ProbeStage, (spec,), workers)
