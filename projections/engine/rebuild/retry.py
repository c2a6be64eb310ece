"""Bring parked entities back: replay their events, and prove the rows equal to a fresh fold."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from eventlog.connections import Connection, follow_connection
from eventlog.hints import PROJECTED
from eventlog.reading import RecordedEvent
from eventlog.reading.entities import read_entity
from projections.changes import Projection, Row, RowKey
from projections.engine.install import READ_SCHEMA
from projections.engine.ledger.parking import Parked, unpark
from projections.engine.live.follower import UNDIGESTED, Follower
from projections.engine.live.partitions import reached
from projections.engine.memory import MemoryTables
from projections.engine.rebuild.compare import unequal_rows

LOCK_PROJECTION = "SELECT position FROM projections WHERE name = %s FOR UPDATE"
NEW_EPOCH = "UPDATE projections SET epoch = epoch + 1 WHERE name = %s"


class NotEqual(Exception):
    """The rows after the replay are not what a fresh fold of the entity gives."""


@dataclass(frozen=True)
class Retried:
    """What became of one parked entity."""

    parked: Parked
    error: str | None
    """Why it is still parked; None where it is back."""


def retry(url: str, projection: Projection) -> list[Retried]:
    """Try every parked entity of a projection again, each in a transaction of its own."""
    with follow_connection(url, application_name="annals-retry") as connection:
        follower = Follower(connection, projection, READ_SCHEMA)
        return [_retry_one(connection, projection, entry) for entry in follower.parked.values()]


def _retry_one(connection: Connection, projection: Projection, entry: Parked) -> Retried:
    try:
        with connection.transaction():
            # The engine's next batch waits here, and then finds a new epoch.
            connection.execute(LOCK_PROJECTION, (projection.name,))
            follower = Follower(connection, projection, READ_SCHEMA)
            if entry.entity not in follower.parked:
                return Retried(entry, None)
            follower.parked = {}
            events = _events_of(connection, projection, entry, follower.position)
            waiting = [event for event in events if event.position >= entry.position]
            digested = follower.digest(waiting)
            for failed in digested.set_aside.values():
                return Retried(entry, failed.error)
            follower.write(connection, digested)
            _prove(connection, projection, events, entry)
            unpark(connection, projection.name, entry.entity)
            connection.execute(NEW_EPOCH, (projection.name,))
            connection.execute(f"NOTIFY {PROJECTED}")
    except (*UNDIGESTED, NotEqual) as error:
        return Retried(entry, f"{type(error).__name__}: {error}")
    except psycopg.OperationalError as error:
        return Retried(entry, f"not tried: {error}")
    return Retried(entry, None)


def _events_of(
    connection: Connection, projection: Projection, entry: Parked, upto: int
) -> list[RecordedEvent]:
    consumed = reached(connection, projection.name)
    events = read_entity(
        connection,
        entry.workspace_id,
        entry.entity_id,
        upto=max(upto, consumed.highest),
        with_children=projection.by_account,
    )
    return [event for event in events if event.position <= upto or consumed.has(event)]


def _prove(
    connection: Connection, projection: Projection, events: list[RecordedEvent], entry: Parked
) -> None:
    fresh = MemoryTables([projection])
    touched: dict[str, dict[RowKey, Row]] = {table.name: {} for table in projection.tables}
    for event in events:
        for change in projection.changes(event):
            touched[change.table][event.workspace_id, change.key] = {}
        fresh.apply(event)
    for table, rows in fresh.tables.items():
        touched[table].update(rows)
    unequal = unequal_rows(connection, READ_SCHEMA, projection, touched)
    if unequal:
        raise NotEqual(f"{entry.entity_id}: {unequal[0][0]} {unequal[0][1][1]}")
