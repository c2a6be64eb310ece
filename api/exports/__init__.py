"""Exports: responses that stream many rows from one position of the log."""
