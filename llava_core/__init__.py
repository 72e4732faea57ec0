"""The model: LLaVA 1.0, 1.5, NeXT and OneVision in one module. One process, one device; knows nothing of Ray or tables."""
