"""Errors of training that stop it in a state from which the same command goes on.

A wrong setting is `llava_core.errors.ConfigError`, before any cluster work; a sample that cannot be used is counted.
"""

from llava_core.errors import TesseraError


class TrainingStopped(TesseraError):
    """Training cannot go on: a loss that is no number or a spike, a full disk; the last good checkpoint is kept."""
