"""Aggregates: their events, decisions and evolution. No I/O and no clock."""
