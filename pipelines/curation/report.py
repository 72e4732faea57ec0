"""What a curation came to, as plain values that a page can show: counted from the tables, in one process.

Everything here is a function of `scores`, `clusters` and `selection`; pictures are read by `thumbnails`, the page is
drawn by `report_page`. What this does *not* do: decide anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llava_core.config import check_at_least
from pipelines.curation.balance import uid_fractions
from pipelines.curation.rules import Rule, active_rules, columns_of, measured, to_bools
from pipelines.curation.select import SelectConfig, count_reasons, funnel
from pipelines.curation.thumbnails import RowPlace
from schemas.cluster import ClusterRole

BINS = 36
SHOWN_CLUSTERS, SHOWN_MEMBERS = 40, 6
ALWAYS = ("short_side", "aspect", "blur", "entropy", "text_words", "n_image_tokens")
"""Measures whose histograms are shown whether or not a rule looks at them."""
REPORT_COLUMNS = (
    *("uid", "uri", "fragment_id", "row_index", "status", "source", "script", "format", "width", "height"),
    *("aspect", "blur", "entropy", "text", "text_words", "grid_rows", "grid_cols"),
    *("n_tiles", "n_image_tokens", "n_text_tokens", "quality"),
)
"""Columns of `scores` that a report reads, beside those of the rules."""
_COMPOSED = ("source", "script", "format")


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What training on a token costs, for the forecast of GPU-hours."""

    params_billion: float = 7.0
    """Parameters that are trained, in billions."""
    peak_tflops: float = 989.0
    """Peak of one GPU, TFLOP/s; 989 is an H100 SXM in dense bfloat16 (NVIDIA's data sheet)."""
    utilisation: float = 0.4
    """Share of the peak that training reaches (MFU), 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("params_billion", "peak_tflops", "utilisation"):
            check_at_least("forecast", name, getattr(self, name), 1e-9)

    def gpu_hours(self, tokens: int) -> float:
        """GPU-hours of one epoch over so many tokens: 6 · parameters · tokens / (peak · utilisation).

        Six floating-point operations a parameter and token: two forward, four backward. The vision tower is not in
        it; for CLIP-L it adds about a tenth where it is trained too.

        Source: Kaplan et al., arXiv 2001.08361, section 2.1.

        Example:
            >>> round(Forecast().gpu_hours(10**9), 1)
            29.5
        """
        return 6 * self.params_billion * 1e9 * tokens / (self.peak_tflops * 1e12 * self.utilisation * 3600)

    @property
    def formula(self) -> str:
        """The formula with its numbers, for people."""
        return (
            f"GPU-hours = 6 × {self.params_billion:g}·10⁹ parameters × tokens ÷ ({self.peak_tflops:g} TFLOP/s × "
            f"{self.utilisation:g} utilisation × 3600 s), one epoch, vision tower not counted"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Values of one measure over all rows that have one."""

    measure: str
    """What is measured."""
    edges: tuple[float, ...]
    """Borders of the bins, ascending; the first and last bin also hold what lies beyond."""
    kept: tuple[int, ...]
    """Rows of each bin that are kept."""
    dropped: tuple[int, ...]
    """Rows of each bin that are dropped, for whatever reason."""
    log: bool
    """Whether the bins are equal on a logarithmic scale."""
    rules: tuple[Rule, ...]
    """Thresholds on this measure."""
    missing: int
    """Rows without a value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One value of a column, before and after."""

    name: str
    """The value; "" for none."""
    rows: int
    """Rows in."""
    kept: int
    """Rows kept."""
    image_tokens: int
    """Image tokens of the kept rows."""
    text_tokens: int
    """Text tokens of the kept rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """One grid of tiles among the kept rows; of rows with several images, the first's."""

    rows: int
    """Tiles from top to bottom; 0 for a lone base tile."""
    cols: int
    """Tiles from left to right."""
    count: int
    """Kept rows."""
    image_tokens: int
    """Image tokens of these rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One row of a cluster."""

    place: RowPlace | None
    """Where its picture is; None for a row that is not of this corpus (an earlier run's, or most evaluation images)."""
    uid: str
    """The row."""
    uri: str
    """For people; the uid where it is not of this corpus."""
    facts: str
    """Size and quality."""
    kind: str | None
    """Relation to the survivor; None for the survivor."""
    distance: float | None
    """To the survivor."""
    role: str
    """What becomes of it."""
    flags: tuple[str, ...]
    """What dedupe noted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Rows that show the same picture, the survivor first."""

    members: tuple[Member, ...]
    """At most `SHOWN_MEMBERS`."""
    size: int
    """All members, survivor included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that the page shows."""

    rows: int
    """Rows in."""
    kept: int
    """Rows kept."""
    steps: tuple[tuple[str, int, int], ...]
    """The funnel: reason, rows dropped, rows left."""
    histograms: tuple[Histogram, ...]
    """Those with thresholds first."""
    compositions: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    """Column → its values, most rows first."""
    grids: tuple[Grid, ...] = ()
    """Most rows first."""
    clusters: tuple[Cluster, ...] = ()
    """A sample, those that need a look first."""
    num_clusters: int = 0
    """All clusters with more than one member."""
    policy: str = ""
    """How copies are found and survivors chosen."""


def report_columns(config: SelectConfig) -> list[str]:
    """Columns of `scores` that a report reads."""
    return list(dict.fromkeys([*REPORT_COLUMNS, *columns_of(active_rules(config.rules))]))


def make_report(
    scores: pa.Table, clusters: pa.Table, selection: pa.Table, config: SelectConfig, *, policy: str = ""
) -> Report:
    """Count what a page shows.

    Args:
        scores: the columns of `report_columns`, in any order.
        clusters: CLUSTER rows, in any order.
        selection: SELECTION of the same rows, in any order.
        config: by which was selected.
        policy: how copies were found and survivors chosen, for people.
    """
    scores = scores.sort_by("uid").combine_chunks()
    selection = selection.sort_by("uid")
    counts = count_reasons(selection)
    kept = to_bools(pc.is_null(selection["error"]))
    ok = to_bools(pc.equal(scores["status"], "ok"))
    measures = dict.fromkeys([rule.measure for rule in active_rules(config.rules) if not rule.allowed])
    measures |= dict.fromkeys(ALWAYS)
    histograms = [histogram(scores.filter(pa.array(ok)), name, kept[ok], config) for name in measures]
    return Report(
        rows=counts.total(),
        kept=counts["kept"],
        steps=tuple(funnel(counts)),
        histograms=tuple(one for one in histograms if one is not None),
        compositions={name: _composition(scores, name, kept) for name in _COMPOSED},
        grids=_grids(scores.filter(pa.array(kept))),
        clusters=_sample_clusters(scores, clusters),
        num_clusters=pc.count_distinct(_copies(clusters)["survivor_uid"]).as_py(),
        policy=policy,
    )


def histogram(scores: pa.Table, measure: str, kept: NDArray[np.bool_], config: SelectConfig) -> Histogram | None:
    """Count the values of a measure in bins; None where no row has one.

    Args:
        scores: measured rows.
        measure: a column or a key of `rules.MEASURES`.
        kept: bool[N].
        config: whose thresholds are drawn in.
    """
    rules = tuple(rule for rule in active_rules(config.rules) if rule.measure == measure)
    column = measured(scores, measure)
    values = np.asarray(column.cast(pa.float64()).to_numpy())
    there = np.isfinite(values)
    if not there.any():
        return None
    found, kept = values[there], kept[there]
    low, high = np.quantile(found, [0.005, 0.995])
    limits = [limit for rule in rules for limit in (rule.least, rule.most) if limit is not None]
    low, high = min([low, *limits]), max([high, *limits])
    log = low > 0 and high / low > 30
    edges = _edges(low, high, log=log, whole=pa.types.is_integer(column.type))
    bins = len(edges) - 1
    places = np.clip(np.searchsorted(edges, found, side="right") - 1, 0, bins - 1)
    return Histogram(
        measure=measure,
        edges=tuple(edges.tolist()),
        kept=tuple(np.bincount(places[kept], minlength=bins).tolist()),
        dropped=tuple(np.bincount(places[~kept], minlength=bins).tolist()),
        log=bool(log),
        rules=rules,
        missing=int((~there).sum()),
    )


def _edges(low: float, high: float, *, log: bool, whole: bool) -> NDArray[np.float64]:
    """Borders of bins: one for each whole number where those are few, else `BINS` equal ones."""
    if whole and high - low < BINS:
        return np.arange(math.floor(low), math.ceil(high) + 2, dtype=np.float64)
    if high <= low:
        high = low + 1
    return np.geomspace(low, high, BINS + 1) if log else np.linspace(low, high, BINS + 1)


def _composition(scores: pa.Table, name: str, kept: NDArray[np.bool_]) -> tuple[Part, ...]:
    """Rows and tokens by the values of a column."""
    mask = pa.array(kept)
    columns = {
        "name": pc.fill_null(scores[name], ""),
        "rows": pa.array(np.ones(len(kept), np.int64)),
        "kept": mask.cast(pa.int64()),
        "image_tokens": pc.if_else(mask, pc.fill_null(scores["n_image_tokens"], 0), 0).cast(pa.int64()),
        "text_tokens": pc.if_else(mask, pc.fill_null(scores["n_text_tokens"], 0), 0).cast(pa.int64()),
    }
    sums = [one for one in columns if one != "name"]
    grouped = pa.table(columns).group_by("name", use_threads=False).aggregate([(one, "sum") for one in sums])
    parts = [Part(name=row["name"], **{one: row[f"{one}_sum"] for one in sums}) for row in grouped.to_pylist()]
    return tuple(sorted(parts, key=lambda part: (-part.rows, part.name)))


def _grids(kept: pa.Table) -> tuple[Grid, ...]:
    planned = kept.filter(pc.is_valid(kept["grid_rows"]))
    grouped = planned.group_by(["grid_rows", "grid_cols"], use_threads=False).aggregate(
        [("n_image_tokens", "sum"), ([], "count_all")]
    )
    grids = [
        Grid(
            rows=row["grid_rows"],
            cols=row["grid_cols"],
            count=row["count_all"],
            image_tokens=row["n_image_tokens_sum"] or 0,
        )
        for row in grouped.to_pylist()
    ]
    return tuple(sorted(grids, key=lambda grid: (-grid.count, grid.rows, grid.cols)))


def _copies(clusters: pa.Table) -> pa.Table:
    # an evaluation image that is in the corpus too is contaminated by itself, and nobody's copy
    return clusters.filter(pc.not_equal(clusters["uid"], clusters["survivor_uid"]))


def _sample_clusters(scores: pa.Table, clusters: pa.Table) -> tuple[Cluster, ...]:
    """Clusters to look at: half by the greatest distance within, the others by hash."""
    copies = _copies(clusters)
    if not copies.num_rows:
        return ()
    grouped = copies.group_by("survivor_uid", use_threads=False).aggregate([("distance", "max"), ([], "count_all")])
    heads = grouped["survivor_uid"].to_pylist()
    widest = np.argsort(-np.nan_to_num(grouped["distance_max"].to_numpy().astype(float)), kind="stable")
    random = np.argsort(uid_fractions(heads, 0), kind="stable")
    order = dict.fromkeys([*widest[: SHOWN_CLUSTERS // 2].tolist(), *random.tolist()])
    chosen = [heads[place] for place in list(order)[:SHOWN_CLUSTERS]]
    wanted = clusters.filter(pc.is_in(clusters["survivor_uid"], value_set=pa.array(chosen)))
    rows = wanted.to_pylist()
    known = scores.filter(pc.is_in(scores["uid"], value_set=pa.array({*wanted["uid"].to_pylist(), *chosen})))
    by_uid = {row["uid"]: row for row in known.to_pylist()}
    members: dict[str, list[dict[str, Any]]] = {head: [] for head in chosen}
    for row in rows:
        members[row["survivor_uid"]].append(row)
    return tuple(_cluster(head, members[head], by_uid) for head in chosen)


def _cluster(head: str, rows: Sequence[dict[str, Any]], by_uid: dict[str, dict[str, Any]]) -> Cluster:
    copies = [row for row in rows if row["uid"] != head]
    copies.sort(key=lambda row: (-(row["distance"] or 0), row["uid"]))
    absent: dict[str, Any] = {"uid": head, "flags": []}
    own = next((row for row in rows if row["uid"] == head), absent)
    evaluated = copies[0]["role"] == ClusterRole.CONTAMINATED.value
    first = own | {"kind": None, "distance": None, "role": "evaluation image" if evaluated else "survivor"}
    shown = [_member(row, by_uid.get(row["uid"])) for row in [first, *copies[: SHOWN_MEMBERS - 1]]]
    return Cluster(members=tuple(shown), size=len(copies) + 1)


def _member(row: dict[str, Any], score: dict[str, Any] | None) -> Member:
    facts = ""
    if score is not None and score["width"] is not None:
        facts = f"{score['width']:,} × {score['height']:,} px, {score['source']}"
        quality = score["quality"]
        facts += f", quality {quality:.3g}" if quality is not None and math.isfinite(quality) else ""
    return Member(
        place=RowPlace(uid=row["uid"], fragment=score["fragment_id"], index=score["row_index"]) if score else None,
        uid=row["uid"],
        uri=score["uri"] if score else row["uid"],
        facts=facts,
        kind=row.get("kind"),
        distance=row.get("distance"),
        role=row["role"],
        flags=tuple(row["flags"]),
    )
