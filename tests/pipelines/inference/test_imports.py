"""A driver and its workers start without torch and Ray Data: they take seconds, and most have no use for them."""

import subprocess
import sys

CODE = """
import sys
import pipelines.inference.flow, pipelines.inference.stage, pipelines.inference.engine_process
from llava_core.checkpoints import read_config, resolve_model, revision
folder = resolve_model("tiny")
read_config(folder), revision(folder)
print([name for name in ("torch", "transformers", "ray.data") if name in sys.modules])
"""


def test_a_driver_loads_no_model_code() -> None:
    process = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
