"""Captioning: corpus in, `captions` table out."""
