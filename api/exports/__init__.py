"""Exports: streams of many rows from one point of the log."""
