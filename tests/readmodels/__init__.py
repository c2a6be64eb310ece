"""Tests of readmodels/."""
