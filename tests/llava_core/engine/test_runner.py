"""How rows are cut into passes and shared out to lanes, worked out by hand."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from llava_core.engine.kv import KVShape, SequenceCache
from llava_core.engine.lanes import Lanes
from llava_core.engine.runner import LEAST_JOB_TOKENS, Row, cut, share_out

CPU = torch.device("cpu")


def rows_of(*lengths: int) -> list[Row]:
    cache = SequenceCache(KVShape(1, 1, 1, torch.float32), 1, CPU)
    return [Row([number] * length, cache) for number, length in enumerate(lengths)]


def test_passes_are_full_and_pieces_go_on_where_they_stopped() -> None:
    rows = rows_of(3, 7, 2)
    passes = [[(rows.index(piece.row), piece.start, piece.stop) for piece in one] for one in cut(rows, 5)]
    assert passes == [[(0, 0, 3), (1, 0, 2)], [(1, 2, 7)], [(2, 0, 2)]]
    ends = [piece.ends_row for one in cut(rows, 5) for piece in one]
    assert ends == [True, False, True, True]


def test_long_rows_are_jobs_and_short_ones_go_together() -> None:
    most = LEAST_JOB_TOKENS
    jobs = [[len(row.ids) for row in job] for job in share_out(rows_of(most + 1, 5, most - 6, 2, 700, 3))]
    assert jobs == [[most + 1], [5, most - 6], [2], [700], [3]]


@pytest.fixture
def two_lanes() -> Iterator[Lanes]:
    """Two, whatever the machine has and the environment allows."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield Lanes(CPU)
    torch.set_num_threads(before)


def test_lanes_keep_the_order_and_the_mode_and_give_threads_back(two_lanes: Lanes) -> None:
    barrier = threading.Barrier(2, timeout=30)

    def look(item: int) -> tuple[int, bool, int]:
        barrier.wait()
        return item, torch.is_inference_mode_enabled(), torch.get_num_threads()

    assert two_lanes.map(look, [4, 7], [1, 1]) == [(4, True, 1), (7, True, 1)]
    assert torch.get_num_threads() == 2


def test_a_lane_that_raises_waits_for_the_others(two_lanes: Lanes) -> None:
    ended = []

    def work(item: int) -> None:
        if item == 0:
            raise MemoryError("no room")
        time.sleep(0.05)
        ended.append(item)

    with pytest.raises(MemoryError, match="no room"):
        two_lanes.map(work, range(6), [1] * 6)
    assert sorted(ended) == [1, 2, 3, 4, 5]


def test_what_does_not_come_out_even_is_shared_by_all_threads(two_lanes: Lanes) -> None:
    threads: dict[str, int] = {}

    def look(item: str) -> str:
        threads[item] = torch.get_num_threads()
        return item.upper()

    # Side by side the long one would take 9, and a lane wait for 5 of them; shared by both threads, 5, and then 2.
    assert two_lanes.map(look, ["short", "long", "small"], [2, 9, 2]) == ["SHORT", "LONG", "SMALL"]
    assert threads == {"long": 2, "short": 1, "small": 1}
