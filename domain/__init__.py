"""Aggregates: their events, decisions and evolution. Pure: no I/O, no clock."""
