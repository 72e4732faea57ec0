"""How long a process waits for `llava_core` beyond what torch and transformers cost anyway.

Each measurement is its own process: `import torch, transformers`, then every public name of `llava_core`, which loads
its modules and the transformers classes that they stand on. The best of five, because a shared machine only adds.

    python benchmarks/import_time.py
"""

import json
import subprocess
import sys

from report import report

RUNS = 5
CODE = """
import json, time
start = time.perf_counter()
import torch, transformers
peers = time.perf_counter()
import llava_core
alone = time.perf_counter()
names = [getattr(llava_core, name) for name in llava_core.__all__]
print(json.dumps([peers - start, alone - peers, time.perf_counter() - alone]))
"""


def main() -> int:
    """Measure, print the figures, state the claim."""
    measured = []
    for _ in range(RUNS):
        process = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        measured.append(json.loads(process.stdout))
    peers, alone, names = (min(column) for column in zip(*measured, strict=True))
    print(f"import torch, transformers        {peers:6.2f} s")
    print(f"import llava_core                 {alone:6.4f} s more")
    print(f"every public name of llava_core   {names:6.2f} s more")
    holds = report(
        "import of llava_core, all public names",
        alone + names,
        "s",
        "<= 3",
        "beyond `import torch, transformers` in the same process",
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
