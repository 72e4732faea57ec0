"""Evaluation: benchmarks in, answers scored as their authors score them out."""
