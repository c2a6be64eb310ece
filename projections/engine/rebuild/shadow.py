"""The new tables of one projection, from creation to the swap."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from psycopg import sql

from eventlog.connections import Connection, follow_connection
from projections.engine.install import (
    READ_SCHEMA,
    Definition,
    create_indexes,
    create_tables,
    delete_state,
    drop_schema,
    guard_tables,
)
from projections.engine.live.follower import (
    TABLE_ERRORS,
    CannotApply,
    Follower,
    MadeByOtherCode,
    describe_problem,
)
from projections.engine.live.partitions import follow_unaligned, load_partition_positions
from projections.engine.names import shadow_name, shadow_schema
from projections.engine.rebuild.compare import (
    Checksum,
    Difference,
    checksum,
    compared_tables,
    number_of,
    row_differences,
)
from projections.engine.rebuild.refusal import REPLACE_HINT, RebuildRefused
from projections.engine.rebuild.sessions import end_earlier_sessions, hold_shadow
from projections.engine.rebuild.swap import (
    Exchange,
    catch_up_to,
)
from projections.engine.registry import PROJECTIONS, version
from projections.engine.rows.copying import fill_counts

COMPARE_WAIT_S = 60.0
COMPARE_PAUSE_S = 0.1
INDEX_MEMORY = "256MB"

LIVE_STATE = "SELECT position, problem FROM projections WHERE name = %s"
LIVE_POSITION = "SELECT position FROM projections WHERE name = %s"


class Shadow:
    """A projection that is being rebuilt."""

    def __init__(self, name: str, definition: str) -> None:
        self.name = name
        self.live = PROJECTIONS[name]
        self.projection = replace(self.live, name=shadow_name(name))
        self.schema = shadow_schema(name)
        self.version = version(name, definition)
        self._definition = Definition.parse(definition)

    def exchange(self, *, replaces: bool = False) -> Exchange:
        """The exchange that the swap performs."""
        return Exchange(
            self.live, self.projection, self.schema, self.version, self._definition, replaces
        )

    def prepare(self, connection: Connection) -> None:
        """Create empty tables in their own schema, after dropping those of an earlier attempt.

        Processes of an earlier attempt that still write to those are disconnected. Raises
        `RebuildRefused` if they do not end.
        """
        end_earlier_sessions(connection, self.name)
        self.drop(connection)
        with connection.transaction():
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.schema)))
            create_tables(connection, self.schema, self._definition)

    def finish(self, connection: Connection, upto: int) -> None:
        """Count, index and guard the rows that were copied in, and record their position."""
        hold_shadow(connection, self.name)
        with connection.transaction():
            for table in self.live.tables:
                for counts in table.counts:
                    fill_counts(connection, self.schema, table, counts)
            connection.execute(f"SET LOCAL maintenance_work_mem = '{INDEX_MEMORY}'".encode())
            create_indexes(connection, self.schema, self._definition)
            guard_tables(connection, self.schema)
            connection.execute(
                """INSERT INTO projections (name, version, wanted_version, position)
                   VALUES (%s, %s, %s, %s)""",
                (self.projection.name, self.version, self.version, upto),
            )
        for table in self.live.tables:
            name = sql.Identifier(self.schema, table.name)
            connection.execute(sql.SQL("ANALYZE {}").format(name))

    def compare(self, connection: Connection, url: str) -> None:
        """Require the same rows as the live ones, if both were made by the same code.

        Raises `RebuildRefused`, naming the first row that differs, or because the live tables
        cannot be read.
        """
        try:
            differences = self.differences(connection, url)
        except MadeByOtherCode:
            return
        except CannotApply as problem:
            raise RebuildRefused(f"{problem}; {REPLACE_HINT}") from None
        if differences:
            first = differences[0]
            summary = f"{number_of(differences)} though the code is the same"
            outlook = f"the rebuilt rows stay in {self.schema} to look at; {REPLACE_HINT}"
            raise RebuildRefused(
                f"{summary}; the first is {first.table} {first.key}: live {first.first},"
                f" rebuilt {first.second}. Then {outlook}",
                summary=f"{summary}; {outlook}",
            )

    def differences(self, connection: Connection, url: str) -> list[Difference]:
        """The first rows that differ from the live ones at the same position.

        Raises `CannotApply` if the live tables cannot be read or were made by other code, and
        `RebuildRefused` if the live projection does not reach the position of this one.
        """
        try:
            Follower.open(connection, self.live, READ_SCHEMA, self.version)
            return self._differences(connection, url)
        except TABLE_ERRORS as error:
            raise CannotApply(self.name, describe_problem(error)) from error

    def drop(self, connection: Connection) -> None:
        """Remove what an unfinished rebuild left."""
        with connection.transaction():
            drop_schema(connection, self.schema)
            delete_state(connection, self.projection.name)

    def _differences(self, connection: Connection, url: str) -> list[Difference]:
        shadow = Follower(connection, self.projection, self.schema)
        with follow_connection(url, application_name="annals-compare") as other:
            self._wait_for_live(connection, shadow.position)
            with other.transaction():
                other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                row = other.execute(LIVE_POSITION, (self.name,)).fetchone()
                assert row is not None
                catch_up_to(connection, shadow, row[0])
                follow_unaligned(connection, shadow, load_partition_positions(other, self.name))
                with ThreadPoolExecutor(1) as pool:
                    live = pool.submit(self._checksums, other, READ_SCHEMA)
                    new = self._checksums(connection, self.schema)
                    if live.result() == new:
                        return []
                return self._name_differences(other)

    def _name_differences(self, connection: Connection) -> list[Difference]:
        # The snapshot of the live rows is older than the catch-up of the new ones, so this may also
        # name rows that events changed in between. They are few, and at least one row does differ.
        return [
            difference
            for table in compared_tables(self.live)
            for difference in row_differences(connection, READ_SCHEMA, self.schema, table)
        ] or [Difference(self.live.tables[0].name, "unknown", None, None)]

    def _checksums(self, connection: Connection, schema: str) -> list[Checksum]:
        return [checksum(connection, schema, table) for table in compared_tables(self.live)]

    def _wait_for_live(self, connection: Connection, position: int) -> None:
        until = time.monotonic() + COMPARE_WAIT_S
        while True:
            row = connection.execute(LIVE_STATE, (self.name,)).fetchone()
            if row is None or row[0] >= position:
                return
            if row[1]:
                raise CannotApply(self.name, row[1])
            if time.monotonic() > until:
                raise RebuildRefused(
                    f"the live {self.name} does not move; start the projector, or see"
                    " ./annals projections."
                )
            time.sleep(COMPARE_PAUSE_S)
