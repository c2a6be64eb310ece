"""Undo of an event or of a whole operation."""
