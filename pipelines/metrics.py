"""What a running job tells Prometheus, through Ray: each node serves it on its `--metrics-export-port`.

Ray puts `ray_` before each name and `_total` after a counter's. The names are declared here and nowhere else;
infra/monitoring draws them and raises alarms on them. Counters are of work done, not of rows in the table: a fragment
that is done twice, because its worker died, counts twice. Without Ray nothing happens. What this does *not* do: decide
when (`progress`, `stages`, `runtime`, `training` do), or serve (Ray's agent does).
"""

import functools
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.util.metrics import Counter, Gauge


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric of ours."""

    name: str
    """As our code says it."""
    kind: Literal["gauge", "counter"]
    """A counter only grows; a gauge is what it is now."""
    about: str
    """What it says, and its unit."""
    labels: tuple[str, ...] = ("program",)
    """What it is told apart by; the program, which is the job, comes first."""

    @property
    def exported(self) -> str:
        """As Prometheus sees it."""
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"


def _gauge(name: str, about: str, *labels: str) -> Metric:
    return Metric(name=f"tessera_{name}", kind="gauge", about=about, labels=("program", *labels))


def _counter(name: str, about: str, *labels: str) -> Metric:
    return Metric(name=f"tessera_{name}", kind="counter", about=about, labels=("program", *labels))


START = _gauge("job_start_seconds", "when a job's driver joined the cluster, in seconds since 1970")
DONE = _gauge("progress_done", "units done, earlier runs' included", "unit")
ALL = _gauge("progress_expected", "units in all", "unit")
RATE = _gauge("progress_rate", "units a second, of this call", "unit")
LEFT = _gauge("progress_eta_seconds", "seconds until the end at this rate", "unit")
MOVED = _gauge("progress_moved_seconds", "when a unit was last made or a worker heard of; seconds since 1970", "unit")
ROWS = _counter("rows", "rows made, by status and, of rejected ones, reason", "status", "reason")
TOKENS = _counter("tokens", "tokens of rows made: prompt, image (part of the prompt) and generated", "kind")
TILES = _counter("tiles", "tiles of the rows' first images, the base tile of each included")
REQUESTS = _counter("requests", "requests of rows: new, or known because an equal one was answered", "reply")
RESTARTS = _counter("engine_restarts", "engine processes started again, because the ones before died")
LOSS = _gauge("train_loss", "loss of the last step", "stage")
MFU = _gauge("train_mfu", "part of the device's peak operations that the last step needed, 0 to 1", "stage")
DATA_WAIT = _gauge("train_data_wait", "part of the last step that waited for data, from 0 to 1", "stage")
TRAIN_TOKENS = _gauge("train_tokens_per_second", "tokens a second of the last step, all workers", "stage")
TRAIN_IMAGES = _gauge("train_images_per_second", "images a second of the last step, all workers", "stage")
TRAIN_REJECTED = _gauge("train_rejected", "samples of the stage so far that could not be used", "stage")

METRICS = (
    *(START, DONE, ALL, RATE, LEFT, MOVED, ROWS, TOKENS, TILES, REQUESTS, RESTARTS),
    *(LOSS, MFU, DATA_WAIT, TRAIN_TOKENS, TRAIN_IMAGES, TRAIN_REJECTED),
)
"""All there are."""
COUNTS: Mapping[str, tuple[Metric, Mapping[str, str]]] = {
    **{f"tokens/{kind}": (TOKENS, {"kind": kind}) for kind in ("prompt", "image", "generated")},
    **{f"requests/{reply}": (REQUESTS, {"reply": reply}) for reply in ("new", "known")},
    "tiles": (TILES, {}),
    "engine_restarts": (RESTARTS, {}),
}
"""Name of what a worker counts → metric and labels. Workers hand their counts to the driver with their receipts: a
process that ends takes along what Ray has not yet fetched from it."""
_STEP = {
    "loss": LOSS,
    "mfu": MFU,
    "data_wait": DATA_WAIT,
    "tokens_per_s": TRAIN_TOKENS,
    "images_per_s": TRAIN_IMAGES,
    "rejected": TRAIN_REJECTED,
}
"""Name among a training step's values → metric."""
_started: list[float] = []


def program() -> str:
    """The job that this driver runs, by the name of its file."""
    return Path(sys.argv[0]).stem or "unknown"


def report_start() -> None:
    """Say that a job's driver is here; its progress repeats it, since Ray serves a gauge only for a while."""
    _started.append(time.time())
    _set(START, _started[-1])


def report_progress(done: int, expected: int, rate: float, unit: str, moved: float) -> None:
    """Say how far a job is; again and again, since Ray serves a gauge only for a while.

    Args:
        done: units, those of earlier calls included.
        expected: units in all.
        rate: units a second of this call.
        unit: what they are.
        moved: when one was last made, committed or not yet, or a worker was last heard of, in seconds since 1970.
    """
    if _started:
        _set(START, _started[-1])
    _set(DONE, done, unit=unit)
    _set(ALL, expected, unit=unit)
    _set(RATE, rate, unit=unit)
    _set(MOVED, moved, unit=unit)
    if rate > 0:
        _set(LEFT, max(0, expected - done) / rate, unit=unit)


def report_rows(ok: int, rejected: Mapping[str, int]) -> None:
    """Count the rows of a fragment that came back.

    Args:
        ok: rows with a result.
        rejected: rows without one, by reason.
    """
    for status, reason, rows in [("ok", "", ok), *(("rejected", *one) for one in rejected.items())]:
        _add(ROWS, rows, status=status, reason=reason)


def report_counts(counts: Mapping[str, float]) -> None:
    """Count what a fragment's rows took.

    Args:
        counts: by names of `COUNTS`.
    """
    for name, value in counts.items():
        metric, labels = COUNTS[name]
        _add(metric, value, **labels)


def report_step(values: Mapping[str, Any]) -> None:
    """Say what a training step came to.

    Args:
        values: of the step, as `metrics.jsonl` has them.
    """
    for name, metric in _STEP.items():
        if name in values:
            _set(metric, float(values[name]), stage=str(values["stage"]))


@functools.cache
def _made(metric: Metric) -> Any:
    kind: Any = Gauge if metric.kind == "gauge" else Counter
    return kind(metric.name, description=metric.about, tag_keys=metric.labels)


def _set(metric: Metric, value: float, **labels: str) -> None:
    if ray.is_initialized():
        _made(metric).set(value, {"program": program(), **labels})


def _add(metric: Metric, value: float, **labels: str) -> None:
    # Ray refuses to add nothing
    if value > 0 and ray.is_initialized():
        _made(metric).inc(value, {"program": program(), **labels})
