"""Tests of eventlog/."""
