"""Processes that a test starts in a session of their own, and ends to the last one: by their ids, nobody else's."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a command as the leader of a new session; at the end nothing of that session is left."""
    process = subprocess.Popen(
        command,
        env=dict(environment),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end_session(process.pid)
        process.communicate()


def finished(
    command: Sequence[str], environment: Mapping[str, str], *, timeout: float = 300, folder: Path | None = None
) -> tuple[int, str]:
    """Run a command to its end, in a session of its own, and return its exit code and what it said."""
    with started(command, environment, folder) as process:
        said, _ = process.communicate(timeout=timeout)
    return process.returncode, said


def session(leader: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def end_session(leader: int) -> None:
    """Kill what is left of a session, and wait until it is gone."""
    until = time.monotonic() + 30
    while (left := session(leader)) and time.monotonic() < until:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    assert not session(leader), f"session {leader} does not end"
