"""Rebuild beside the live tables: bulk load, comparison, swap, rollback, retry."""
