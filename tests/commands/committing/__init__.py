"""Tests of commands/committing/."""
