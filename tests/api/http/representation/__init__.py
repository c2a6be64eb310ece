"""Representations over HTTP."""
