"""Runs every benchmark in turn and prints the table that the README quotes.

    python benchmarks/run_all.py [NAME ...]

Each benchmark is its own process, so that none inherits another's caches or threads. Exit code 1 if one failed to run
or a claim does not hold.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOT_BENCHMARKS = {"engine_sides", "models", "report", "run_all", "sizes_engine"}
NOT_BENCHMARKS |= {"tiny_ablations", "tiny_card", "tiny_exam"}


def claims_of(name: str) -> tuple[list[dict[str, Any]], int]:
    """Run one benchmark, passing its output on, and collect the JSON lines that it ends with."""
    claims = []
    with subprocess.Popen([sys.executable, str(HERE / f"{name}.py")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith('{"claim"'):
                claims.append(json.loads(line))
    return claims, process.returncode


def main() -> int:
    """Run the benchmarks named on the command line, or all of them."""
    known = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    names = sys.argv[1:] or known
    if unknown := sorted(set(names) - set(known)):
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    rows, failed = [], []
    for name in names:
        print(f"── {name}", flush=True)
        claims, returncode = claims_of(name)
        rows += claims
        if returncode:
            failed.append(name)
    print("\n| claim | value | bar | holds | against |\n|---|---|---|---|---|")
    for row in rows:
        holds = {True: "yes", False: "**no**", None: "not measured here"}[row["holds"]]
        print(f"| {row['claim']} | {row['value']} {row['unit']} | {row['bar']} | {holds} | {row['peer']} |")
    for name in failed:
        print(f"{name} did not run to its end, or a claim of its does not hold", file=sys.stderr)
    return int(bool(failed) or any(row["holds"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
