"""Tests of routes, one file a collection."""
