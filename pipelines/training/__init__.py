"""Three stages of training on Ray Train: from shards or LLaVA JSON to a checkpoint that every reader takes.

What this does *not* do: choose samples (`curation`), answer questions (`inference`).
"""
