"""Rebuild a projection beside the live one, compare, and swap it in; keep the old for rollback.

While the new tables are built nobody is disturbed: the engine goes on with the live ones. For the
swap the engine hands the projection over. For a moment both sets of tables are then advanced in
the same transactions, so that a reader sees the same position whichever it gets; then names are
exchanged in one transaction. A crash at any step leaves the live tables as they are.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from eventlog.connections import Connection, follow_connection
from eventlog.reading import read_after, readable_position
from projections.engine.bulk import (
    PARTITION_EVENTS,
    Cancelled,
    Part,
    build_part,
    fill_counts,
    shadow_name,
    throttled,
)
from projections.engine.compare import Difference, checksum, differences
from projections.engine.follower import Follower
from projections.engine.install import (
    READ_SCHEMA,
    Definition,
    create_indexes,
    create_tables,
    guard_tables,
)
from projections.engine.registry import PROJECTIONS, version
from projections.engine.swap import (
    CATCH_UP_EVENTS,
    RebuildRefused,
    advance,
    previous_name,
    previous_schema,
    shadow_schema,
    swap,
)

REBUILD_LOCK = 69
"""Class of the advisory locks by which a projection is rebuilt once at a time."""
COMPARE_PAUSE_S = 0.1
EVENTS_PER_S_DEFAULT = 40_000
"""What a plan assumes where no rebuild was measured yet."""
COMPARE_WAIT_S = 60.0
PART_EVENTS_MIN = 20_000
"""Fewer events than this are not worth a process."""

MEASURED_RATE = """
SELECT coalesce((
    SELECT total / greatest(extract(epoch FROM ended_at - started_at), 0.001)
      FROM projection_rebuilds
     WHERE projection = %s AND state = 'done' AND total > 10000
     ORDER BY id DESC LIMIT 1), %s)::float
"""

Say = Callable[[str, int, int], None]
"""Told of each step: its name, events processed, events in all."""


@dataclass(frozen=True)
class Plan:
    """What a rebuild would do."""

    projection: str
    events: int
    seconds: float
    bytes: int
    live_version: str
    new_version: str

    @property
    def code_changed(self) -> bool:
        """Whether rows may come out different from the live ones."""
        return self.live_version != self.new_version


def plan(url: str, name: str, definition: str) -> Plan:
    """How many events there are to read, and how long it will take by past experience."""
    with follow_connection(url, application_name="annals-rebuild") as connection:
        projection = PROJECTIONS[name]
        events = _one(connection, "SELECT count(*) FROM events")
        rate = _one(
            connection,
            MEASURED_RATE,
            name,
            EVENTS_PER_S_DEFAULT,
        )
        size = sum(
            _one(connection, "SELECT pg_total_relation_size(%s)", f"{READ_SCHEMA}.{table.name}")
            for table in projection.tables
        )
        live = _one(connection, "SELECT version FROM projections WHERE name = %s", name)
    return Plan(name, events, events / rate, size, live, version(name, definition))


class Rebuild:
    """One rebuild of one projection. `run` does all of it, in the calling process."""

    def __init__(
        self,
        url: str,
        name: str,
        definition: str,
        *,
        rebuild_id: int | None = None,
        throttle_events_per_s: float | None = None,
        workers: int | None = None,
        say: Say = lambda step, done, total: None,
    ) -> None:
        self._url = url
        self._name = name
        self._projection = PROJECTIONS[name]
        self._shadow = replace(self._projection, name=shadow_name(name))
        self._definition = Definition.parse(definition)
        self._version = version(name, definition)
        self._throttle = throttle_events_per_s
        self._workers = workers or os.cpu_count() or 1
        self._say = say
        self._id = rebuild_id
        self._total = 0

    def run(self) -> None:
        """Build, catch up, compare, swap. Raises `RebuildRefused`, `Cancelled`, `psycopg.Error`."""
        with (
            follow_connection(self._url, application_name="annals-rebuild") as connection,
            _alone(connection, self._name),
        ):
            self._begin(connection)
            try:
                self._build(connection)
                self._catch_up(connection)
                self._compare(connection)
                self._step(connection, "swapping")
                swap(connection, self._projection, self._shadow, schema=self.schema,
                         new_version=self._version, definition=self._definition)  # fmt: skip
                self._end(connection, "done")
            except Cancelled:
                drop_shadow(connection, self._name)
                self._end(connection, "cancelled")
                raise
            except (RebuildRefused, psycopg.Error) as error:
                if not connection.closed:
                    self._end(connection, "failed", str(error))
                raise

    @property
    def schema(self) -> str:
        """Where the new tables are until they are swapped in."""
        return shadow_schema(self._name)

    def _begin(self, connection: Connection) -> None:
        self._total = _one(connection, "SELECT count(*) FROM events")
        if self._id is None:
            self._id = _one(
                connection,
                """INSERT INTO projection_rebuilds (projection, version, state)
                   VALUES (%s, %s, 'building') RETURNING id""",
                self._name,
                self._version,
            )
        connection.execute(
            """UPDATE projection_rebuilds SET total = %s, version = %s, state = 'building',
                      started_at = clock_timestamp()
                WHERE id = %s AND state <> 'cancelling'""",
            (self._total, self._version, self._id),
        )

    def _build(self, connection: Connection) -> None:
        drop_shadow(connection, self._name)
        upto = readable_position(connection)
        with connection.transaction():
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.schema)))
            create_tables(connection, self.schema, self._definition)
        self._fold(connection, upto)
        self._step(connection, "indexing")
        with connection.transaction():
            for table in self._projection.tables:
                if table.counts:
                    fill_counts(connection, self.schema, table, table.counts)
            connection.execute("SET LOCAL maintenance_work_mem = '256MB'")
            create_indexes(connection, self.schema, self._definition)
            guard_tables(connection, self.schema)
            connection.execute(
                """INSERT INTO projections (name, version, wanted_version, position)
                   VALUES (%s, %s, %s, %s)""",
                (self._shadow.name, self._version, self._version, upto),
            )
        for table in self._projection.tables:
            name = sql.Identifier(self.schema, table.name)
            connection.execute(sql.SQL("ANALYZE {}").format(name))

    def _fold(self, connection: Connection, upto: int) -> None:
        parts = max(
            min(self._workers, 1 + self._total // 20_000), -(-self._total // PARTITION_EVENTS)
        )
        jobs = [
            _Job(self._url, self._name, self.schema, self._id or 0, Part(upto, part, parts),
                 self._throttle / min(self._workers, parts) if self._throttle else None)
            for part in range(parts)
        ]  # fmt: skip
        if parts == 1:
            _run_job(jobs[0])
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(self._workers, parts), mp_context=spawn) as pool:
            futures = [pool.submit(_run_job, job) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
                    self._report(connection)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _catch_up(self, connection: Connection) -> None:
        self._step(connection, "catching up")
        follower = Follower(connection, self._shadow, self.schema)
        while True:
            page = read_after(connection, follower.position, CATCH_UP_EVENTS)
            if page.upto > follower.position:
                advance(connection, [follower], page)
                self._note(connection, len(page.events), follower.position)
            if not page.more:
                return

    def _compare(self, connection: Connection) -> None:
        """The same code must give the same rows; other code is meant to give others."""
        live = Follower(connection, self._projection, READ_SCHEMA)
        if live.version != self._version:
            return
        self._step(connection, "comparing")
        found = self._differences(connection)
        if found:
            first = found[0]
            raise RebuildRefused(
                f"{len(found)} rows differ though the code is the same; the first is"
                f" {first.table} {first.key}: live {first.first}, rebuilt {first.second}."
                f" The rebuilt rows stay in {self.schema} to look at."
            )

    def _differences(self, connection: Connection) -> list[Difference]:
        shadow = Follower(connection, self._shadow, self.schema)
        with follow_connection(self._url, application_name="annals-compare") as other:
            _wait_for_live(connection, self._name, shadow.position)
            with other.transaction():
                other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                position = _one(
                    other, "SELECT position FROM projections WHERE name = %s", self._name
                )
                self._bring_to(connection, shadow, position)
                live = [checksum(other, READ_SCHEMA, table) for table in self._projection.tables]
            built = [checksum(connection, self.schema, table) for table in self._projection.tables]
        return [
            difference
            for table, one, two in zip(self._projection.tables, live, built, strict=True)
            if one != two
            for difference in differences(connection, READ_SCHEMA, self.schema, table)
            or [Difference(table.name, "(the rows moved on)", str(one), str(two))]
        ]

    def _bring_to(self, connection: Connection, shadow: Follower, position: int) -> None:
        while shadow.position < position:
            page = read_after(connection, shadow.position, CATCH_UP_EVENTS, upto=position)
            advance(connection, [shadow], page)

    def _step(self, connection: Connection, state: str) -> None:
        self._note(connection, 0, 0, state)

    def _note(
        self, connection: Connection, events: int, position: int, state: str | None = None
    ) -> None:
        now = connection.execute(
            """UPDATE projection_rebuilds
                  SET processed = processed + %s, position = greatest(position, %s),
                      state = CASE state WHEN 'cancelling' THEN state
                                         ELSE coalesce(%s, state) END,
                      updated_at = clock_timestamp()
                WHERE id = %s RETURNING state, processed, total""",
            (events, position, state, self._id),
        ).fetchone()
        if now and now[0] == "cancelling":
            raise Cancelled
        if now:
            self._say(*now)

    def _report(self, connection: Connection) -> None:
        self._note(connection, 0, 0)

    def _end(self, connection: Connection, state: str, message: str = "") -> None:
        connection.execute(
            """UPDATE projection_rebuilds SET state = %s, message = %s,
                      ended_at = clock_timestamp(), updated_at = clock_timestamp()
                WHERE id = %s""",
            (state, message[:2_000], self._id),
        )


@dataclass(frozen=True)
class _Job:
    """What a process needs to fold one partition."""

    url: str
    name: str
    schema: str
    rebuild_id: int
    part: Part
    throttle_events_per_s: float | None


def _run_job(job: _Job) -> None:
    with psycopg.connect(job.url, autocommit=True) as notes:

        def progress(events: int) -> None:
            row = notes.execute(
                """UPDATE projection_rebuilds SET processed = processed + %s,
                          updated_at = clock_timestamp() WHERE id = %s RETURNING state""",
                (events, job.rebuild_id),
            ).fetchone()
            if row and row[0] == "cancelling":
                raise Cancelled

        progress(0)
        build_part(
            job.url,
            [PROJECTIONS[job.name]],
            {job.name: job.schema},
            job.part,
            throttled(progress, job.throttle_events_per_s),
        )


def rollback(url: str, name: str, definition: str) -> None:
    """Swap back the tables from before the last swap, caught up. Raises `RebuildRefused`."""
    projection = PROJECTIONS[name]
    previous = replace(projection, name=previous_name(name))
    with follow_connection(url, application_name="annals-rollback") as connection:
        row = connection.execute(
            "SELECT version FROM projections WHERE name = %s", (previous.name,)
        ).fetchone()
        if row is None:
            raise RebuildRefused(f"there is nothing from before to go back to for {name}.")
        with _alone(connection, name):
            swap(connection, projection, previous, schema=previous_schema(name),
                 new_version=row[0], definition=Definition.parse(definition))  # fmt: skip


def cancel(url: str, name: str) -> bool:
    """Ask a running rebuild to stop; whether there was one."""
    with psycopg.connect(url, autocommit=True) as connection:
        return (
            connection.execute(
                """UPDATE projection_rebuilds SET state = 'cancelling'
                    WHERE projection = %s AND ended_at IS NULL""",
                (name,),
            ).rowcount
            > 0
        )


@contextmanager
def _alone(connection: Connection, name: str) -> Iterator[None]:
    """Nobody else rebuilds this projection. Raises `RebuildRefused` where somebody does."""
    if not _one(connection, "SELECT pg_try_advisory_lock(%s, hashtext(%s))", REBUILD_LOCK, name):
        raise RebuildRefused(f"{name} is being rebuilt already.")
    # What a rebuild that died left behind: its end was never written.
    connection.execute(
        """UPDATE projection_rebuilds SET state = 'failed', message = 'its process died',
                  ended_at = clock_timestamp()
            WHERE projection = %s AND ended_at IS NULL AND state <> 'requested'""",
        (name,),
    )
    connection.execute(
        "UPDATE projections SET state = 'live' WHERE name = %s AND state = 'handover'", (name,)
    )
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", (REBUILD_LOCK, name))


def _wait_for_live(connection: Connection, name: str, position: int) -> None:
    until = time.monotonic() + COMPARE_WAIT_S
    while _one(connection, "SELECT position FROM projections WHERE name = %s", name) < position:
        if time.monotonic() > until:
            raise RebuildRefused(
                f"the live {name} does not move; start the projector, or see ./annals projections."
            )
        time.sleep(COMPARE_PAUSE_S)


def drop_shadow(connection: Connection, name: str) -> None:
    """Remove what an unfinished rebuild left."""
    with connection.transaction():
        connection.execute(
            sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(shadow_schema(name)))
        )
        for table, column in (
            ("projections", "name"),
            ("projection_coverage", "projection"),
            ("projection_parked", "projection"),
        ):
            connection.execute(
                f"DELETE FROM {table} WHERE {column} = %s".encode(), (shadow_name(name),)
            )


def _one(connection: Connection, statement: str, *parameters: object) -> Any:
    row = connection.execute(statement.encode(), parameters).fetchone()
    return row[0] if row else None
