"""`--engine vllm`: an environment of its own for workers, and what has to hold before any work.

vLLM needs another torch and another transformers than this project, so its workers run in a Ray `runtime_env` that pip
makes on their nodes; everything else they share with the cluster. Before any work one task asks for that environment
and imports vLLM in it, so that a cluster that cannot install it says so at once.

What this does *not* do: run vLLM (`llava_core.engine.vllm_engine`).
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from llava_core.errors import ConfigError
from pipelines.inference.config import InferenceConfig
from pipelines.runtime import WorkerPlan

PACKAGE = "vllm==0.33.0"
RUNTIME_ENV: Mapping[str, Any] = {
    # pip's own check would complain of this project, whose transformers is newer than vLLM's
    "pip": {"packages": [PACKAGE], "pip_check": False},
    # in the engine's process, whose end is watched, and not in one more of its own
    "env_vars": {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
}
FACTORY = "pipelines.inference.vllm_loading:load_engine"


def check_settings(config: InferenceConfig, layout: str, folder: Path) -> None:
    """Hold the settings of a job to what vLLM does.

    Args:
        config: of the job.
        layout: of the checkpoint.
        folder: of the checkpoint.

    Raises:
        ConfigError: vLLM cannot do it.
    """
    if layout != "hf":
        raise ConfigError(
            f"--engine vllm reads transformers' layout, {folder} has the {layout} one; write it once with "
            "jobs/export_checkpoint.py --layout hf, or use --engine packed"
        )
    if config.resolution != "high" or config.max_tiles is not None or config.visual_budget is not None:
        raise ConfigError(
            "--engine vllm chooses tiles by the checkpoint's own settings; expected --resolution high without "
            "--max-tiles and --visual-budget, or --engine packed"
        )
    if config.quantize is not None:
        raise ConfigError("--quantize is for the packed and the reference engine; vLLM quantises in ways of its own")
    if config.gpus_per_worker == 0:
        raise ConfigError(_NO_GPU)


def check_cluster(workers: WorkerPlan, runtime_env: Mapping[str, Any] = RUNTIME_ENV) -> str:
    """Make the environment on one node and import vLLM in it, before any work.

    Args:
        workers: as they are planned.
        runtime_env: that workers will have.

    Returns:
        vLLM's version.

    Raises:
        ConfigError: the cluster has no GPU, or vLLM cannot be installed or imported; with pip's or Python's own words.
    """
    if not workers.num_gpus:
        raise ConfigError(_NO_GPU)
    return probe(runtime_env, workers.num_gpus)


def probe(runtime_env: Mapping[str, Any], num_gpus: float) -> str:
    """Ask for the environment in one task; see `check_cluster`."""
    task: Any = ray.remote(num_cpus=0, num_gpus=num_gpus, runtime_env=dict(runtime_env), max_retries=0)(_import)
    try:
        return str(ray.get(task.remote()))
    except (ray.exceptions.RuntimeEnvSetupError, ray.exceptions.RayTaskError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        words = " / ".join(lines[-3:])
        raise ConfigError(f"{PACKAGE} cannot be installed on this cluster: {words}; use --engine packed") from error


def _import() -> str:
    import vllm  # noqa: F401 - that it can be imported is the question

    return version("vllm")


_NO_GPU = (
    "--engine vllm runs on GPUs (its wheels are built for CUDA), and the workers of this job have none; use --engine "
    "packed, or a cluster with GPUs"
)
