"""A stage that turns fragments into part files, as Ray sees it: thin actors, and the stream of their receipts.

A piece of work travels to an actor as JSON, a receipt comes back as JSON; images and rows never pass the object store
or the driver. What this does *not* do: say what a stage does with its work (each room's), commit (`tables`), or decide
how many actors there are (`runtime`).
"""

import atexit
import contextlib
import dataclasses
import functools
import json
import logging
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ray

from llava_core.errors import TesseraError
from pipelines import metrics
from pipelines.parts import PartFile, Receipt
from pipelines.runtime import WorkerPlan


class WorkerError(TesseraError):
    """A worker found a broken contract (`InputChanged`, `PartError`, …) and says so; stops the job."""


NOTED_SECONDS = 2.0
"""Between two questions of the driver's how far its workers are."""


class Attempts:
    """How often each piece of work was begun, and how far workers are; a small actor, which outlives them."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._rows = self._tokens = self._notes = 0

    def begin(self, name: str) -> int:
        """Count one more, and return how many it are."""
        self._begun[name] += 1
        return self._begun[name]

    def note(self, rows: int, tokens: int) -> None:
        """Count rows that a worker has made, and the tokens that they took; none of either is a sign of life."""
        self._rows += rows
        self._tokens += tokens
        self._notes += 1

    def noted(self) -> tuple[int, int, int]:
        """Return all rows and tokens that were noted, and how many notes; those of workers that died are among them."""
        return self._rows, self._tokens, self._notes


class FragmentStage(ABC):
    """What an actor of a stage is: called with work, answers with a receipt. Its constructor loads once.

    Args:
        attempts: the job's `Attempts` actor; None outside of a job.
    """

    def __init__(self, attempts: Any = None) -> None:
        self.attempts = attempts
        self.counts: Counter[str] = Counter()
        """What `do` counts for `metrics.COUNTS`; handed to the driver with the receipt."""

    @abstractmethod
    def do(self, work: Mapping[str, Any]) -> Receipt:
        """Do one piece of work and write its part files; a `TesseraError` stops the job."""

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Do the work of one row of JSON.

        A broken contract comes back as "broken", because an exception that crosses Ray loses its type and its cause.
        """
        self.counts = Counter()
        try:
            receipt = self.do(json.loads(row["work"]))
        except TesseraError as error:
            return {"receipt": "", "broken": f"{type(error).__name__}: {error}", "counts": ""}
        return {"receipt": json.dumps(dataclasses.asdict(receipt)), "broken": "", "counts": json.dumps(self.counts)}

    def begun(self, name: str) -> int:
        """Count one more beginning of some work, and return how many it are: the ones before ended with their worker.

        Args:
            name: of the work.
        """
        return 1 if self.attempts is None else int(ray.get(self.attempts.begin.remote(name)))

    def note(self, rows: int, tokens: int) -> None:
        """Say how much more has been made, or by nothing at all that work goes on; nobody waits for it to be heard."""
        if self.attempts is not None:
            self.attempts.note.remote(rows, tokens)


def stream_receipts(
    works: Iterable[Mapping[str, Any]],
    stage: type[FragmentStage],
    arguments: Sequence[Any],
    workers: WorkerPlan,
    noted: Callable[[int, int, int], None] | None = None,
    *,
    runtime_env: Mapping[str, Any] | None = None,
) -> Iterator[Receipt]:
    """Send work through actors of a stage, and give their receipts as they come, in any order.

    A piece of work is one block and so one task: a worker that dies takes nothing finished with it.

    Args:
        works: JSON objects; each is made, written and let go before the next.
        stage: class of the actors.
        arguments: of its constructor, which gets `attempts` too.
        workers: how many, and what each asks for.
        runtime_env: of the actors, where they need another than the cluster's.
        noted: told every `NOTED_SECONDS`, in a thread, the rows and tokens that workers have noted so far, and how
            many notes they are.

    Raises:
        WorkerError: a worker found a broken contract.
    """
    # not above: it takes a second, and this module is imported by processes that stream nothing
    import ray.data

    rows = [{"work": json.dumps(work)} for work in works]
    count = len(rows)
    # a warning that progress bars are off, which they are on purpose
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    # Ray types both arguments as functions; of classes it makes actors
    actor: Any = stage
    counting: Any = ray.remote(Attempts)
    # begun again where its process or node dies: it has forgotten some beginnings then, and the job goes on
    counter = counting.options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    options: Any = {} if runtime_env is None else {"runtime_env": dict(runtime_env)}
    sent = ray.data.from_items(rows, override_num_blocks=count)
    # Ray has them now; a second copy would stay until the last receipt
    del rows
    receipts = sent.map(
        actor,
        fn_constructor_args=tuple(arguments),
        fn_constructor_kwargs={"attempts": counter},
        compute=ray.data.ActorPoolStrategy(size=min(workers.num_actors, count)),
        num_cpus=workers.num_cpus,
        num_gpus=workers.num_gpus,
        **options,
    )
    ended = threading.Event()
    if noted is not None:
        threading.Thread(target=_ask, args=(counter, noted, ended), name="noted", daemon=True).start()
    # a job that gives up leaves this thread waiting: Ray Data's own would go on using Ray while it ends
    end = functools.partial(_end, receipts, ended)
    atexit.register(end)
    try:
        for row in receipts.iter_rows():
            if row["broken"]:
                raise WorkerError(row["broken"])
            receipt = receipt_of(json.loads(row["receipt"]))
            metrics.report_rows(receipt.ok, receipt.rejected)
            metrics.report_counts(json.loads(row["counts"]))
            yield receipt
        if noted is not None:
            _tell(counter, noted)
    finally:
        ended.set()
        atexit.unregister(end)


def _end(dataset: Any, ended: threading.Event) -> None:
    """End what runs a dataset, and the asking; Ray Data has no public name for the first."""
    ended.set()
    executor = getattr(dataset, "_current_executor", None)
    if executor is not None:
        executor.shutdown(force=True)


def _ask(counter: Any, noted: Callable[[int, int, int], None], ended: threading.Event) -> None:
    """Ask how far workers are, until the stream ends; where the counter cannot be asked, nobody is told."""
    while not ended.wait(NOTED_SECONDS):
        _tell(counter, noted)


def _tell(counter: Any, noted: Callable[[int, int, int], None]) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        noted(*ray.get(counter.noted.remote(), timeout=10 * NOTED_SECONDS))


def receipt_of(values: Mapping[str, Any]) -> Receipt:
    """Return the receipt whose `dataclasses.asdict` went through JSON."""
    return Receipt(**{**values, "files": tuple(PartFile(**file) for file in values["files"])})
