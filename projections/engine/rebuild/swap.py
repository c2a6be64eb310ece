"""Exchange a projection's live tables for others, while readers read and writers write.

The engine hands the projection over. For a moment both sets of tables are advanced in the same
transactions, so that a reader sees the same position whichever it gets; then names are exchanged
in one transaction, and the old tables kept for rollback.
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
from eventlog.locks import EXPORT_LOCK, LEASE_LOCK
from eventlog.reading import Page, read_after
from projections.changes import Projection
from projections.engine.install import READ_SCHEMA, Definition, create_functions
from projections.engine.live.follower import Follower, write_all
from projections.engine.live.partitions import align_partitions

CATCH_UP_EVENTS = 2_000
LOCKSTEP_S = 0.5
"""How long live and new tables are advanced together before the swap: longer than a read takes."""
HANDOVER_WAIT_S = 15.0
EXPORT_WAIT_MAX_S = 900.0
"""How long a swap waits for exports to end, while new ones are refused. An export takes at most
`ANNALS_EXPORT_TIMEOUT_S`, by default 600 s."""
SWAP_LOCK_WAIT_MS = 500
"""How long a swap waits for readers of the tables, who wait behind it, before it steps back."""
SWAP_ATTEMPTS_MAX = 40
SWAP_PAUSE_S = 0.1


class RebuildRefused(Exception):
    """The rebuild cannot go on; the live tables are as they were. Says why in one sentence.

    `summary` says the same without telling of any row.
    """

    def __init__(self, message: str, *, summary: str | None = None) -> None:
        super().__init__(message)
        self.summary = summary or message


@dataclass(frozen=True)
class Exchange:
    """Which tables take the place of which."""

    live: Projection
    other: Projection
    """The same projection by the name under which the other tables' checkpoint is kept."""
    schema: str
    """Where the other tables are."""
    version: str
    definition: Definition


def swap(connection: Connection, exchanges: list[Exchange]) -> None:
    """Exchange the live tables of projections for others. Raises `RebuildRefused`."""
    with ExitStack() as stack:
        # Before the engine is asked to let go: it goes on while exports are waited for.
        for exchange in exchanges:
            stack.enter_context(_without_exports(connection, exchange.live.name))
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
        _level(connection, followers)
        until = time.monotonic() + LOCKSTEP_S
        while time.monotonic() < until:
            page = read_after(connection, followers[0].position, CATCH_UP_EVENTS)
            if page.upto > followers[0].position:
                apply_page(connection, followers, page)
            elif not page.more:
                time.sleep(SWAP_PAUSE_S / 10)
        for exchange in exchanges:
            _exchange_patiently(connection, exchange)


def _exchange_patiently(connection: Connection, exchange: Exchange) -> None:
    for _ in range(SWAP_ATTEMPTS_MAX):
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = {SWAP_LOCK_WAIT_MS}")
                _exchange(connection, exchange)
                create_functions(connection, exchange.definition)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(SWAP_PAUSE_S)
    raise RebuildRefused("readers did not leave the tables alone long enough; try again.")


def _exchange(connection: Connection, exchange: Exchange) -> None:
    """In one transaction: tables, checkpoints, ledger and parked entities change places."""
    live, shadow, schema = exchange.live, exchange.other.name, exchange.schema
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
    kept = previous_name(live.name)
    for statement in (
        "UPDATE projection_coverage SET projection = %s WHERE projection = %s",
        "UPDATE projection_parked SET projection = %s WHERE projection = %s",
    ):
        table = statement.split()[1]
        if shadow != kept:
            connection.execute(f"DELETE FROM {table} WHERE projection = %s".encode(), (kept,))
        connection.execute(statement.encode(), (f"{kept}:aside", live.name))
        connection.execute(statement.encode(), (live.name, shadow))
        connection.execute(statement.encode(), (kept, f"{kept}:aside"))
    _exchange_checkpoints(connection, live.name, shadow, kept, exchange.version)
    connection.execute(f"NOTIFY {PROJECTED}")


def _exchange_checkpoints(
    connection: Connection, live: str, shadow: str, kept: str, new_version: str
) -> None:
    row = connection.execute(
        "SELECT version, position FROM projections WHERE name = %s", (live,)
    ).fetchone()
    assert row is not None
    connection.execute("DELETE FROM projections WHERE name = ANY(%s)", ([shadow, kept],))
    connection.execute(
        """INSERT INTO projections (name, version, wanted_version, position)
           VALUES (%s, %s, %s, %s)""",
        (kept, row[0], row[0], row[1]),
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


def _level(connection: Connection, followers: list[Follower]) -> None:
    """Bring the followers to one position."""
    for follower in followers:
        goal = max(each.position for each in followers)
        while follower.position < goal:
            page = read_after(connection, follower.position, CATCH_UP_EVENTS, upto=goal)
            apply_page(connection, [follower], page)


def apply_page(connection: Connection, followers: list[Follower], page: Page) -> None:
    """One page for followers at one position, in one transaction."""
    work = [(follower, follower.digest(page.events)) for follower in followers]
    write_all(connection, work, page.events, page.upto)


@contextmanager
def _without_exports(connection: Connection, name: str) -> Iterator[None]:
    """Nobody reads the projection's tables for minutes, for as long as the block lasts."""
    late = f"exports of {name} did not end within {EXPORT_WAIT_MAX_S:.0f} s; try again."
    with _holding(connection, EXPORT_LOCK, name, EXPORT_WAIT_MAX_S, late):
        yield


@contextmanager
def _handed_over(connection: Connection, name: str) -> Iterator[None]:
    """The engine has let go of the projection, for as long as the block lasts."""
    connection.execute("UPDATE projections SET state = 'handover' WHERE name = %s", (name,))
    try:
        connection.execute(f"NOTIFY {APPENDED}")
        late = f"the engine did not hand {name} over within {HANDOVER_WAIT_S:.0f} s."
        with _holding(connection, LEASE_LOCK, name, HANDOVER_WAIT_S, late):
            yield
    finally:
        connection.execute("UPDATE projections SET state = 'live' WHERE name = %s", (name,))
        connection.execute(f"NOTIFY {APPENDED}")


@contextmanager
def _holding(
    connection: Connection, lock: int, name: str, patience_s: float, late: str
) -> Iterator[None]:
    """The projection's lock is held for as long as the block lasts. Raises `RebuildRefused`."""
    connection.execute(f"SET lock_timeout = {int(patience_s * 1000)}")
    try:
        connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (lock, name))
    except psycopg.errors.LockNotAvailable:
        raise RebuildRefused(late) from None
    finally:
        connection.execute("SET lock_timeout = 0")
    try:
        yield
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", (lock, name))


def shadow_schema(name: str) -> str:
    """The schema in which a projection is built."""
    return f"read_shadow_{name}"


def previous_schema(name: str) -> str:
    """The schema in which the tables from before the last swap are kept."""
    return f"read_previous_{name}"


def previous_name(name: str) -> str:
    """The name of the checkpoint of those tables."""
    return f"{name}:previous"
