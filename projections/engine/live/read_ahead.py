"""Reading in a thread while what was read before is applied, for an engine that is behind.

An engine waits for PostgreSQL most of the time, so the next events are read and decoded meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

from eventlog.connections import Connection
from eventlog.reading import Page, read_after

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """At most one reading in a thread. What it uses belongs to it from `begin` to `take`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="annals-read-ahead")
        self._reading: Future[T] | None = None

    def begin(self, read: Callable[[], T]) -> None:
        """Begin a reading."""
        self._reading = self._thread.submit(read)

    def take(self) -> T | None:
        """Wait for the reading and return its result; None if none was begun. Raises its error."""
        reading, self._reading = self._reading, None
        return reading.result() if reading is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.shutdown(wait=True)


class PageReader(ReadAhead[tuple[int, Page]]):
    """Reads pages of the log, each with the position that it follows."""

    def __init__(self, connection: Connection, limit: int) -> None:
        """limit: the maximum number of events in a page."""
        super().__init__()
        self._connection = connection
        self._limit = limit

    def read(self, position: int) -> Page:
        """The page after a position: the one that was read ahead, or a new one."""
        begin, page = self.take() or (None, None)
        return page if page is not None and begin == position else self._read(position)[1]

    def read_ahead(self, position: int) -> None:
        """Begin to read the page after a position."""
        self.begin(lambda: self._read(position))

    def _read(self, position: int) -> tuple[int, Page]:
        return position, read_after(self._connection, position, self._limit)
