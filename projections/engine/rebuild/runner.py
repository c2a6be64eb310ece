"""Rebuild a projection beside the live one, compare, and swap it in; keep the old for rollback.

While the new tables are built nobody is disturbed: the engine goes on with the live ones. For the
swap the engine hands the projection over. For a moment both sets of tables are then advanced in
the same transactions, so that a reader sees the same position whichever it gets; then names are
exchanged in one transaction. A crash at any step leaves the live tables as they are.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psycopg

from eventlog.connections import Connection, follow_connection
from eventlog.locks import REBUILD_LOCK
from eventlog.reading import read_after, readable_position
from eventlog.reading.counts import count_events
from eventlog.reading.part import Part
from projections.engine.install import READ_SCHEMA, Definition
from projections.engine.live.follower import Follower
from projections.engine.rebuild.build import PARTITION_EVENTS, build_part, throttled
from projections.engine.rebuild.progress import Cancelled, RebuildProgress, Say, note, request
from projections.engine.rebuild.shadow import Shadow
from projections.engine.rebuild.swap import (
    CATCH_UP_EVENTS,
    Exchange,
    RebuildRefused,
    apply_page,
    previous_name,
    previous_schema,
    swap,
)
from projections.engine.registry import PROJECTIONS, version

EVENTS_PER_S_DEFAULT = 40_000
"""What a plan assumes where no rebuild was measured yet."""
PART_EVENTS_MIN = 20_000
"""Fewer events than this are not worth a process."""
SWAPPED_IN = "rebuilt and swapped in; the tables from before are kept"

MEASURED_RATE = """
SELECT coalesce((
    SELECT total / greatest(extract(epoch FROM ended_at - started_at), 0.001)
      FROM projection_rebuilds
     WHERE projection = %s AND state = 'done' AND total > 10000
     ORDER BY id DESC LIMIT 1), %s)::float
"""


@dataclass(frozen=True)
class RebuildPlan:
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


def plan(url: str, name: str, definition: str) -> RebuildPlan:
    """How many events there are to read, and how long it will take by past experience."""
    with follow_connection(url, application_name="annals-rebuild") as connection:
        projection = PROJECTIONS[name]
        events = count_events(connection)
        rate = _one(connection, MEASURED_RATE, name, EVENTS_PER_S_DEFAULT)
        size = sum(
            _one(connection, "SELECT pg_total_relation_size(%s)", f"{READ_SCHEMA}.{table.name}")
            for table in projection.tables
        )
        live = _one(connection, "SELECT version FROM projections WHERE name = %s", name)
    return RebuildPlan(name, events, events / rate, size, live, version(name, definition))


class Rebuild:
    """One rebuild of one or more projections, in one pass over the log. `run` does all of it."""

    def __init__(
        self,
        url: str,
        definitions: Mapping[str, str],
        *,
        rebuild_ids: Mapping[str, int] | None = None,
        throttle_events_per_s: float | None = None,
        workers: int | None = None,
        say: Say = lambda step, done, total: None,
    ) -> None:
        self._url = url
        self._definitions = dict(sorted(definitions.items()))
        self._shadows = [Shadow(*each) for each in self._definitions.items()]
        self._ids = dict(rebuild_ids or {})
        self._throttle = throttle_events_per_s
        self._workers = workers or os.cpu_count() or 1
        self._say = say

    def run(self) -> None:
        """Build, catch up, compare, swap. Raises `RebuildRefused`, `Cancelled`, `psycopg.Error`."""
        with (
            follow_connection(self._url, application_name="annals-rebuild") as connection,
            ExitStack() as stack,
        ):
            for shadow in self._shadows:
                stack.enter_context(_alone(connection, shadow.name, self._ids.get(shadow.name)))
            progress = self._begin(connection)
            try:
                self._build(connection, progress)
                self._catch_up(connection, progress)
                self._compare(connection, progress)
                self._swap(connection, progress)
                progress.end("done", summary=SWAPPED_IN)
            except Cancelled:
                self._drop(connection)
                progress.end("cancelled")
                raise
            except (RebuildRefused, psycopg.Error) as error:
                if not connection.closed:
                    progress.end("failed", str(error), summary=summary_of(error))
                raise

    def _begin(self, connection: Connection) -> RebuildProgress:
        for shadow in self._shadows:
            if shadow.name not in self._ids:
                self._ids[shadow.name] = request(connection, shadow.name, shadow.version)
        progress = RebuildProgress(connection, self._ids, self._say)
        progress.begin(count_events(connection))
        return progress

    def _build(self, connection: Connection, progress: RebuildProgress) -> None:
        for shadow in self._shadows:
            shadow.prepare(connection)
        upto = readable_position(connection)
        total = count_events(connection, upto=upto)
        spawn = multiprocessing.get_context("spawn")
        folds = self._folds(upto, total)
        self._in_parallel(_fold, folds, progress, partial(ProcessPoolExecutor, mp_context=spawn))
        progress.step("indexing")
        finishes = [(self._url, name, self._definitions[name], upto) for name in self._definitions]
        # Here PostgreSQL works, and threads are enough to wait for it.
        self._in_parallel(_finish, finishes, progress, ThreadPoolExecutor)

    def _folds(self, upto: int, total: int) -> list[_Fold]:
        parts = max(min(self._workers, 1 + total // PART_EVENTS_MIN), -(-total // PARTITION_EVENTS))
        share = self._throttle / min(self._workers, parts) if self._throttle else None
        schemas = {shadow.name: shadow.schema for shadow in self._shadows}
        ids = list(self._ids.values())
        return [_Fold(self._url, schemas, ids, Part(upto, n, parts), share) for n in range(parts)]

    def _in_parallel(
        self,
        work: Callable[[Any], None],
        items: list[Any],
        progress: RebuildProgress,
        executor: Callable[[int], Executor],
    ) -> None:
        """Do the work on each item, on as many at a time as there are workers."""
        workers = min(self._workers, len(items))
        if workers == 1:
            for item in items:
                work(item)
            return
        with executor(workers) as pool:
            futures: list[Future[None]] = [pool.submit(work, item) for item in items]
            try:
                for future in as_completed(futures):
                    future.result()
                    progress.note()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _catch_up(self, connection: Connection, progress: RebuildProgress) -> None:
        progress.step("catching up")
        followers = [Follower(connection, each.projection, each.schema) for each in self._shadows]
        while True:
            position = followers[0].position
            page = read_after(connection, position, CATCH_UP_EVENTS)
            if page.upto > position:
                apply_page(connection, followers, page)
                progress.note(len(page.events), page.upto)
            if not page.more:
                return

    def _compare(self, connection: Connection, progress: RebuildProgress) -> None:
        progress.step("comparing")
        for shadow in self._shadows:
            shadow.compare(connection, self._url)

    def _swap(self, connection: Connection, progress: RebuildProgress) -> None:
        progress.step("swapping")
        swap(connection, [shadow.exchange for shadow in self._shadows])

    def _drop(self, connection: Connection) -> None:
        for shadow in self._shadows:
            shadow.drop(connection)


@dataclass(frozen=True)
class _Fold:
    """What a process needs to fold one partition."""

    url: str
    schemas: dict[str, str]
    rebuild_ids: list[int]
    part: Part
    throttle_events_per_s: float | None


def _fold(job: _Fold) -> None:
    with psycopg.connect(job.url, autocommit=True) as notes:

        def progress(events: int) -> None:
            note(notes, job.rebuild_ids, events)

        progress(0)
        build_part(
            job.url,
            [PROJECTIONS[name] for name in job.schemas],
            job.schemas,
            job.part,
            throttled(progress, job.throttle_events_per_s),
        )


def _finish(job: tuple[str, str, str, int]) -> None:
    url, name, definition, upto = job
    with follow_connection(url, application_name="annals-rebuild") as connection:
        Shadow(name, definition).finish(connection, upto)


def rollback(url: str, name: str, definition: str, *, job_id: int | None = None) -> None:
    """Swap back the tables from before the last swap, caught up. Raises `RebuildRefused`."""
    live = PROJECTIONS[name]
    previous = replace(live, name=previous_name(name))
    with follow_connection(url, application_name="annals-rollback") as connection:
        kept = _one(connection, "SELECT version FROM projections WHERE name = %s", previous.name)
        if kept is None:
            raise RebuildRefused(f"there is nothing from before to go back to for {name}.")
        with _alone(connection, name, job_id):
            exchange = Exchange(
                live, previous, previous_schema(name), kept, Definition.parse(definition)
            )
            swap(connection, [exchange])


def summary_of(error: RebuildRefused | psycopg.Error) -> str:
    """Why it failed, without what the database may have quoted of a row."""
    if isinstance(error, RebuildRefused):
        return error.summary
    return f"the database refused: {type(error).__name__}"


@contextmanager
def _alone(connection: Connection, name: str, own_id: int | None) -> Iterator[None]:
    """Nobody else rebuilds this projection. Raises `RebuildRefused` where somebody does.

    own_id: of the job that this is, where it was written down before.
    """
    if not _one(connection, "SELECT pg_try_advisory_lock(%s, hashtext(%s))", REBUILD_LOCK, name):
        raise RebuildRefused(f"{name} is being rebuilt already.")
    # What a rebuild that died left behind: its end was never written.
    connection.execute(
        """UPDATE projection_rebuilds SET state = 'failed', message = 'its process died',
                  ended_at = clock_timestamp()
            WHERE projection = %s AND ended_at IS NULL AND state <> 'requested' AND id <> %s""",
        (name, own_id or 0),
    )
    connection.execute(
        "UPDATE projections SET state = 'live' WHERE name = %s AND state = 'handover'", (name,)
    )
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", (REBUILD_LOCK, name))


def _one(connection: Connection, statement: str, *parameters: object) -> Any:
    row = connection.execute(statement.encode(), parameters).fetchone()
    return row[0] if row else None
