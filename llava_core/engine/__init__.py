"""The engine: many requests, one device."""
