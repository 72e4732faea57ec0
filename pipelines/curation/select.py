"""Stage 3, `scores` and `clusters` → `selection`: every row kept, or dropped for a reason. No image is touched.

    rejected ─ vetoed ─ contaminated ─ duplicate ─ rules ─▶ what is left ─ caps, mixture, total ─▶ kept

A row's reason is the first that holds, in the order of `DropReason`; all that hold are listed beside it. Everything is
a function of columns, so a million rows take seconds, and the order and number of files do not show.
What this does *not* do: say whether a duplicate's survivor is itself kept. A picture whose survivor fails a rule is
lost with all its copies: the copies are the same picture.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llava_core.errors import ConfigError
from pipelines.curation.balance import BalanceConfig, balance
from pipelines.curation.overrides import Overrides
from pipelines.curation.rules import Bools, RulesConfig, active_rules, columns_of, fails, to_bools
from pipelines.errors import TableError
from schemas.cluster import ClusterKind, ClusterRole
from schemas.selection import SELECTION, DropReason

BLOCK_ROWS = 2**18
"""Rows of one block of the table: about 20 MB."""
NO_OVERRIDES = Overrides()
_ALWAYS = (
    *("uid", "uri", "fragment_id", "row_index", "source", "status", "error"),
    *("file_bytes", "n_tiles", "n_image_tokens", "n_text_tokens"),
)
CLUSTER_COLUMNS = ("uid", "survivor_uid", "kind", "role")
"""Columns of `clusters` that `select_rows` looks at."""
_KINDS = {
    ClusterKind.EXACT_CONTENT: DropReason.DUPLICATE_EXACT,
    ClusterKind.EXACT_PIXEL: DropReason.DUPLICATE_EXACT,
    ClusterKind.NEAR: DropReason.DUPLICATE_NEAR,
    ClusterKind.SEMANTIC: DropReason.DUPLICATE_SEMANTIC,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig:
    """What a selection wants."""

    rules: RulesConfig = field(default_factory=RulesConfig)
    """Thresholds."""
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    """Caps and shares of sources, or of another key."""
    duplicates: tuple[ClusterKind, ...] = tuple(ClusterKind)
    """Kinds of duplicates that are dropped."""
    contaminated: bool = True
    """Whether rows that show evaluation images are dropped."""

    def __post_init__(self) -> None:
        kinds = [kind.value for kind in ClusterKind]
        if strange := [kind for kind in self.duplicates if kind not in kinds]:
            raise ConfigError(f"select.duplicates names {strange}; expected some of {kinds}")


def score_columns(config: SelectConfig) -> list[str]:
    """Columns of `scores` that `select_rows` looks at."""
    key = [config.balance.key] if config.balance.active else []
    return list(dict.fromkeys([*_ALWAYS, *columns_of(active_rules(config.rules)), *key]))


def select_rows(
    scores: pa.Table,
    clusters: pa.Table,
    config: SelectConfig,
    *,
    run_id: str = "run",
    overrides: Overrides = NO_OVERRIDES,
) -> pa.Table:
    """Decide about every row.

    Args:
        scores: the columns of `score_columns`, and any others; each uid once, in any order.
        clusters: CLUSTER rows, in any order; every row of `scores` that has status "ok".
        config: what is wanted.
        run_id: the run that these decisions belong to.
        overrides: decisions of people.

    Returns:
        SELECTION, ascending by uid, one row for each of `scores`.

    Raises:
        TableError: a column is missing, a uid stands twice, or a row has no cluster.
        ConfigError: the mixture does not fit the keys.
    """
    if missing := [name for name in score_columns(config) if name not in scores.column_names]:
        raise TableError(f"select reads columns {missing} of scores, which are missing")
    scores = scores.select(score_columns(config)).sort_by("uid").combine_chunks()
    ok = to_bools(pc.equal(scores["status"], "ok"))
    matched = _join(scores["uid"], ok, clusters)
    held = _held(scores, ok, matched, config, overrides)
    kept_so_far = ~np.logical_or.reduce(list(held.values()))
    if config.balance.active:
        forced = _among(scores["uid"], overrides.keep)
        rows = np.flatnonzero(kept_so_far & ~forced)
        keys = scores[config.balance.key].take(pa.array(rows))
        for reason, gone in balance(scores["uid"].take(pa.array(rows)), keys, config.balance).items():
            held[reason] = np.zeros(len(ok), np.bool_)
            held[reason][rows[gone]] = True
    return _selection(scores, matched, held, run_id)


def count_reasons(selection: pa.Table) -> Counter[str]:
    """Rows by first reason, kept ones under "kept"."""
    reasons = pc.fill_null(selection["error"], "kept").combine_chunks().value_counts()
    return Counter({row["values"].as_py(): row["counts"].as_py() for row in reasons})


def funnel(counts: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """What each reason takes away: (reason, rows dropped, rows left), in order; reasons without a row are left out.

    Example:
        >>> funnel({"kept": 5, "BLURRED": 2, "REJECTED": 1})
        [('REJECTED', 1, 7), ('BLURRED', 2, 5)]
    """
    left = sum(counts.values())
    steps = []
    for reason in DropReason:
        if counts.get(reason, 0):
            left -= counts[reason]
            steps.append((reason.value, counts[reason], left))
    return steps


def _join(uids: pa.ChunkedArray, ok: Bools, clusters: pa.Table) -> pa.Table:
    """The cluster row of each uid, null for rows that the probe rejected and that therefore have none."""
    _check_once("scores", uids)
    _check_once("clusters", clusters["uid"])
    place = pc.index_in(uids, value_set=clusters["uid"].combine_chunks())
    orphans = to_bools(pc.is_null(place)) & ok
    if orphans.any():
        first = uids[int(np.flatnonzero(orphans)[0])].as_py()
        raise TableError(f"{orphans.sum()} rows of scores are not in clusters, {first} is one; run dedupe again")
    return clusters.select(CLUSTER_COLUMNS).take(place)


def _check_once(name: str, uids: pa.ChunkedArray) -> None:
    if pc.count_distinct(uids).as_py() != len(uids):
        raise TableError(f"a uid stands twice in {name}; was it read with the rows of another run?")


def _held(
    scores: pa.Table, ok: Bools, matched: pa.Table, config: SelectConfig, overrides: Overrides
) -> dict[DropReason, Bools]:
    """For each reason before balancing, which rows it holds of: bool[N] each, in the order of `DropReason`."""
    uids = scores["uid"]
    forced = _among(uids, overrides.keep)
    spared = forced | _among(uids, overrides.not_duplicate)
    contaminated = _equal(matched["role"], ClusterRole.CONTAMINATED) & ~spared & config.contaminated
    duplicate = _equal(matched["role"], ClusterRole.DUPLICATE) & ~spared
    held = {
        DropReason.REJECTED: ~ok,
        DropReason.VETOED: _among(uids, overrides.drop) & ok,
        DropReason.CONTAMINATED: contaminated,
    }
    for kind, reason in _KINDS.items():
        wanted = kind in config.duplicates
        held[reason] = held.get(reason, np.zeros(len(ok), np.bool_)) | (
            duplicate & _equal(matched["kind"], kind) & wanted
        )
    for rule in active_rules(config.rules):
        # What the probe rejected has no measurements: its one reason is that.
        failed = fails(scores, rule, config.rules.missing) & ok & ~forced
        held[rule.reason] = failed | held.get(rule.reason, False)
    return held


def _selection(scores: pa.Table, matched: pa.Table, held: dict[DropReason, Bools], run_id: str) -> pa.Table:
    """Put the decisions into the form of the table."""
    size = scores.num_rows
    reasons = [reason for reason in DropReason if reason in held]
    names = pa.array([reason.value for reason in reasons], pa.string())
    grid = np.stack([held[reason] for reason in reasons], axis=1).reshape(size, len(reasons))
    dropped = grid.any(axis=1)
    offsets = np.concatenate([[0], np.cumsum(grid.sum(axis=1))]).astype(np.int32)
    failed = pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(np.nonzero(grid)[1])))
    first = names.take(pa.array(grid.argmax(axis=1), mask=~dropped))
    columns = {
        "uid": scores["uid"],
        "uri": scores["uri"],
        "fragment_id": _block_names(size),
        "run_id": pa.repeat(pa.scalar(run_id), size),
        "status": pc.if_else(pa.array(dropped), "rejected", "ok"),
        "source": scores["source"],
        "corpus_fragment": scores["fragment_id"],
        "row_index": scores["row_index"],
        "file_bytes": scores["file_bytes"],
        "n_tiles": scores["n_tiles"],
        "n_image_tokens": scores["n_image_tokens"],
        "n_text_tokens": scores["n_text_tokens"],
        "failed": failed,
        "error": first,
        "error_detail": _details(scores, matched, first),
    }
    return pa.table([_plain(columns[field.name], field.type) for field in SELECTION], schema=SELECTION)


def _details(scores: pa.Table, matched: pa.Table, first: pa.Array) -> Any:
    """The probe's code for what it rejected, the survivor for copies, null elsewhere."""
    copies = [DropReason.CONTAMINATED, *dict.fromkeys(_KINDS.values())]
    is_copy = pc.is_in(first, value_set=pa.array([reason.value for reason in copies]))
    of_copies = pc.if_else(is_copy, matched["survivor_uid"], pa.scalar(None, pa.string()))
    return pc.if_else(pc.fill_null(pc.equal(first, DropReason.REJECTED.value), False), scores["error"], of_copies)


def _plain(values: Any, kind: pa.DataType) -> Any:
    return values if values.type.equals(kind) else values.cast(kind)


def _block_names(size: int) -> pa.Array:
    names = pa.array([f"block-{block:05d}" for block in range(-(-size // BLOCK_ROWS))], pa.string())
    return names.take(pa.array(np.arange(size) // BLOCK_ROWS))


def _among(uids: pa.ChunkedArray, chosen: Iterable[str]) -> Bools:
    return to_bools(pc.is_in(uids, value_set=pa.array(sorted(chosen), pa.string())))


def _equal(values: pa.ChunkedArray, wanted: str) -> NDArray[np.bool_]:
    return to_bools(pc.fill_null(pc.equal(values, wanted), False))
