"""An event as it was recorded, for readers that follow the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from psycopg.pq.abc import PGresult

from eventlog.digest import event_digest
from eventlog.upcast import upcast

COLUMNS = """
position, workspace_id, stream_id, stream_version, topic, account_id, data, metadata,
occurred_at::text, recorded_at::text"""
"""The columns that `to_event` takes, on a connection for followers (ids as text, JSON as bytes)."""
COLUMNS_OF_E = """
e.position, e.workspace_id::text, e.stream_id::text, e.stream_version, e.topic,
e.account_id::text, e.data, e.metadata, e.occurred_at::text, e.recorded_at::text"""
"""The same columns over a row `e` of the log, on any connection that returns JSON as bytes."""


@dataclass(slots=True)
class RecordedEvent:
    """An event with ids and times as text, and its data as JSON of the current version."""

    position: int
    workspace_id: str
    stream_id: str
    stream_version: int
    topic: str
    account_id: str | None
    data: dict[str, Any]
    metadata: bytes
    occurred_at: str
    recorded_at: str
    digest: int

    @property
    def kind(self) -> str:
        """The kind of the entity that the event belongs to."""
        return self.topic.split(".", 1)[0]


def log_rows(result: PGresult) -> list[tuple[Any, ...]]:
    """The rows of a result in text format with the columns `COLUMNS`, as psycopg returns them."""
    value: Any = result.get_value
    return [
        (
            int(value(row, 0)),
            value(row, 1).decode(),
            value(row, 2).decode(),
            int(value(row, 3)),
            value(row, 4).decode(),
            None if (account := value(row, 5)) is None else account.decode(),
            value(row, 6),
            value(row, 7),
            value(row, 8).decode(),
            value(row, 9).decode(),
        )
        for row in range(result.ntuples)
    ]


def to_event(row: tuple[Any, ...]) -> RecordedEvent:
    """Make an event of the current version from a row with the columns `COLUMNS`."""
    position, workspace, stream, version, topic, account, raw, metadata, occurred, recorded = row
    occurred_at, recorded_at = iso(occurred), iso(recorded)
    digest = event_digest(
        position,
        workspace,
        stream,
        version,
        topic,
        account,
        occurred_at,
        recorded_at,
        raw,
        metadata,
    )
    topic, data = upcast(topic, orjson.loads(raw))
    return RecordedEvent(
        position, workspace, stream, version, topic, account, data, metadata,
        occurred_at, recorded_at, digest,
    )  # fmt: skip


def iso(timestamp: str) -> str:
    """Convert PostgreSQL's text of a UTC time into ISO 8601 (`2026-01-31T12:00:00.5+00:00`)."""
    return timestamp.replace(" ", "T", 1) + ":00"
