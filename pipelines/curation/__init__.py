"""From a raw image-text corpus to training shards: probe, dedupe, select, shard, report, each a committed table.

Images are decoded once, by the probe; every later stage reads narrow tables of hashes and numbers, so thresholds and
policies can be changed without touching an image again. What this room does *not* do: train, caption, or evaluate.
"""
