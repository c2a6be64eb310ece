"""Tests of eventlog/libpq/."""
