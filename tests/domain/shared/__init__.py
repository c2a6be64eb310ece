"""Tests of what the aggregates share."""
