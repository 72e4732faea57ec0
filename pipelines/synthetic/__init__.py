"""Corpora whose truth is known: every row is made from a seed, and says what should become of it.

What this room does *not* do: read or judge a corpus; it meets the others in files and tables.
"""
