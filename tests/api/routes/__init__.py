"""Tests of routes, one file per collection."""
