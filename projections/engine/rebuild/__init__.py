"""Rebuilding projections beside the live tables: build, compare, swap, rollback, retry."""
