"""Readings of history: what happened to one thing, and how everything looked as of a time."""
