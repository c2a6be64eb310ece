"""Readings of the log other than the store's: functions, and SQL that other packages build on.

Only eventlog/ names the table `events` in SQL.
"""

from eventlog.reading.follow import Page, RowPage, read_after, read_rows_after
from eventlog.reading.positions import readable_position
from eventlog.reading.recorded import RecordedEvent, to_event

__all__ = [
    "Page",
    "RecordedEvent",
    "RowPage",
    "read_after",
    "read_rows_after",
    "readable_position",
    "to_event",
]
