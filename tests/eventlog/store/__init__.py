"""Tests of appending to and loading from the log."""
