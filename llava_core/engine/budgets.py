"""How much one pass takes at once: what suits the device that the engine runs on.

On a CPU a pass is fast while what one layer hands to the next stays in the processor's last cache; on an accelerator
it is fast when it is large. What this does *not* do: count what is in use (`kv`), take less where it does not fit
(`ladder`).
"""

import torch

from llava_core.config import ModelConfig

CPU_PASS_BYTES = 16 << 20
"""Of the widest activation of a pass on a CPU. Beyond 32 MiB glibc maps each tensor anew and the kernel clears it,
which made a pass over 16 tiles cost 1.7 times as much as over 4 (measured)."""
LEAST_CPU_TOKENS = 256
"""Fewer tokens leave a matrix product short of work for each weight that it reads."""
ACCELERATOR_TILES, ACCELERATOR_TOKENS = 128, 8192
CPU_KV_BYTES = 4 << 30
ACCELERATOR_KV_SHARE = 0.7
"""Of the memory that weights have left: passes need the rest."""


def tiles_per_pass(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> int:
    """How many tiles the tower sees at once.

    Args:
        config: the model's.
        device: that the model runs on.
        dtype: of the tower.

    Returns:
        At least 1.
    """
    if device.type != "cpu":
        return ACCELERATOR_TILES
    width = int(config.vision.tower["intermediate_size"])
    tokens = config.vision.patches_per_side**2 + 1
    return max(1, CPU_PASS_BYTES // (tokens * width * dtype.itemsize))


def tokens_per_pass(intermediate_size: int, device: torch.device, dtype: torch.dtype) -> int:
    """How many tokens the language model sees at once.

    Args:
        intermediate_size: of its MLPs.
        device: that it runs on.
        dtype: of its activations.

    Example:
        >>> tokens_per_pass(1376, torch.device("cpu"), torch.float32)
        3048
    """
    if device.type != "cpu":
        return ACCELERATOR_TOKENS
    return max(LEAST_CPU_TOKENS, CPU_PASS_BYTES // (intermediate_size * dtype.itemsize))


def kv_bytes_for(device: torch.device) -> int:
    """How many bytes of keys and values there may be.

    Args:
        device: that the language model runs on, with its weights in place.

    Example:
        >>> kv_bytes_for(torch.device("cpu")) >> 30
        4
    """
    if device.type != "cuda":
        return CPU_KV_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * ACCELERATOR_KV_SHARE)
