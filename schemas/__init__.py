"""Doorways: what a row is between rooms. pyarrow only; imports neither `llava_core` nor Ray."""
