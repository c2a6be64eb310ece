"""Tests of the projection engine."""
