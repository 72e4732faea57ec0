"""Checkpoints: read and write the layouts that LLaVA has been released in, strictly and without running their code."""
