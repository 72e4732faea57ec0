"""How long a process waits for `llava_core` beyond what torch and transformers cost anyway.

Each measurement is its own process: `import torch, transformers`; then the transformers classes that any LLaVA stands
on, which transformers imports only when asked; then every public name of `llava_core`. The claim is the last part; the
last two together are stated beside it. The best of five, because a shared machine only adds.

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
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel, SiglipVisionModel
classes = time.perf_counter()
import llava_core
names = [getattr(llava_core, name) for name in llava_core.__all__]
print(json.dumps([peers - start, classes - peers, time.perf_counter() - classes]))
"""


def main() -> int:
    """Measure, print the figures, state the claim."""
    measured = []
    for _ in range(RUNS):
        process = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        measured.append(json.loads(process.stdout))
    peers, classes, ours = min(measured, key=lambda run: run[1] + run[2])
    print(f"import torch, transformers                            {peers:5.2f} s")
    print(f"transformers' model and tokenizer classes             {classes:5.2f} s more")
    print(f"llava_core, every public name                         {ours:5.2f} s more")
    claim = "import of llava_core, every public name"
    holds = report(claim, ours, "s", "<= 3", "beyond torch, transformers and the classes of transformers that it uses")
    report(f"{claim}, with those classes", classes + ours, "s", "", "beyond `import torch, transformers` alone")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
