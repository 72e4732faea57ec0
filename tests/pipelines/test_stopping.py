"""SIGTERM becomes an error where the job waits, and waits itself where the job commits."""

import os
import queue
import signal

import pytest

from pipelines.errors import StoppedError
from pipelines.stopping import Stopping


def test_a_signal_ends_a_wait_and_the_handler_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="the same command does the rest"), Stopping():
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        queue.Queue[int]().get(timeout=5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_commit_is_finished_first() -> None:
    done: list[str] = []
    with pytest.raises(StoppedError), Stopping() as stopping:
        with stopping.held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("committed")
        done.append("went on")
    assert done == ["committed"]


def test_a_first_signal_can_be_noted_only_and_a_second_one_raises() -> None:
    with Stopping() as stopping, stopping.noted():
        assert not stopping.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked
        with pytest.raises(StoppedError):
            os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(StoppedError), Stopping():
        os.kill(os.getpid(), signal.SIGTERM)
