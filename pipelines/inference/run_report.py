"""`run_report.html`: how a run went and what of it a person should look at, counted from its table.

    table, log ─▶ throughput by commits · histograms · rejected rows · replies that look wrong ─▶ the page

One pass over the run's rows, a batch at a time: what is kept of them is counts and a bounded sample, chosen by hashes,
so that the same table gives the same page. What this does *not* do: run on the driver (`finish` sends it to a worker),
or draw (`run_report_page`).
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import pyarrow.dataset as ds
from deltalake import DeltaTable

from pipelines import accounts
from pipelines.inference.faults import Fault, faults_of
from pipelines.inference.stage import StageSpec
from pipelines.tables import dataset, open_table

SHOWN_FAULTS, SHOWN_UNSURE, SHOWN_REJECTED = 8, 12, 8
"""Replies shown of each fault, replies of lowest confidence, rejected rows of each reason."""
BINS, MOST_MOMENTS = 36, 60
"""Bins of a histogram, and of the time that a run took."""
COUNTED: Mapping[str, str] = {
    "num_prompt_tokens": "tokens of a prompt",
    "num_image_tokens": "image tokens",
    "num_output_tokens": "tokens generated",
    "letters": "letters of a reply",
}
"""What histograms are drawn of, with its name."""
_READ = ("uid", "uri", "fragment_id", "text", "finish_reason", "mean_logprob", *list(COUNTED)[:3])
_FILE = "__filename"
"""Arrow's name for the file that a row is in."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A stretch of a run's time."""

    seconds: float
    """Its middle, since the run began."""
    rows: float
    """Rows a second."""
    prompt_tokens: float
    """Prompt tokens a second."""
    new_tokens: float
    """Generated tokens a second."""


@dataclass(kw_only=True, slots=True)
class Sample:
    """The rows with the least values, so many of them, whatever order they come in."""

    most: int
    """How many are kept."""
    rows: list[tuple[float, str, int, Row]] = field(default_factory=list)
    """(−value, uid and question, −number, row): a heap whose top is the greatest value."""
    offered: int = 0
    """Rows so far, which numbers them: a uid may occur twice, and rows cannot be compared."""

    def offer(self, value: float, row: Row) -> None:
        """Keep a row if it is among the least."""
        entry = (-value, _name(row), -self.offered, row)
        self.offered += 1
        if len(self.rows) < self.most:
            heapq.heappush(self.rows, entry)
        elif entry[:2] > self.rows[0][:2]:
            heapq.heapreplace(self.rows, entry)

    def ordered(self) -> list[Row]:
        """The rows, least first."""
        return [row for *_, row in sorted(self.rows, key=lambda entry: (-entry[0], entry[1], -entry[2]))]


@dataclass(kw_only=True, slots=True)
class RunFigures:
    """What the page shows."""

    ok: int = 0
    """Rows with a reply."""
    counted: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in COUNTED})
    """For each of `COUNTED`, value → rows."""
    faults: Counter[Fault] = field(default_factory=Counter)
    """Replies by what looks wrong; one reply may have several faults."""
    faulty: int = 0
    """Replies with any."""
    samples: dict[Fault, Sample] = field(default_factory=dict)
    """Some of them."""
    unsure: Sample = field(default_factory=lambda: Sample(most=SHOWN_UNSURE))
    """The replies of lowest mean log-probability."""
    rejected: dict[str, Sample] = field(default_factory=dict)
    """By reason, some of the rejected rows."""
    moments: tuple[Moment, ...] = ()
    """Throughput over time."""

    @property
    def shown(self) -> list[Row]:
        """All rows whose picture the page shows."""
        samples = [*self.samples.values(), self.unsure, *self.rejected.values()]
        return [row for sample in samples for row in sample.ordered()]


def collect_figures(spec: StageSpec, works: Sequence[str], started: str) -> RunFigures:
    """Count a run's rows.

    Args:
        spec: of the run's stage.
        works: ids of its work, as far as today's plan has them.
        started: when the run began, ISO 8601; empty where nobody knows.
    """
    table = open_table(spec.table_uri, spec.storage_options)
    figures = RunFigures()
    if table is None:
        return figures
    # by file, because a fragment has several where its rows were made again, and a compacted file has several of these
    tokens: dict[str, list[int]] = {}
    names = [*_READ, *spec.inquiry.shown_columns]
    names += [name for name in ("question_id", "answer_valid") if name in spec.inquiry.schema.names]
    for row in _rows(table, spec, "ok", [*dict.fromkeys(names), _FILE], works):
        sums = tokens.setdefault(PurePosixPath(row.pop(_FILE)).name, [0, 0])
        take_reply(figures, row)
        sums[0] += row["num_prompt_tokens"]
        sums[1] += row["num_output_tokens"]
    names = ["uid", "uri", "fragment_id", "error", "error_detail"]
    names += [name for name in ("question_id",) if name in spec.inquiry.schema.names]
    for row in _rows(table, spec, "rejected", names, works):
        sample = figures.rejected.setdefault(row["error"], Sample(most=SHOWN_REJECTED))
        sample.offer(_hash(row), row)
    figures.moments = throughput(_commits(table, spec.settings.run_id, tokens), started)
    return figures


def take_reply(figures: RunFigures, row: Row) -> None:
    """Count one reply."""
    text = row["text"] or ""
    figures.ok += 1
    for name in COUNTED:
        figures.counted[name][len(text) if name == "letters" else row[name]] += 1
    found = faults_of(text, row["finish_reason"], valid=row.get("answer_valid"))
    figures.faulty += bool(found)
    for fault in found:
        figures.faults[fault] += 1
        figures.samples.setdefault(fault, Sample(most=SHOWN_FAULTS)).offer(_hash(row), row)
    if row["mean_logprob"] is not None:
        figures.unsure.offer(row["mean_logprob"], row)


def throughput(commits: Sequence[tuple[float, int, int, int]], started: str) -> tuple[Moment, ...]:
    """Turn commits into rates, in equal stretches of time.

    Args:
        commits: (seconds since 1970, rows, prompt tokens, generated tokens) of each.
        started: when the run's last start was, ISO 8601; it counts where it is before the first commit, which
            otherwise stands for the beginning.

    Example:
        >>> [(one.seconds, one.rows) for one in throughput([(10.0, 4, 0, 0), (20.0, 8, 0, 0)], "1970-01-01T00:00:00")]
        [(5.0, 0.4), (15.0, 0.8)]
    """
    if not commits:
        return ()
    last = max(when for when, *_ in commits)
    first = min(when for when, *_ in commits)
    begun = datetime.fromisoformat(started + ("" if "+" in started else "+00:00")).timestamp() if started else first
    begun = min(begun, first)
    width = max(last - begun, 1e-3) / max(1, min(MOST_MOMENTS, len({when for when, *_ in commits})))
    sums: dict[int, list[int]] = {}
    for when, *counts in commits:
        # a commit closes what was done before it, so a border belongs to the stretch that ends there
        place = max(0, int((when - begun) / width - 1e-9))
        sums[place] = [old + new for old, new in zip(sums.get(place, [0, 0, 0]), counts, strict=True)]
    empty = [0, 0, 0]
    return tuple(
        Moment(seconds=(place + 0.5) * width, rows=rows / width, prompt_tokens=prompt / width, new_tokens=new / width)
        for place in range(max(sums) + 1)
        for rows, prompt, new in [sums.get(place, empty)]
    )


def bins_of(counted: Mapping[int, int]) -> tuple[list[int], tuple[float, float]]:
    """Sort values into equal bins.

    Returns:
        Rows of each bin, and where the first begins and the last ends.

    Example:
        >>> bins_of({3: 2, 5: 1})
        ([2, 0, 1], (3, 6))
    """
    least, most = min(counted), max(counted) + 1
    width = max(1, -(-(most - least) // BINS))
    bins = [0] * -(-(most - least) // width)
    for value, rows in counted.items():
        bins[(value - least) // width] += rows
    return bins, (least, least + width * len(bins))


def median(counted: Mapping[int, int]) -> int:
    """The middle value of a count, the lower of two.

    Example:
        >>> median({3: 2, 5: 1, 9: 1})
        3
    """
    left = (sum(counted.values()) + 1) // 2
    for value in sorted(counted):
        left -= counted[value]
        if left <= 0:
            return value
    raise ValueError("nothing was counted")


def _rows(table: DeltaTable, spec: StageSpec, status: str, columns: list[str], works: Sequence[str]) -> Iterator[Row]:
    wanted = (ds.field("run_id") == spec.settings.run_id) & (ds.field("status") == status)
    wanted = wanted & ds.field("fragment_id").isin(list(works))
    for batch in dataset(table).to_batches(columns=columns, filter=wanted):
        yield from batch.to_pylist()


def _commits(table: DeltaTable, run_id: str, tokens: Mapping[str, Sequence[int]]) -> list[tuple[float, int, int, int]]:
    """When a run's files came into the log, with their rows and tokens; `tokens` are by the file's name."""
    found = []
    for file in accounts.files(table):
        if file["min.run_id"] == file["max.run_id"] == run_id:
            prompt, new = tokens.get(PurePosixPath(file["path"]).name, (0, 0))
            found.append((file["modification_time"] / 1000, file["num_records"], prompt, new))
    return found


def _name(row: Row) -> str:
    return f"{row['uid']}/{row.get('question_id', '')}"


def _hash(row: Row) -> float:
    return float(int.from_bytes(hashlib.sha256(_name(row).encode()).digest()[:6], "big"))
