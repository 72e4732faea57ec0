"""A job, settled before any cluster work: which model, which rows, what is asked, and what the run is called.

What this does *not* do: start Ray or write anything (`flow`).
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_core.checkpoints import detect_layout, findable_name, read_config, resolve_model, revision
from llava_core.config import ModelConfig, plan_tiles
from llava_core.engine import check_engine
from llava_core.errors import ConfigError
from llava_core.geometry import Size
from llava_core.resolution import Resolution, choose_resolution
from pipelines import record, tables
from pipelines.corpus import plan_corpus, read_fragment
from pipelines.corpus_sources import normalise
from pipelines.fragments import CorpusRow, Fragment
from pipelines.inference import vllm_environment
from pipelines.inference.config import InferenceConfig
from pipelines.inference.engine_guard import FACTORY
from pipelines.inference.inquiry import Inquiry
from pipelines.inference.prepare import RunSettings
from pipelines.inference.stage import StageSpec
from pipelines.inference.work import Work, total_rows
from pipelines.known_rows import NOTHING_KNOWN, find_known, note_rows
from pipelines.models import local_model
from pipelines.storage import absolute_uri, corpus_options, storage_options

CHUNK_BATCHES = 4
"""Batches of an engine whose images are in a worker's memory at once: enough to sort them by length."""
_UNNAMED = ("run_id", "chunk_rows", "config")
"""Settings of a stage that name no run; the model's revision stands for its config."""
HEAD_ROWS, HEAD_FRAGMENTS = 8, 3
"""Rows that are read to see which columns there are, and fragments they may come from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceJob:
    """What the driver knows before it starts."""

    spec: StageSpec
    """What workers need."""
    works: tuple[Work, ...]
    """The frozen corpus, and what is asked about it."""
    sources: tuple[str, ...]
    """All inputs, normalised."""
    trained: bool
    """False for a model of random weights."""

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self.spec.settings.run_id

    @property
    def rows_in(self) -> int:
        """Rows that have to come out; at least so many if not `exact`."""
        return total_rows(self.works)

    @property
    def exact(self) -> bool:
        """Whether the plan knows how many rows have to come out; the corpus' own rows may say it."""
        return all(work.exact for work in self.works)

    @property
    def planned(self) -> Mapping[str, list[str]]:
        """Ids of work by input."""
        planned: dict[str, list[str]] = {source: [] for source in self.sources}
        for work in self.works:
            planned.setdefault(normalise(work.fragment.source), []).append(work.work_id)
        return planned

    @property
    def model_line(self) -> str:
        """Which model it is, and whether its replies mean anything."""
        settings = self.spec.settings
        warning = "" if self.trained else ": NOT TRAINED, its weights are random and its replies are noise"
        return f"model {settings.model} (revision {settings.model_revision}){warning}"


def freeze(config: InferenceConfig) -> InferenceJob:
    """Settle a job: find the model, list the corpus, name the run.

    Raises:
        ConfigError: an input or a setting is wrong.
        CheckpointRefused: the model is not there, or cannot be trusted.
    """
    with local_model(config.model) as name:
        return _freeze(config, resolve_model(name, revision=config.model_revision))


def _freeze(config: InferenceConfig, folder: Path) -> InferenceJob:
    model_config = read_config(folder)
    check_engine(config.engine, model_config)
    if config.engine == "vllm":
        vllm_environment.check_settings(config, detect_layout(folder), folder)
    if config.quantize is not None:
        # brings torch, which a driver otherwise never needs
        from llava_core.checkpoints.quantise import require_bitsandbytes

        require_bitsandbytes()
    table_uri = absolute_uri(config.output)
    inquiry = config.inquiry
    options = _storage_options(config, inquiry, table_uri)
    readers = corpus_options(config.input[0], options, *config.input[1:], *inquiry.sources, *config.corpus.places)
    fragments = plan_corpus(
        config.input,
        limit=config.limit,
        storage_options=readers,
        columns=config.columns,
        settings=config.corpus,
    )
    works = inquiry.plan(fragments, options=readers, limited=config.limit is not None)
    inquiry.check(works, lambda: _head(fragments, config, options))
    settings = RunSettings(
        run_id="",
        model=config.model,
        model_revision=revision(folder),
        sampling=config.sampling,
        resolution=_resolution(config),
        max_tiles=config.max_tiles,
        visual_budget=_checked_budget(config.visual_budget, model_config),
        config=model_config,
        chunk_rows=config.batch_size * CHUNK_BATCHES,
    )
    spec = StageSpec(
        settings=dataclasses.replace(settings, run_id=name_run(settings, inquiry, config)),
        inquiry=inquiry,
        model=findable_name(config.model, folder),
        dtype=config.dtype,
        quantize=config.quantize,
        engine=config.engine,
        batch_size=config.batch_size,
        corpus=config.corpus,
        columns=config.columns,
        table_uri=table_uri,
        storage_options=options,
        sandbox=config.sandbox,
        engine_timeout=config.engine_timeout,
        decoders=config.decoders,
        engine_factory=vllm_environment.FACTORY if config.engine == "vllm" else FACTORY,
        runtime_env=dict(vllm_environment.RUNTIME_ENV) if config.engine == "vllm" else None,
    )
    sources = (*map(normalise, config.input), *inquiry.sources)
    return InferenceJob(spec=spec, works=tuple(works), sources=sources, trained=model_config.trained)


def _head(fragments: Sequence[Fragment], config: InferenceConfig, options: dict[str, str]) -> Iterator[CorpusRow]:
    """Read the first few rows, so that a column that nobody has is found out before any work."""
    for fragment in fragments[:HEAD_FRAGMENTS]:
        rows = read_fragment(
            fragment.head(HEAD_ROWS),
            storage_options=corpus_options(fragment.root, options, *config.corpus.places),
            columns=config.columns,
            settings=config.corpus,
        )
        yield from itertools.islice(rows, HEAD_ROWS)


def missing_works(job: InferenceJob) -> list[Work]:
    """Those that are not yet in the table for this run."""
    names = [work.work_id for work in job.works]
    options = job.spec.storage_options
    done = tables.committed_fragments(job.spec.table_uri, job.run_id, names, storage_options=options)
    return [work for work in job.works if work.work_id not in done]


def with_known(job: InferenceJob, works: Sequence[Work], *, take_rejected: bool = True) -> list[Work]:
    """Let each piece of work know which of its rows the table holds already; questions of single rows are asked again.

    Args:
        job: whose they are.
        works: missing ones.
        take_rejected: whether rows are taken over of which anything was rejected.
    """
    options = job.spec.storage_options
    plain = [work.fragment for work in works if _is_plain(work)]
    if not plain:
        return list(works)
    known = find_known(job.spec.table_uri, job.run_id, plain, take_rejected=take_rejected, storage_options=options)
    return [dataclasses.replace(work, known=known.get(work.work_id, NOTHING_KNOWN)) for work in works]


def note_works(job: InferenceJob) -> None:
    """Note which rows the fragments of a job have, before any of them is committed."""
    note_rows(job.spec.table_uri, job.run_id, noted_fragments(job), storage_options=job.spec.storage_options)


def noted_fragments(job: InferenceJob) -> list[Fragment]:
    """Return the fragments of a job under the names that they are committed by."""
    return [
        work.fragment if _is_plain(work) else dataclasses.replace(work.fragment, fragment_id=work.work_id)
        for work in job.works
    ]


def _is_plain(work: Work) -> bool:
    """Whether every row is asked the same, so that a row's reply is the same in any fragment."""
    return work.work_id == work.fragment.fragment_id


def name_run(settings: RunSettings, inquiry: Inquiry, config: InferenceConfig) -> str:
    """Name a run by everything that changes a row, and nothing else.

    Not in it: the inputs (a corpus that grows stays the same run), the batch size, the workers. `--limit` is in it,
    because it cuts a fragment, whose rows would then be in the table twice; and with it the inputs, which say where.
    """
    identity = dataclasses.asdict(settings) | {
        "stage": [inquiry.job, inquiry.version],
        "inquiry": inquiry.identity(),
        "corpus": config.corpus.identity,
        "columns": dataclasses.asdict(config.columns),
        "dtype": config.dtype,
        "quantize": config.quantize,
        "engine": config.engine,
        "limit": None if config.limit is None else [config.limit, *map(normalise, config.input)],
    }
    return record.run_id({name: value for name, value in identity.items() if name not in _UNNAMED})


def _resolution(config: InferenceConfig) -> Resolution:
    """The resolution as far as it is settled; a budget spends up to what was asked for by name."""
    if config.visual_budget is not None and config.resolution == "auto":
        return "high"
    return choose_resolution(config.resolution, config.task)


def _checked_budget(budget: int | None, config: ModelConfig) -> int | None:
    """Hold a visual budget to the least that an image takes.

    Raises:
        ConfigError: the base tile alone takes more.
    """
    side = config.tiles.tile_size
    least = plan_tiles(Size(side, side), config, max_tiles=0).num_image_tokens
    if budget is not None and budget < least:
        raise ConfigError(f"--visual-budget is {budget}; expected at least {least}, the tokens of one base tile")
    return budget


def _storage_options(config: InferenceConfig, inquiry: Inquiry, table_uri: str) -> dict[str, str]:
    """Of the first place that needs any: one set of keys reaches all stores of a job."""
    uris = (table_uri, *config.input, *inquiry.sources, *config.corpus.places, config.model)
    return next((found for uri in uris if (found := storage_options(uri))), {})
