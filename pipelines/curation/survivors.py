"""Who survives among rows that show the same picture: by policy, never by arrival.

The order is total: what the policy leaves equal, the uid decides. What this does *not* do: decide what is the same.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from llava_core.errors import ConfigError

Criterion = Literal["resolution", "source", "quality"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SurvivorPolicy:
    """Which of several copies is the best."""

    order: tuple[Criterion, ...] = ("resolution", "source", "quality")
    """Criteria from the most to the least important; the least uid decides last. "resolution": more pixels are
    better. "source": earlier in `sources` is better. "quality": higher is better, null and NaN are worst."""
    sources: tuple[str, ...] = ()
    """Sources from the best to the worst; any other is worse than all of these."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for an unknown or repeated criterion, or a repeated source."""
        for criterion in self.order:
            if criterion not in get_args(Criterion):
                choices = ", ".join(get_args(Criterion))
                raise ConfigError(f"SurvivorPolicy.order names {criterion!r}; expected some of {choices}")
        for name, values in (("order", self.order), ("sources", self.sources)):
            if len(set(values)) < len(values):
                raise ConfigError(f"SurvivorPolicy.{name} is {values}; expected each name once")


def best_first(rows: pa.Table, policy: SurvivorPolicy, *, within: tuple[tuple[str, pa.Array], ...] = ()) -> pa.Table:
    """Sort rows, the best first.

    Args:
        rows: uid, width, height, source, quality, and any others.
        policy: the criteria.
        within: (name, values) of each key that comes before the policy, ascending.

    Returns:
        The rows, and the keys of `within` as columns.

    Example:
        >>> rows = pa.table({"uid": ["b", "a", "c"], "width": [9, 3, 3], "height": [2, 6, 7], "source": ["x", "x", "y"],
        ...     "quality": [0.5, None, 0.9]})
        >>> best_first(rows, SurvivorPolicy(order=("quality",)))["uid"].to_pylist()
        ['c', 'b', 'a']
        >>> best_first(rows, SurvivorPolicy())["uid"].to_pylist()
        ['c', 'b', 'a']
    """
    keys: list[tuple[str, str]] = []
    for name, values in within:
        rows = rows.append_column(name, values)
        keys.append((name, "ascending"))
    width = rows.num_columns
    for criterion in policy.order:
        values, direction = _criterion(rows, criterion, policy)
        rows = rows.append_column(f"__{criterion}", values)
        keys.append((f"__{criterion}", direction))
    order = pc.sort_indices(rows, sort_keys=[*keys, ("uid", "ascending")])
    return rows.select(range(width)).take(order)


def _criterion(rows: pa.Table, criterion: Criterion, policy: SurvivorPolicy) -> tuple[pa.ChunkedArray, str]:
    match criterion:
        case "resolution":
            area = pc.multiply(rows["width"].cast(pa.int64()), rows["height"].cast(pa.int64()))
            return pc.fill_null(area, 0), "descending"
        case "source":
            place = pc.index_in(rows["source"], value_set=pa.array(policy.sources, pa.string()))
            return pc.fill_null(place, len(policy.sources)), "ascending"
        case "quality":
            quality = rows["quality"].cast(pa.float64())
            worst = float("-inf")
            return pc.fill_null(pc.if_else(pc.is_nan(quality), worst, quality), worst), "descending"
