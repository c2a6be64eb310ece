"""Retry parked entities: replay their events and require the rows of a fresh fold."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from eventlog.connections import Connection, follow_connection
from eventlog.hints import PROJECTED
from eventlog.reading import RecordedEvent
from eventlog.reading.entities import read_entity
from projections.changes import Projection, Row, RowKey
from projections.engine.install import READ_SCHEMA
from projections.engine.ledger.parking import ParkedEntity, unpark
from projections.engine.live.follower import ROW_ERRORS, CannotApply, Follower
from projections.engine.live.partitions import load_partition_positions
from projections.engine.rebuild.compare import unequal_rows
from projections.engine.rebuild.refusal import RebuildRefused
from projections.engine.rows.fold import ChangedRows
from projections.engine.rows.memory import AppliedProjection, MemoryTables

LOCK_PROJECTION = "SELECT position FROM projections WHERE name = %s FOR UPDATE"
NEW_EPOCH = "UPDATE projections SET epoch = epoch + 1 WHERE name = %s"


class RowsDiffer(Exception):
    """After the replay, the entity's rows differ from those of a fresh fold."""


@dataclass(frozen=True)
class RetryResult:
    """The result of retrying one parked entity."""

    parked: ParkedEntity
    error: str | None
    """Why it is still parked; None if it is not."""


def retry(url: str, projection: Projection, version: str | None = None) -> list[RetryResult]:
    """Retry every parked entity of a projection, each in its own transaction.

    version: that of the running code; by default, rows of any version are taken. Raises
    `RebuildRefused` if the rows were made by other code or the tables are damaged.
    """
    with follow_connection(url, application_name="annals-retry") as connection:
        try:
            follower = Follower.open(connection, projection, READ_SCHEMA, version)
            return [
                _retry_one(connection, projection, entry, version)
                for entry in follower.parked.values()
            ]
        except CannotApply as problem:
            raise RebuildRefused(f"{problem}.") from None


def _retry_one(
    connection: Connection, projection: Projection, entry: ParkedEntity, version: str | None
) -> RetryResult:
    try:
        with connection.transaction():
            # The engine's next batch waits for this lock and then finds a new epoch.
            connection.execute(LOCK_PROJECTION, (projection.name,))
            follower = Follower.open(connection, projection, READ_SCHEMA, version)
            if entry.key not in follower.parked:
                return RetryResult(entry, None)
            follower.parked = {}
            events = _events_of(connection, projection, entry, follower.position)
            waiting = [event for event in events if event.position >= entry.position]
            batch = follower.fold(waiting)
            for failed in batch.parked.values():
                return RetryResult(entry, failed.error)
            follower.write(connection, batch)
            _require_equal(connection, projection, events, entry)
            unpark(connection, projection.name, entry.key)
            connection.execute(NEW_EPOCH, (projection.name,))
            connection.execute(f"NOTIFY {PROJECTED}")
    except (*ROW_ERRORS, RowsDiffer) as error:
        return RetryResult(entry, f"{type(error).__name__}: {error}")
    except psycopg.OperationalError as error:
        return RetryResult(entry, f"not tried: {error}")
    return RetryResult(entry, None)


def _events_of(
    connection: Connection, projection: Projection, entry: ParkedEntity, upto: int
) -> list[RecordedEvent]:
    consumed = load_partition_positions(connection, projection.name)
    events = read_entity(
        connection,
        entry.workspace_id,
        entry.entity_id,
        upto=max(upto, consumed.highest),
        with_children=projection.by_account,
    )
    return [event for event in events if event.position <= upto or consumed.has(event)]


def _require_equal(
    connection: Connection, projection: Projection, events: list[RecordedEvent], entry: ParkedEntity
) -> None:
    """Require the rows that a fresh fold of the events gives. Raises `RowsDiffer`."""
    fresh = MemoryTables([projection])
    changed = {table.name: ChangedRows() for table in projection.tables}
    applied = AppliedProjection(projection, changed)
    for event in events:
        applied.apply(event)
        fresh.apply(event)
    touched: dict[str, dict[RowKey, Row]] = {
        name: {key: {} for key in rows.changes} | fresh.tables[name]
        for name, rows in changed.items()
    }
    unequal = unequal_rows(connection, READ_SCHEMA, projection, touched)
    if unequal:
        raise RowsDiffer(f"{entry.entity_id}: {unequal[0][0]} {unequal[0][1][1]}")
