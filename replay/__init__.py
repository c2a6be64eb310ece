"""Readings of history: what happened to an entity, and how everything looked as of a time."""
