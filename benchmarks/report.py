"""How every benchmark states a result: one JSON line for each claim, which `run_all.py` collects.

    {"claim": …, "value": …, "unit": …, "bar": …, "holds": …, "peer": …, "machine": …, "date": …}

`holds` is null where the machine lacks what the claim needs; `peer` says then why.
"""

import datetime
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda value, bar: value >= bar,
    "<=": lambda value, bar: value <= bar,
}


REPORTED: list[str] = []
"""What this process has reported."""
RESULTS = Path(__file__).parent / "results"
"""Results of machines that not everybody has, as JSON lines, committed."""


def keep(name: str) -> Path:
    """Write what this process has reported beside the results of other machines and days.

    Args:
        name: of the benchmark.

    Returns:
        The file, named after the accelerator and the day.
    """
    import torch

    device = torch.cuda.get_device_name(0).replace(" ", "-") if torch.cuda.is_available() else "cpu"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}_{device}_{datetime.datetime.now(datetime.UTC).date().isoformat()}.jsonl"
    path.write_text("".join(line + "\n" for line in REPORTED))
    return path


def report(claim: str, value: float | None, unit: str, bar: str, peer: str) -> bool | None:
    """Print one claim as a line of JSON.

    Args:
        claim: what is claimed, in words that stand alone.
        value: what was measured; None where it cannot be measured on this machine.
        unit: of the value and of the bar, e.g. "x" for a ratio.
        bar: ">= 4" or "<= 300"; empty for a figure without a bar, which always holds.
        peer: what it was compared with; for a value of None, why it is missing.

    Returns:
        Whether the claim holds; None where it was not measured.

    Example:
        >>> report("tiles from JPEGs", 5.123, "x", ">= 4", "LlavaNextImageProcessorPil")
        {"claim": "tiles from JPEGs", "value": 5.12, "unit": "x", "bar": ">= 4", "holds": true, ...}
        True
    """
    holds = None if value is None else True
    if value is not None and bar:
        comparison, limit = bar.split()
        holds = COMPARISONS[comparison](value, float(limit))
    line = {
        "claim": claim,
        "value": None if value is None else float(f"{value:.3g}"),
        "unit": unit,
        "bar": bar,
        "holds": holds,
        "peer": peer,
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    text = json.dumps(line, ensure_ascii=False)
    REPORTED.append(text)
    print(text, flush=True)
    return holds


def keep_cores(count: int) -> None:
    """Hold this process, and all that it starts from now on, to the first cores that it may use.

    Args:
        count: of cores; fewer where there are fewer.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def machine() -> str:
    """Processor and number of cores that this process may use, and the accelerator if torch sees one."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores{_accelerator()}"


def _accelerator() -> str:
    try:
        import torch
    except ImportError:
        return ""
    return f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
