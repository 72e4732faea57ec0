import numpy as np
import pyarrow as pa
import pytest

from llava_core.errors import ConfigError
from pipelines.curation.survivors import SurvivorPolicy, best_first
from tests.pipelines.curation.cases import table

ROWS = table(
    {"uid": "e", "width": 30, "height": 20, "source": "web", "quality": 0.9},
    {"uid": "d", "width": 20, "height": 30, "source": "shop", "quality": 0.1},
    {"uid": "c", "width": 10, "height": 70, "source": "other", "quality": None},
    {"uid": "b", "width": 30, "height": 20, "source": "web", "quality": float("nan")},
    {"uid": "a", "width": 30, "height": 20, "source": "web", "quality": None},
    {"uid": "f", "width": None, "height": 20, "source": None, "quality": 0.5},
)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (SurvivorPolicy(), "cedabf"),
        (SurvivorPolicy(sources=("shop", "web")), "cdeabf"),
        (SurvivorPolicy(order=("source", "quality"), sources=("other", "web")), "ceabfd"),
        (SurvivorPolicy(order=("quality", "resolution")), "efdcab"),
        (SurvivorPolicy(order=()), "abcdef"),
    ],
)
def test_order_by_policy_for_every_arrival(policy: SurvivorPolicy, expected: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        arrived = ROWS.take(pa.array(rng.permutation(len(ROWS))))
        assert "".join(best_first(arrived, policy)["uid"].to_pylist()) == expected


def test_pixels_of_the_largest_images_do_not_overflow() -> None:
    rows = table({"width": 65_000, "height": 65_000}, {"width": 100, "height": 100})
    assert best_first(rows, SurvivorPolicy())["uid"].to_pylist() == ["u0", "u1"]


def test_keys_before_the_policy() -> None:
    within = (("group", pa.array([2, 1, 2, 1, 2, 1])),)
    ordered = best_first(ROWS, SurvivorPolicy(), within=within)
    assert "".join(ordered["uid"].to_pylist()) == "dbfcea"
    assert ordered["group"].to_pylist() == [1, 1, 1, 2, 2, 2]
    assert set(ordered.column_names) == {*ROWS.column_names, "group"}


@pytest.mark.parametrize(
    "settings", [{"order": ("size",)}, {"order": ("quality", "quality")}, {"sources": ("web", "web")}]
)
def test_wrong_policies_are_refused(settings) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SurvivorPolicy(**settings)
