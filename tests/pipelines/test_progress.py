"""The line says what is done, how fast and how long; the watchdog barks when nothing comes."""

import io
import logging
import threading
import time
from collections.abc import Iterator

import pytest

from pipelines import metrics
from pipelines.errors import StalledError
from pipelines.progress import Progress, setup_logging, watched


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_line_counts_earlier_rows_as_done_but_not_towards_the_rate() -> None:
    clock = Clock()
    progress = Progress(1000, done=400, stream=io.StringIO(), clock=clock)
    clock.now += 20
    assert progress.line() == "400 of 1,000 images (40.0 %), none yet after 20s"
    progress.add(100, rejected=3)
    assert progress.rate == 5.0
    assert progress.line() == "500 of 1,000 images (50.0 %), 5.0 images/s, 1m40s left, 3 rejected"
    clock.now += 30
    progress.add(500)
    assert progress.line() == "1,000 of 1,000 images (100.0 %), 12.0 images/s, 3 rejected"


def test_where_tokens_are_noted_they_say_how_long_it_takes() -> None:
    clock = Clock()
    progress = Progress(1000, done=200, stream=io.StringIO(), clock=clock)
    clock.now += 50
    # 100 rows are made and none of their fragments is done: 30 tokens a row, 3,000 in 50 s
    progress.note(100, 3000)
    assert progress.line() == "300 of 1,000 images (30.0 %), 3,000 tokens, 60 tokens/s, 2.0 images/s, 5m50s left"
    clock.now += 30
    progress.note(200, 9000)
    progress.add(150, rejected=1)
    # the minute before: 6,000 tokens in 30 s; 45 tokens a row, 600 rows left
    line = "400 of 1,000 images (40.0 %), 9,000 tokens, 200 tokens/s, 2.5 images/s, 2m15s left, 1 rejected"
    assert progress.line() == line
    clock.now += 100
    progress.note(210, 10_000)
    clock.now += 20
    progress.note(300, 19_000)
    # of the marks that are older than a minute only the last one counts: 10,000 tokens in 120 s
    assert progress.token_rate == pytest.approx(10_000 / 120)
    progress.note(10**9, 10**9)
    assert progress.line().startswith("1,000 of 1,000 images")
    progress.close()
    assert progress.line().startswith("350 of 1,000 images")


def test_lines_come_at_intervals_and_at_the_end() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, stream=stream, clock=clock, unit="rows")
    for _ in range(25):
        clock.now += 1
        progress.add(4)
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "40 of 100 rows (40.0 %)",
        "80 of 100 rows (80.0 %)",
    ]
    progress.close()
    assert stream.getvalue().splitlines()[-1].startswith("100 of 100 rows (100.0 %), 4.0 rows/s")
    assert "\r" not in stream.getvalue()
    progress.close()
    assert stream.getvalue().count("100 of 100 rows") == 1


def test_a_terminal_has_one_line_that_is_written_over() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress(10, stream=stream, clock=clock)
    for _ in range(2):
        clock.now += 0.25
        progress.add(5)
    progress.close()
    assert stream.getvalue().count("\r\x1b[K") == 3
    assert stream.getvalue().count("\n") == 1


def test_quiet_writes_nothing() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(10, stream=stream, clock=clock, quiet=True)
    clock.now += 60
    progress.add(5)
    progress.close()
    assert stream.getvalue() == ""
    assert Progress(0, stream=stream, clock=clock).line().startswith("0 of 0 images (100.0 %)")


Told = list[tuple[int, int, float, str, float]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What `metrics` is told, again each 20 ms."""
    seen: Told = []
    monkeypatch.setattr(metrics, "report_progress", lambda *values: seen.append(values))
    monkeypatch.setattr("pipelines.progress._METRIC_SECONDS", 0.02)
    return seen


def repeats(told: Told, count: int) -> Told:
    """What was told since, so many times."""
    start, until = len(told), time.monotonic() + 10
    while len(told) < start + count and time.monotonic() < until:
        time.sleep(0.01)
    return told[start : start + count]


def test_a_job_in_which_nothing_moves_says_so_again_and_again(told: Told) -> None:
    clock = Clock()
    progress = Progress(50, done=10, unit="steps", quiet=True, clock=clock)
    start = told[0][4]
    assert told[0] == (10, 50, 0.0, "steps", start)
    assert time.time() - start < 10
    clock.now += 4
    assert repeats(told, 3) == [(10, 50, 0.0, "steps", start)] * 3
    progress.add(6)
    again = repeats(told, 4)[1:]
    moved = again[0][4]
    assert moved > start
    assert again == [(16, 50, 1.5, "steps", moved)] * 3
    progress.close()
    length = len(told)
    assert told[-1] == (16, 50, 1.5, "steps", moved)
    time.sleep(0.2)
    assert len(told) == length, "a closed one says nothing"


def test_rows_of_unfinished_fragments_and_signs_of_life_move_a_job(told: Told) -> None:
    progress = Progress(1000, quiet=True)
    moved = told[0][4]
    progress.note(0, 0)
    assert {one[4] for one in repeats(told, 3)} == {moved}
    for noted in [(7, 210, 1), (7, 400, 1), (7, 400, 2)]:
        progress.note(*noted)
        (later,) = {one[4] for one in repeats(told, 4)[1:]}
        assert later > moved
        # the same once more is no news
        progress.note(*noted)
        assert {one[4] for one in repeats(told, 4)[1:]} == {later}
        moved = later
    progress.alive()
    (later,) = {one[4] for one in repeats(told, 4)[1:]}
    assert later > moved and progress.line().startswith("7 of 1,000")
    progress.close()


def test_a_progress_that_nobody_holds_says_nothing_any_more(told: Told) -> None:
    progress = Progress(50, quiet=True)
    assert len(repeats(told, 2)) == 2
    del progress
    time.sleep(0.1)
    length = len(told)
    time.sleep(0.2)
    assert len(told) == length


def test_watched_gives_all_items_in_order_and_passes_errors_on() -> None:
    assert list(watched(iter(range(50)), deadline_s=5)) == list(range(50))

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    seen = []
    with pytest.raises(KeyError, match="lost"):
        for item in watched(broken(), deadline_s=5):
            seen.append(item)
    assert seen == [1]


def test_watched_stops_a_job_that_stalls() -> None:
    release = threading.Event()

    def stalled() -> Iterator[int]:
        yield 1
        release.wait(30)

    start = time.monotonic()
    with pytest.raises(StalledError, match="no receipt came back within 0s"):
        list(watched(stalled(), deadline_s=0.2, what="a receipt"))
    assert time.monotonic() - start < 5
    release.set()


def test_signs_of_life_give_an_item_its_time_again_and_silence_ends_the_job() -> None:
    """Each item takes four times the deadline; signs come until the second one is to be made."""
    alive, release = threading.Event(), threading.Event()
    alive.set()
    heard = [time.monotonic()]

    def idle() -> float:
        if alive.is_set():
            heard[0] = time.monotonic() - 0.1
        return time.monotonic() - heard[0]

    def slow() -> Iterator[int]:
        time.sleep(1.2)
        yield 1
        alive.clear()
        release.wait(30)

    found = []
    with pytest.raises(StalledError, match="no fragment came back within 0s, and no sign of life of a worker"):
        for item in watched(slow(), deadline_s=0.3, idle=idle):
            found.append(item)
    assert found == [1]
    release.set()


def test_a_progress_is_idle_until_anything_is_noted() -> None:
    now = [100.0]
    progress = Progress(50, quiet=True, clock=lambda: now[0])

    def after(seconds: float) -> float:
        now[0] += seconds
        return progress.idle

    assert after(5) == 5
    progress.note(0, 0, 1)
    assert after(2) == 2
    progress.note(0, 0, 1)
    assert after(2) == 4
    for noted in [(3, 0, 1), (3, 70, 1), (3, 70, 2)]:
        progress.note(*noted)
        assert after(1) == 1
    progress.add(4)
    assert after(3) == 3
    progress.alive()
    assert after(2) == 2
    progress.close()


def test_a_slow_consumer_is_not_a_stall_and_one_that_leaves_stops_the_reading() -> None:
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for number in range(1000):
            pulled.append(number)
            yield number

    items = watched(source(), deadline_s=0.2)
    for _ in range(3):
        next(items)
        time.sleep(0.3)
    items.close()  # type: ignore[attr-defined]
    time.sleep(0.7)
    assert len(pulled) < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "watched"]


def test_logging_shows_this_project_and_only_warnings_of_others() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    stream = io.StringIO()
    try:
        setup_logging(stream=io.StringIO())
        setup_logging(stream=stream)
        logging.getLogger("pipelines.tables").info("fragment f committed")
        logging.getLogger("botocore").info("chatter")
        logging.getLogger("botocore").warning("trouble")
    finally:
        root.handlers, root.level = before[0], before[1]
    lines = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == ["INFO pipelines.tables: fragment f committed", "WARNING botocore: trouble"]
