"""A curation job, settled before any cluster work: which rows, whose tiles, and what each stage's run is called.

What this does *not* do: start Ray or write anything (`flow`).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from llava_core.config import ModelConfig
from llava_core.errors import ConfigError
from pipelines import record
from pipelines.corpus import plan_corpus
from pipelines.corpus_sources import normalise
from pipelines.curation.cluster_stage import REFERENCE_COLUMNS
from pipelines.curation.config import CurateConfig
from pipelines.curation.models import find_model
from pipelines.curation.overrides import Overrides, read_overrides
from pipelines.curation.probe import STAGE_VERSION, ProbeSettings, input_root
from pipelines.curation.probe_stage import ProbeSpec
from pipelines.curation.select_stage import table_digest
from pipelines.curation.shard import ShardSettings
from pipelines.curation.shard_stage import ShardSpec, shard_run
from pipelines.curation.text_measures import read_words
from pipelines.fragments import Fragment, mark_fragment, total_rows
from pipelines.sandbox import SandboxSettings
from pipelines.storage import absolute_uri, corpus_options, exists, join_uri, storage_options
from pipelines.tables import dataset, open_table
from schemas.score import SCORE

_PASSING = (
    "input",
    "output",
    "plan",
    "diff",
    "retry_rejected",
    "overwrite",
    "num_workers",
    "ray_address",
    "stall_timeout",
    "overrides",
    "against",
)
"""Settings that change no row, or only through what they name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateJob:
    """What the driver knows before it starts."""

    config: CurateConfig
    """As given."""
    output: str
    """The output folder."""
    fragments: tuple[Fragment, ...]
    """The frozen corpus."""
    probe: ProbeSpec
    """What probes need."""
    references: tuple[Fragment, ...]
    """Evaluation images that have to be probed."""
    reference_probe: ProbeSpec
    """What probes of evaluation images need."""
    reference_tables: tuple[tuple[str, str], ...]
    """(table, run) of evaluation images that have been probed elsewhere."""
    reference_digests: tuple[str, ...]
    """What these tables held when the job was frozen; a run in them keeps its name when it grows."""
    shard: ShardSpec
    """What writers of shards need."""
    overrides: Overrides
    """Decisions of people."""

    @property
    def run_id(self) -> str:
        """Of the probe: all that changes a row of `scores`."""
        return self.probe.settings.run_id

    @property
    def rows_in(self) -> int:
        """Rows of the frozen corpus."""
        return total_rows(self.fragments)

    @property
    def options(self) -> dict[str, str]:
        """Of the stores."""
        return dict(self.probe.storage_options)

    def table(self, name: str) -> str:
        """Where a table of the output is."""
        return join_uri(self.output, name)

    @property
    def state(self) -> str:
        """Names all that this call is to come to: the corpus as it is now, and every setting that changes a row."""
        values = dataclasses.asdict(self.config) | {"corpus": self.config.corpus.identity}
        return record.run_id(
            {
                "settings": {name: value for name, value in values.items() if name not in _PASSING},
                "probe": self.run_id,
                "fragments": sorted(fragment.fragment_id for fragment in self.fragments),
                "references": [
                    self.reference_probe.settings.run_id,
                    [list(one) for one in self.reference_tables],
                    list(self.reference_digests),
                ],
                "overrides": self.overrides.to_json(),
                "shards": self.shard.settings.run_id,
            }
        )


def freeze(config: CurateConfig) -> CurateJob:
    """Settle a job: find the model, list the corpus, name the runs.

    Raises:
        ConfigError: an input or a setting is wrong.
        CheckpointRefused: the model is not there, or cannot be trusted.
    """
    output = absolute_uri(config.output)
    options = _storage_options(config, output)
    model, tokenizer = find_model(config.model, config.model_revision)
    words = read_words(config.flagged_words, options) if config.flagged_words else frozenset()
    sandbox = SandboxSettings(cpu_seconds=config.decoder_seconds, memory_bytes=config.decoder_bytes)
    settings = ProbeSettings(
        run_id="",
        model=model,
        sandbox=sandbox,
        source_key=config.source_key,
        quality=config.quality,
        flagged=words,
    )
    probe = ProbeSpec(
        settings=settings,
        tokenizer=tokenizer,
        scorers=config.scorers,
        corpus=config.corpus,
        columns=config.columns,
        table_uri=join_uri(output, "scores"),
        storage_options=options,
    )
    probe = _named(probe, name_probe(probe, config.limit))
    folders, ready = _split_references(config.against, options)
    references = _plan(folders, config, options, None) if folders else []
    named = record.run_id({"probe": probe.settings.run_id, "of": [one.fragment_id for one in references]})
    return CurateJob(
        config=config,
        output=output,
        fragments=tuple(_plan(config.input, config, options, config.limit)),
        probe=probe,
        references=tuple(references),
        reference_probe=_named(dataclasses.replace(probe, table_uri=join_uri(output, "references")), named),
        reference_tables=tuple(ready),
        reference_digests=tuple(table_digest(uri, options) for uri, _ in ready),
        shard=_shard_spec(config, model, output, options),
        overrides=read_overrides(config.overrides, options),
    )


def name_probe(spec: ProbeSpec, limit: int | None) -> str:
    """Name the probe's run by everything that changes a row of `scores`, and nothing else.

    Not in it: the inputs (a corpus that grows stays the same run). `--limit` is in it, because it cuts a fragment.
    """
    settings = dataclasses.asdict(spec.settings) | {"run_id": "", "flagged": sorted(spec.settings.flagged)}
    identity = {
        "stage": ["probe", STAGE_VERSION],
        "settings": settings,
        "tokenizer": spec.tokenizer,
        "scorers": list(spec.scorers),
        "corpus": spec.corpus.identity,
        "columns": dataclasses.asdict(spec.columns),
        "limit": limit,
    }
    return record.run_id(identity)


def _storage_options(config: CurateConfig, output: str) -> dict[str, str]:
    """Of the first place that needs any: one set of keys reaches all stores of a job."""
    files = (one for one in (config.overrides, config.flagged_words) if one)
    uris = (output, *config.input, *config.corpus.places, *config.against, *files)
    return next((found for uri in uris if (found := storage_options(uri))), {})


def _named(spec: ProbeSpec, run_id: str) -> ProbeSpec:
    return dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, run_id=run_id))


def _plan(inputs: Sequence[str], config: CurateConfig, options: dict[str, str], limit: int | None) -> list[Fragment]:
    fragments = plan_corpus(
        inputs,
        limit=limit,
        storage_options=corpus_options(inputs[0], options, *inputs[1:], *config.corpus.places),
        columns=config.columns,
        settings=config.corpus,
    )
    # a row's source is what is below its input: of another input the same files are other rows
    return [mark_fragment(one, input_root(one)) for one in fragments]


def _split_references(against: Sequence[str], options: dict[str, str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Evaluation images that are a corpus, and those that are a table with hashes."""
    folders, ready = [], []
    for uri in map(normalise, against):
        if not exists(join_uri(uri, "_delta_log"), options):
            folders.append(uri)
            continue
        uri = absolute_uri(uri)
        table = open_table(uri, options)
        found = {} if table is None else {one.name: one.type for one in pa.schema(table.schema().to_arrow())}
        lacking = [one for one in (*REFERENCE_COLUMNS, "run_id") if found.get(one) != SCORE.field(one).type]
        if table is None or lacking:
            raise ConfigError(
                f"--against {uri} is a table without {', '.join(lacking)} as the probe writes them; "
                "expected images, or a table `scores`"
            )
        # not by the log's bounds of each file: one that was compacted may hold more than two runs
        runs = pa.table(dataset(table).to_table(columns=["run_id"]))["run_id"].unique().to_pylist()
        ready += [(uri, run) for run in sorted(runs)]
    return folders, ready


def _shard_spec(config: CurateConfig, model: ModelConfig, output: str, options: dict[str, str]) -> ShardSpec:
    settings = ShardSettings(run_id="", model=model.to_dict(), pixels=config.pixels, size=config.size)
    identity: dict[str, Any] = dataclasses.asdict(settings)
    identity |= {"columns": dataclasses.asdict(config.columns), "corpus": config.corpus.identity}
    return ShardSpec(
        settings=dataclasses.replace(settings, run_id=shard_run(identity)),
        table_uri=join_uri(output, "shards"),
        storage_options=options,
        columns=config.columns,
        corpus=config.corpus,
    )
