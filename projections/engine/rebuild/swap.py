"""Swap a projection's live tables with others, while readers read and writers write.

The engine hands the projection over. For a moment both sets of tables advance in the same
transactions, so that readers see the same position in either; then they are exchanged in one
transaction, and the old tables are kept for rollback.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from eventlog.connections import Connection
from eventlog.hints import APPENDED, PROJECTED
from eventlog.locks import EXPORT_LOCK, PROJECTION_LOCK, UNLOCK
from eventlog.reading import read_after
from projections.changes import Projection
from projections.engine.install import READ_SCHEMA, Definition, create_functions
from projections.engine.live.follower import Follower, apply_page
from projections.engine.live.partitions import align_partitions
from projections.engine.rebuild.exchange import TablesInUse, exchange_tables

CATCH_UP_EVENTS = 2_000
LOCKSTEP_S = 0.5
"""How long live and new tables advance together before the exchange: longer than a read takes."""
LOCKSTEP_PAUSE_S = 0.01
HANDOVER_WAIT_S = 15.0
EXPORT_WAIT_MAX_S = 900.0
"""How long a swap waits for exports to end, while new ones are refused. An export takes at most
`ANNALS_EXPORT_TIMEOUT_S`, by default 600 s."""


class RebuildRefused(Exception):
    """The rebuild cannot continue; the live tables are unchanged. The message says why.

    `summary` is the message without anything from a row.
    """

    def __init__(self, message: str, *, summary: str | None = None) -> None:
        super().__init__(message)
        self.summary = summary or message


@dataclass(frozen=True)
class Exchange:
    """A projection's live tables, and the tables that replace them."""

    live: Projection
    other: Projection
    """The same projection under the name by which the other tables' checkpoint is kept."""
    schema: str
    """The schema of the other tables."""
    version: str
    definition: Definition


def swap(connection: Connection, exchanges: list[Exchange]) -> None:
    """Swap the live tables of projections with others. Raises `RebuildRefused`."""
    with ExitStack() as stack:
        # Exports first: the engine keeps working until it is asked to hand over.
        for exchange in exchanges:
            stack.enter_context(_exports_locked_out(connection, exchange.live.name))
        for exchange in exchanges:
            stack.enter_context(_handed_over(connection, exchange.live.name))
        followers = [
            follower
            for exchange in exchanges
            for follower in (
                Follower(connection, exchange.live, READ_SCHEMA),
                Follower(connection, exchange.other, exchange.schema),
            )
        ]
        for follower in followers:
            align_partitions(connection, follower)
        _align_followers(connection, followers)
        until = time.monotonic() + LOCKSTEP_S
        while time.monotonic() < until:
            page = read_after(connection, followers[0].position, CATCH_UP_EVENTS)
            if page.upto > followers[0].position:
                apply_page(connection, followers, page, parks_rejected_rows=False)
            elif not page.more:
                time.sleep(LOCKSTEP_PAUSE_S)
        for exchange in exchanges:
            _exchange(connection, exchange)


def _exchange(connection: Connection, exchange: Exchange) -> None:
    def act() -> None:
        _exchange_records(connection, exchange)
        create_functions(connection, [exchange.definition])

    try:
        exchange_tables(connection, act)
    except TablesInUse:
        raise RebuildRefused("readers kept the tables locked for too long; try again.") from None


def _exchange_records(connection: Connection, exchange: Exchange) -> None:
    """Exchange tables, checkpoints, ledgers and parked entities."""
    live, other, schema = exchange.live, exchange.other.name, exchange.schema
    aside, old = f"{schema}_aside", previous_schema(live.name)
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(aside)))
    for table in _own_tables(live):
        _move(connection, READ_SCHEMA, table, aside)
    for table in _own_tables(live):
        _move(connection, schema, table, READ_SCHEMA)
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(old)))
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
    connection.execute(
        sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(aside), sql.Identifier(old))
    )
    previous = previous_name(live.name)
    for statement in (
        "UPDATE projection_coverage SET projection = %s WHERE projection = %s",
        "UPDATE projection_parked SET projection = %s WHERE projection = %s",
    ):
        table = statement.split()[1]
        if other != previous:
            connection.execute(f"DELETE FROM {table} WHERE projection = %s".encode(), (previous,))
        connection.execute(statement.encode(), (f"{previous}:aside", live.name))
        connection.execute(statement.encode(), (live.name, other))
        connection.execute(statement.encode(), (previous, f"{previous}:aside"))
    _exchange_checkpoints(connection, live.name, other, previous, exchange.version)
    connection.execute(f"NOTIFY {PROJECTED}")


def _exchange_checkpoints(
    connection: Connection, live: str, other: str, previous: str, new_version: str
) -> None:
    row = connection.execute(
        "SELECT version, position FROM projections WHERE name = %s", (live,)
    ).fetchone()
    assert row is not None
    connection.execute("DELETE FROM projections WHERE name = ANY(%s)", ([other, previous],))
    connection.execute(
        """INSERT INTO projections (name, version, wanted_version, position)
           VALUES (%s, %s, %s, %s)""",
        (previous, row[0], row[0], row[1]),
    )
    connection.execute(
        "UPDATE projections SET version = %s, epoch = epoch + 1, state = 'live' WHERE name = %s",
        (new_version, live),
    )


def _move(connection: Connection, source: str, table: str, target: str) -> None:
    connection.execute(
        sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
            sql.Identifier(source, table), sql.Identifier(target)
        )
    )


def _own_tables(projection: Projection) -> list[str]:
    counts = [table.counts.table for table in projection.tables if table.counts]
    return [table.name for table in projection.tables] + counts


def _align_followers(connection: Connection, followers: list[Follower]) -> None:
    """Bring the followers to one position."""
    for follower in followers:
        goal = max(each.position for each in followers)
        catch_up_to(connection, follower, goal)


def catch_up_to(connection: Connection, follower: Follower, position: int) -> None:
    """Apply the log up to a position. Raises the database's error if it rejects a row."""
    while follower.position < position:
        page = read_after(connection, follower.position, CATCH_UP_EVENTS, upto=position)
        apply_page(connection, [follower], page, parks_rejected_rows=False)


@contextmanager
def _exports_locked_out(connection: Connection, name: str) -> Iterator[None]:
    """Wait for exports of the projection's tables to end, and keep others from starting."""
    late = f"exports of {name} did not end within {EXPORT_WAIT_MAX_S:.0f} s; try again."
    with _locked(connection, EXPORT_LOCK, name, EXPORT_WAIT_MAX_S, late):
        yield


@contextmanager
def _handed_over(connection: Connection, name: str) -> Iterator[None]:
    """Take the projection over from the engine for the duration of the block."""
    connection.execute("UPDATE projections SET state = 'handover' WHERE name = %s", (name,))
    try:
        connection.execute(f"NOTIFY {APPENDED}")
        late = f"the engine did not hand {name} over within {HANDOVER_WAIT_S:.0f} s."
        with _locked(connection, PROJECTION_LOCK, name, HANDOVER_WAIT_S, late):
            yield
    finally:
        connection.execute("UPDATE projections SET state = 'live' WHERE name = %s", (name,))
        connection.execute(f"NOTIFY {APPENDED}")


@contextmanager
def _locked(
    connection: Connection, lock: int, name: str, timeout_s: float, late: str
) -> Iterator[None]:
    """Hold one of the projection's locks. Raises `RebuildRefused` with the message `late`."""
    connection.execute(f"SET lock_timeout = {int(timeout_s * 1000)}")
    try:
        connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (lock, name))
    except psycopg.errors.LockNotAvailable:
        raise RebuildRefused(late) from None
    finally:
        connection.execute("SET lock_timeout = 0")
    try:
        yield
    finally:
        connection.execute(UNLOCK, (lock, name))


def shadow_schema(name: str) -> str:
    """The schema in which a projection is rebuilt."""
    return f"read_shadow_{name}"


def previous_schema(name: str) -> str:
    """The schema that keeps the tables from before the last swap."""
    return f"read_previous_{name}"


def previous_name(name: str) -> str:
    """The name under which the checkpoint of those tables is kept."""
    return f"{name}:previous"
