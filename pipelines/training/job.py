"""A training job, settled before any cluster work: which stages on which data, what each is called, what is done.

    identity of a stage = hash of its settings, seed, data, and the identity of what it begins with

What this does *not* do: start Ray, or change an output (`flow`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_core.checkpoints import Layout, check_layout, findable_name, read_config, resolve_model, revision
from llava_core.checkpoints.fresh import fresh_config
from llava_core.config import ModelConfig
from llava_core.errors import CheckpointReason, CheckpointRefused, ConfigError
from pipelines import record
from pipelines.models import local_model
from pipelines.storage import absolute_uri, filesystem, is_local, join_uri, local_path, read_json, storage_options
from pipelines.training.config import TrainConfig
from pipelines.training.export import unwritten
from pipelines.training.loop import StageWork
from pipelines.training.optimizer import require_peft
from pipelines.training.recipes import FRESH
from pipelines.training.sources import SourceIndex, index_inputs, is_class

VERSION = 2
"""Raised when the same settings and data give other numbers."""
RECORD = "train.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """What is to be done."""

    config: TrainConfig
    """As it was given."""
    output: str
    """Its folder, absolute."""
    works: tuple[StageWork, ...]
    """Every stage, in order."""
    settings: dict[str, Any]
    """Of every stage, as JSON values: what the record compares."""
    data: dict[str, str]
    """Input → fingerprint."""
    options: dict[str, str]
    """Of the stores."""

    @property
    def record_uri(self) -> str:
        """Where the run's record is."""
        return join_uri(self.output, "_run", RECORD)

    @property
    def missing(self) -> tuple[StageWork, ...]:
        """Stages whose model, or what is exported of it, is not there and whole; every file of them is hashed."""
        return tuple(work for work in self.works if unwritten(work.targets, work.identity, work.storage_options))


def settle(config: TrainConfig) -> TrainJob:
    """Settle a job: look at data and model, and name the stages.

    Raises:
        ConfigError: an input or a setting is wrong, or adapters are asked for and peft is not installed.
        CheckpointRefused: the model is not there, or cannot be trusted; `layout` cannot say it.
    """
    output = absolute_uri(config.output)
    if any(stage.lora for stage in config.chosen):
        # here and not when its stage begins, hours later
        require_peft()
    folders = [] if config.image_root is None else [config.image_root]
    uris = [output, config.start, *config.input, *folders]
    options = next((found for uri in uris if (found := storage_options(uri))), {})
    start, identity, model = _beginning(config, options)
    layout = layout_of(model, config.layout)
    indexes: dict[str, SourceIndex] = {}
    works: list[StageWork] = []
    settings: dict[str, Any] = {"model": identity, "seed": config.seed, "version": VERSION, "stages": {}}
    for number, stage in enumerate(config.chosen):
        read = _index(stage.inputs, indexes, config)
        plain = plain_settings(stage)
        data = [index.fingerprint for index in read]
        identity = record.run_id({"stage": plain, "seed": config.seed, "data": data, "from": identity, "v": VERSION})
        settings["stages"][stage.name] = plain
        works.append(
            StageWork(
                stage=stage,
                number=number,
                model=works[-1].own_model if works else start,
                inputs=read,
                output=join_uri(output, stage.name),
                identity=identity,
                seed=config.seed,
                checkpoint_steps=config.checkpoint_steps,
                keep_checkpoints=config.keep_checkpoints,
                loader_threads=config.loader_threads,
                skip=config.skip,
                storage_options=dict(options),
            )
        )
    works[-1] = dataclasses.replace(
        works[-1],
        export={join_uri(output, "model"): layout},
        ends_recipe=config.limit_steps is None and not config.stages,
    )
    if folders and not any(index.kind == "corpus" for index in indexes.values()):
        raise ConfigError("--image-root is for corpora that name their images, and no input is one; leave it out")
    _check_apart(works, [config.start, *folders])
    return TrainJob(
        config=config,
        output=output,
        works=tuple(works),
        settings=settings,
        data={uri: index.fingerprint for uri, index in indexes.items()},
        options=dict(options),
    )


def _beginning(config: TrainConfig, options: dict[str, str]) -> tuple[str, str, ModelConfig]:
    """What the first stage loads, what names its content, and its settings."""
    if config.start == FRESH:
        return f"{FRESH}:{config.seed}", f"{FRESH}:{config.seed}", fresh_config()
    with local_model(config.start, options) as name:
        folder = resolve_model(name)
        model = read_config(folder)
        if model.text is None:
            raise ConfigError(f"{config.start} has no language model; training needs one")
        return findable_name(config.start, folder), revision(folder), model


def layout_of(model: ModelConfig, asked: Layout | None) -> Layout:
    """The layout that a trained model is written in: what was asked for, else "hf" where that can say it, else "own".

    Args:
        model: settings of the one that training begins with.
        asked: `--layout`.

    Raises:
        CheckpointRefused: NOT_EXPRESSIBLE: the layout that was asked for cannot say the model.

    Example:
        >>> layout_of(fresh_config(), None)
        'own'
    """
    try:
        check_layout(model, asked or "hf")
    except CheckpointRefused as refusal:
        if asked is not None or refusal.reason is not CheckpointReason.NOT_EXPRESSIBLE:
            raise
        return "own"
    return asked or "hf"


def _index(inputs: Sequence[str], known: dict[str, SourceIndex], config: TrainConfig) -> tuple[SourceIndex, ...]:
    new = [uri for uri in dict.fromkeys(inputs) if uri not in known]
    known |= dict(zip(new, index_inputs(new, limit=config.limit, image_root=config.image_root), strict=True))
    return tuple(known[uri] for uri in inputs)


def _check_apart(works: Sequence[StageWork], others: Sequence[str]) -> None:
    """Refuse to write over what is read: inputs, and others."""
    read = [*others, *(uri for work in works for uri in work.stage.inputs if not is_class(uri))]
    for target in (uri for work in works for uri in (work.output, *work.export)):
        for uri in read:
            if f"{_resolved(uri)}/".startswith(f"{_resolved(target)}/"):
                raise ConfigError(f"{uri} is read, but {target} would be written over it; give another --output")


def _resolved(uri: str) -> str:
    return str(local_path(uri).resolve()) if is_local(uri) else absolute_uri(uri)


def plain_settings(stage: Any) -> dict[str, Any]:
    """A stage as JSON values."""
    plain: dict[str, Any] = dataclasses.asdict(stage)
    return plain | {name: list(value) for name, value in plain.items() if isinstance(value, tuple)}


def recorded(job: TrainJob) -> dict[str, Any] | None:
    """The record of the run that the output holds, if it holds one."""
    try:
        found: dict[str, Any] = read_json(job.record_uri, job.options)
    except FileNotFoundError:
        return None
    return found


def check_record(job: TrainJob) -> None:
    """Hold the output to the run that it holds: other settings or data are another run.

    Stages that they do not change stay as they are with `--overwrite`; the others are trained anew.

    Raises:
        ConfigError: the output holds a run with other settings or data, and `--overwrite` was not given; or a folder
            that training writes is there already and is no run's.
    """
    before = recorded(job)
    for work in job.works:
        for target in (work.output, *work.export):
            if _exists(target, job) and not _is_ours(target, work, before):
                raise ConfigError(
                    f"{target} is there already, and no run in {job.output} has made it; move it away, or give another "
                    "--output"
                )
    if before is None or job.config.overwrite:
        return
    advice = "run the command as it was, give another --output, or --overwrite to train anew what this changes"
    if differs := difference(before["settings"], job.settings):
        raise ConfigError(f"{job.output} holds a run with other settings ({differs}); {advice}")
    for uri, fingerprint in job.data.items():
        if before["data"].get(uri, fingerprint) != fingerprint:
            raise ConfigError(
                f"{uri} has changed since the run in {job.output} began, or --limit or --image-root takes other rows "
                f"or images of it; put it back, or {advice}"
            )


def _exists(target: str, job: TrainJob) -> bool:
    store, place = filesystem(target, job.options)
    return bool(store.exists(place))


def _is_ours(target: str, work: StageWork, before: Mapping[str, Any] | None) -> bool:
    """Whether a recorded run has made a folder: its stages' are named; an export, any run writes to the same place."""
    if before is None:
        return False
    return target in work.export or work.stage.name in before["identities"]


def difference(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> str:
    """The first setting that differs, with both values; empty where none does.

    >>> difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b was 1 and is 2'
    """
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            return difference(old, new, f"{where}{name}.")
        return f"{where}{name} was {old} and is {new}"
    return ""


def remove_changed(job: TrainJob, missing: Sequence[StageWork]) -> None:
    """Remove what a recorded run with other settings has left in the folders of stages that are not done."""
    before = recorded(job)
    for work in missing:
        if before is None or before["identities"].get(work.stage.name) == work.identity:
            continue
        for target in (work.output, *work.export):
            if _exists(target, job) and _is_ours(target, work, before):
                store, place = filesystem(target, job.options)
                store.rm(place, recursive=True)
