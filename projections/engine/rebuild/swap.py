"""Swap a projection's live tables with others, while readers read and writers write.

The engine hands the projection over. For a moment both sets of tables advance in the same
transactions, so that readers see the same position in either; then they are exchanged in one
transaction, and the old tables are kept for rollback.

Live tables whose rows were made by other code, or that are damaged, do not advance any more: the
new tables catch up with them, and both stand still until the exchange.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from psycopg import sql

from eventlog.connections import Connection
from eventlog.hints import APPENDED, PROJECTED
from eventlog.locks import EXPORT_LOCK, PROJECTION_LOCK
from eventlog.reading import read_after
from projections.changes import Projection
from projections.engine.install import READ_SCHEMA, Definition, create_functions, drop_schema
from projections.engine.live.follower import (
    CannotApply,
    Follower,
    MadeByOtherCode,
    apply_page,
)
from projections.engine.live.partitions import align_partitions, load_partition_positions
from projections.engine.names import previous_name, previous_schema
from projections.engine.rebuild.exchange import TablesInUse, exchange_tables
from projections.engine.rebuild.refusal import REPLACE_HINT, RebuildRefused
from projections.engine.rebuild.sessions import locked

CATCH_UP_EVENTS = 2_000
LOCKSTEP_S = 0.5
"""How long live and new tables advance together, or both stand still, before the exchange: longer
than a read takes."""
LOCKSTEP_PAUSE_S = 0.01
HANDOVER_WAIT_S = 15.0
EXPORT_WAIT_MAX_S = 900.0
"""How long a swap waits for exports to end, while new ones are refused. An export takes at most
`ANNALS_EXPORT_TIMEOUT_S`, by default 600 s."""

SELECT_POSITIONS = "SELECT position FROM projections WHERE name = ANY(%s)"


@dataclass(frozen=True)
class Exchange:
    """A projection's live tables, and the tables that replace them."""

    live: Projection
    other: Projection
    """The same projection under the name by which the other tables' checkpoint is kept."""
    schema: str
    """The schema of the other tables."""
    version: str
    """The version of the running code, by which the rows of the other tables were made."""
    definition: Definition
    replaces: bool = False
    """Whether the live tables are replaced although they may be damaged or missing."""


def swap(connection: Connection, exchanges: list[Exchange]) -> None:
    """Swap the live tables of projections with others. Raises `RebuildRefused`."""
    with ExitStack() as stack:
        # Exports first: the engine keeps working until it is asked to hand over.
        for exchange in exchanges:
            stack.enter_context(_exports_locked_out(connection, exchange.live.name))
        for exchange in exchanges:
            stack.enter_context(_handed_over(connection, exchange.live.name))
        others = [Follower(connection, each.other, each.schema) for each in exchanges]
        live = [_open_live(connection, each) for each in exchanges]
        followers = others + [each for each in live if each is not None]
        for follower in followers:
            align_partitions(connection, follower)
        _align_followers(connection, followers, _checkpoints(connection, exchanges))
        if None in live:
            while _advance(connection, followers):
                pass
            time.sleep(LOCKSTEP_S)
        else:
            _advance_together(connection, followers)
        for exchange in exchanges:
            _exchange(connection, exchange)


def _open_live(connection: Connection, exchange: Exchange) -> Follower | None:
    """A follower of the live tables; None if this code must not apply events to them."""
    if exchange.replaces:
        return None
    try:
        return Follower.open(connection, exchange.live, READ_SCHEMA, exchange.version)
    except MadeByOtherCode:
        return None
    except CannotApply as problem:
        raise RebuildRefused(f"{problem}; {REPLACE_HINT}") from None


def _checkpoints(connection: Connection, exchanges: list[Exchange]) -> list[int]:
    """The position of each projection's live tables, or of their furthest partition."""
    names = [each.live.name for each in exchanges]
    aligned = [row[0] for row in connection.execute(SELECT_POSITIONS, (names,))]
    return aligned + [load_partition_positions(connection, name).highest for name in names]


def _advance_together(connection: Connection, followers: list[Follower]) -> None:
    """Apply what is appended to all followers, in the same transactions, for `LOCKSTEP_S`."""
    until = time.monotonic() + LOCKSTEP_S
    while time.monotonic() < until:
        if not _advance(connection, followers):
            time.sleep(LOCKSTEP_PAUSE_S)


def _advance(connection: Connection, followers: list[Follower]) -> bool:
    """Apply a page of events to followers that stand at one position. False if there was none."""
    position = followers[0].position
    page = read_after(connection, position, CATCH_UP_EVENTS)
    if page.upto > position:
        apply_page(connection, followers, page, parks_rejected_rows=False)
    return page.upto > position


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
    moved = [_move(connection, READ_SCHEMA, table, aside) for table in _own_tables(live)]
    for table in _own_tables(live):
        _move(connection, schema, table, READ_SCHEMA)
    drop_schema(connection, old)
    drop_schema(connection, schema)
    connection.execute(
        sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(aside), sql.Identifier(old))
    )
    previous = previous_name(live.name)
    for statement in (
        "UPDATE projection_coverage SET projection = %s WHERE projection = %s",
        "UPDATE projection_parked SET projection = %s WHERE projection = %s",
        "UPDATE projection_offsets SET projection = %s WHERE projection = %s",
    ):
        table = statement.split()[1]
        if other != previous:
            connection.execute(f"DELETE FROM {table} WHERE projection = %s".encode(), (previous,))
        connection.execute(statement.encode(), (f"{previous}:aside", live.name))
        connection.execute(statement.encode(), (live.name, other))
        connection.execute(statement.encode(), (previous, f"{previous}:aside"))
    _exchange_checkpoints(connection, live.name, other, previous, exchange.version)
    if not all(moved):  # incomplete tables are kept to look at, and cannot be rolled back to
        connection.execute("DELETE FROM projections WHERE name = %s", (previous,))
    connection.execute(f"NOTIFY {PROJECTED}")


def _exchange_checkpoints(
    connection: Connection, live: str, other: str, previous: str, new_version: str
) -> None:
    checkpoint = "SELECT version, position FROM projections WHERE name = %s"
    row = connection.execute(checkpoint, (live,)).fetchone()
    new = connection.execute(checkpoint, (other,)).fetchone()
    assert row is not None
    assert new is not None
    connection.execute("DELETE FROM projections WHERE name = ANY(%s)", ([other, previous],))
    connection.execute(
        """INSERT INTO projections (name, version, wanted_version, position)
           VALUES (%s, %s, %s, %s)""",
        (previous, row[0], row[0], row[1]),
    )
    connection.execute(
        """UPDATE projections SET version = %s, wanted_version = %s, position = %s,
                  epoch = epoch + 1, state = 'live', problem = '' WHERE name = %s""",
        (new_version, new_version, new[1], live),
    )


def _move(connection: Connection, source: str, table: str, target: str) -> bool:
    """Move a table to another schema; False if it does not exist."""
    found = connection.execute("SELECT to_regclass(%s)", (f"{source}.{table}",)).fetchone()
    if not (found and found[0]):
        return False
    connection.execute(
        sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
            sql.Identifier(source, table), sql.Identifier(target)
        )
    )
    return True


def _own_tables(projection: Projection) -> list[str]:
    counts = [each.table for table in projection.tables for each in table.counts]
    return [table.name for table in projection.tables] + counts


def _align_followers(
    connection: Connection, followers: list[Follower], checkpoints: list[int]
) -> None:
    """Bring the followers to one position, which is at least each of the live checkpoints."""
    goal = max(*(each.position for each in followers), *checkpoints)
    for follower in followers:
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
    with locked(connection, EXPORT_LOCK, name, EXPORT_WAIT_MAX_S, late):
        yield


@contextmanager
def _handed_over(connection: Connection, name: str) -> Iterator[None]:
    """Take the projection over from the engine for the duration of the block."""
    connection.execute("UPDATE projections SET state = 'handover' WHERE name = %s", (name,))
    try:
        connection.execute(f"NOTIFY {APPENDED}")
        late = f"the engine did not hand {name} over within {HANDOVER_WAIT_S:.0f} s."
        with locked(connection, PROJECTION_LOCK, name, HANDOVER_WAIT_S, late):
            yield
    finally:
        connection.execute("UPDATE projections SET state = 'live' WHERE name = %s", (name,))
        connection.execute(f"NOTIFY {APPENDED}")
