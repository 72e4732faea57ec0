"""A captioning job, settled before any cluster work: which model, which rows, and what the run is called.

What this does *not* do: start Ray or write anything (`flow`).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_core.checkpoints import read_config, resolve_model, revision
from llava_core.errors import ConfigError
from pipelines import record, tables
from pipelines.corpus import plan_corpus
from pipelines.corpus_sources import normalise
from pipelines.fragments import Fragment, total_rows
from pipelines.inference.caption import STAGE_VERSION, CaptionSettings
from pipelines.inference.config import CaptionConfig
from pipelines.inference.resolution import choose_resolution
from pipelines.inference.stage import StageSpec, corpus_options
from pipelines.storage import is_local, local_path, storage_options

CHUNK_BATCHES = 4
"""Batches of an engine whose images are in a worker's memory at once: enough to sort them by length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionJob:
    """What the driver knows before it starts."""

    spec: StageSpec
    """What workers need."""
    fragments: tuple[Fragment, ...]
    """The frozen corpus."""
    trained: bool
    """False for a model of random weights."""

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self.spec.settings.run_id

    @property
    def rows_in(self) -> int:
        """Rows of the frozen corpus."""
        return total_rows(self.fragments)

    @property
    def planned(self) -> Mapping[str, list[str]]:
        """Fragment ids by input."""
        planned: dict[str, list[str]] = {}
        for fragment in self.fragments:
            planned.setdefault(normalise(fragment.source), []).append(fragment.fragment_id)
        return planned

    @property
    def model_line(self) -> str:
        """Which model it is, and whether its captions mean anything."""
        settings = self.spec.settings
        warning = "" if self.trained else ": NOT TRAINED, its weights are random and its captions are noise"
        return f"model {settings.model} (revision {settings.model_revision}){warning}"


def freeze(config: CaptionConfig) -> CaptionJob:
    """Settle a job: find the model, list the corpus, name the run.

    Raises:
        ConfigError: an input or a setting is wrong.
        CheckpointRefused: the model is not there, or cannot be trusted.
    """
    folder = resolve_model(config.model, revision=config.model_revision)
    model_config = read_config(folder)
    if model_config.text is None:
        raise ConfigError(f"--model {config.model} has no language model; expected one that can answer a prompt")
    table_uri = str(local_path(config.output)) if is_local(config.output) else config.output.rstrip("/")
    options = _storage_options(config, table_uri)
    remote = next((uri for uri in config.input if not is_local(uri)), "")
    fragments = plan_corpus(
        config.input,
        limit=config.limit,
        storage_options=corpus_options(remote, options),
        columns=config.columns,
        settings=config.corpus,
    )
    settings = CaptionSettings(
        run_id="",
        model=config.model,
        model_revision=revision(folder),
        prompt=config.prompt,
        sampling=config.sampling,
        resolution=choose_resolution(config.resolution, config.task),
        max_tiles=config.max_tiles,
        tile_side=model_config.tiles.tile_size,
        chunk_rows=config.batch_size * CHUNK_BATCHES,
    )
    spec = StageSpec(
        settings=dataclasses.replace(settings, run_id=name_run(settings, config)),
        model=_findable(config.model, folder),
        dtype=config.dtype,
        batch_size=config.batch_size,
        corpus=config.corpus,
        columns=config.columns,
        table_uri=table_uri,
        storage_options=options,
    )
    return CaptionJob(spec=spec, fragments=tuple(fragments), trained=model_config.trained)


def missing_fragments(job: CaptionJob) -> list[Fragment]:
    """Those that are not yet in the table for this run."""
    names = [fragment.fragment_id for fragment in job.fragments]
    options = job.spec.storage_options
    done = tables.committed_fragments(job.spec.table_uri, job.run_id, names, storage_options=options)
    return [fragment for fragment in job.fragments if fragment.fragment_id not in done]


def name_run(settings: CaptionSettings, config: CaptionConfig) -> str:
    """Name a run by everything that changes a row, and nothing else.

    Not in it: the inputs (a corpus that grows stays the same run), the batch size, the workers. `--limit` is in it,
    because it cuts a fragment, whose rows would then be in the table twice.
    """
    identity = dataclasses.asdict(settings) | {
        "stage": ["caption", STAGE_VERSION],
        "corpus": dataclasses.asdict(config.corpus),
        "columns": dataclasses.asdict(config.columns),
        "dtype": config.dtype,
        "limit": config.limit,
    }
    return record.run_id({name: value for name, value in identity.items() if name not in ("run_id", "chunk_rows")})


def _storage_options(config: CaptionConfig, table_uri: str) -> dict[str, str]:
    """Of the first input or output that needs any: one set of keys reaches all stores of a job."""
    return next((found for uri in (table_uri, *config.input) if (found := storage_options(uri))), {})


def _findable(model: str, folder: Path) -> str:
    """What a worker on another machine finds the same checkpoint by."""
    if model == "tiny":
        return model
    if Path(model).is_dir():
        return str(folder.absolute())
    # a download's folder is named by its commit, so a branch that moves meanwhile changes nothing
    return f"{model.partition('@')[0]}@{folder.name}"
