"""What every front door shares: a command line made from a config, exit codes, and the closing table of counts.

Exit codes: 0 every input row is accounted for; 1 something is missing, or the job was stopped by a broken contract;
2 a setting is wrong. What this does *not* do: print by itself (the caller hands in where lines go), or start Ray.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import tyro

from llava_core.errors import CheckpointRefused, ConfigError, TesseraError
from pipelines.progress import duration, setup_logging

Say = Callable[[str], None]
"""Where a job's lines go; `print` in a front door."""

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounts:
    """What became of the rows of a run."""

    rows_in: int
    """Rows of the frozen corpus."""
    ok: int
    """Rows in the table with a result."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Reason code → rows in the table without one."""
    new_rows: int = 0
    """Rows that this call added; the others were there before."""
    unit: str = "images"
    """What a row is, for people."""
    seconds: float = 0.0
    """From the first fragment sent to the last one committed."""


def run(job: Callable[[], None]) -> int:
    """Run a job and say how it ended.

    Args:
        job: returns only when every input row is accounted for.

    Returns:
        The exit code. `--help` and unknown flags leave through `SystemExit`, as `tyro` does.

    Raises:
        Exception: what is not of this project's making, with its traceback.
    """
    setup_logging()
    try:
        job()
    except Exception as error:
        known = own_cause(error)
        if known is None:
            raise
        # work that is given up fails once more while Ray ends, and says so with a traceback
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        wrong_setting = isinstance(known, ConfigError | CheckpointRefused)
        sys.stderr.write(f"{'wrong setting' if wrong_setting else 'stopped'}: {known}\n")
        return 2 if wrong_setting else 1
    return 0


def own_cause(error: BaseException | None) -> TesseraError | None:
    """Find the error of this project's making that another one carries: Ray wraps what a worker raised.

    Example:
        >>> inner = ConfigError("batch_size is 0")
        >>> outer = RuntimeError("a task failed"); outer.__cause__ = inner
        >>> own_cause(outer) is inner, own_cause(ValueError()) is None
        (True, True)
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, TesseraError):
            return error
        seen.add(id(error))
        error = getattr(error, "cause", None) or error.__cause__
    return None


def parse(config_type: type[Config], args: Sequence[str] | None = None) -> Config:
    """Read a command line into a config.

    Args:
        config_type: dataclass whose fields, with the docstrings under them, become the flags and their help.
        args: words of the command line; this process's own if left out.

    Raises:
        SystemExit: code 2 for an unknown flag or a value that the config refuses; 0 after `--help`.
    """
    return tyro.cli(config_type, args=args, config=(tyro.conf.FlagCreatePairsOff,))


def render_lines(lines: Mapping[str, str]) -> str:
    """Labels in one column, values in the next.

    Example:
        >>> print(render_lines({"rows in": "12", "images/s": "3.50"}))
        rows in   12
        images/s  3.50
    """
    width = max(map(len, lines), default=0) + 2
    return "\n".join(f"{label:<{width}}{value}" for label, value in lines.items())


def render_accounts(accounts: Accounts, places: Mapping[str, str]) -> str:
    """The table that ends a job.

    Args:
        accounts: what became of the rows.
        places: label → where something is or how to open it, in the order shown.

    Example:
        >>> accounts = Accounts(rows_in=1200, ok=1197, rejected={"TRUNCATED": 1, "EMPTY": 2}, new_rows=1200, seconds=60)
        >>> print(render_accounts(accounts, {"table": "out/captions"}))
        rows in      1,200
        ok           1,197
        rejected         3
          EMPTY          2
          TRUNCATED      1
        this call    1,200 rows in 1m00s, 20.0 images/s
        table        out/captions
    """
    bad = sum(accounts.rejected.values())
    figures = {"rows in": accounts.rows_in, "ok": accounts.ok, "rejected": bad}
    reasons = sorted(accounts.rejected.items(), key=lambda item: (-item[1], item[0]))
    figures |= {f"  {reason}": count for reason, count in reasons}
    if accounts.rows_in != accounts.ok + bad:
        figures["MISSING"] = accounts.rows_in - accounts.ok - bad
    width = max(len(f"{figure:,}") for figure in figures.values())
    lines = {label: f"{figure:>{width},}" for label, figure in figures.items()}
    return render_lines(lines | {"this call": _pace(accounts)} | dict(places))


def _pace(accounts: Accounts) -> str:
    if not accounts.new_rows:
        return "nothing was missing, so no row was made"
    rate = accounts.new_rows / max(accounts.seconds, 1e-9)
    rows = "row" if accounts.new_rows == 1 else "rows"
    return f"{accounts.new_rows:,} {rows} in {duration(accounts.seconds)}, {rate:.1f} {accounts.unit}/s"
