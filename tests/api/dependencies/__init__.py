"""Tests of the dependencies of routes."""
