"""Tests of readmodels/operation."""
