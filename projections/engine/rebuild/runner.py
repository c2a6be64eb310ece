"""Rebuild a projection beside the live one, compare both, and swap; keep the old for rollback.

While the new tables are built, the engine keeps the live ones up to date. For the swap it hands the
projection over; both sets of tables then advance in the same transactions for a moment, so that
readers see the same position in either, and are exchanged in one transaction. A crash at any step
leaves the live tables intact.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import (
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
)
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from eventlog.connections import Connection, follow_connection
from eventlog.reading import read_after, readable_position
from eventlog.reading.counts import count_events
from eventlog.reading.part import Part
from projections.engine.install import Definition
from projections.engine.live.follower import CannotApply, Follower, apply_page
from projections.engine.names import previous_name, previous_schema
from projections.engine.rebuild.build import build_part, throttle
from projections.engine.rebuild.compare import Difference, number_of
from projections.engine.rebuild.plan import fetch_value
from projections.engine.rebuild.progress import (
    BuildKind,
    Cancelled,
    OnStep,
    RebuildProgress,
    add_progress,
    record_request,
)
from projections.engine.rebuild.refusal import RebuildRefused
from projections.engine.rebuild.sessions import end_with_client, fold_processes, rebuild_locked
from projections.engine.rebuild.shadow import Shadow
from projections.engine.rebuild.swap import (
    CATCH_UP_EVENTS,
    Exchange,
    swap,
)
from projections.engine.registry import PROJECTIONS, version

PART_EVENTS_MIN = 20_000
"""Number of events from which a further process is worth its start."""
SWAPPED_IN = "rebuilt and swapped in; the tables from before are kept"
ROWS_EQUAL = "all rows are equal to those of a fresh fold"

# The epoch is one that no follower of the lost checkpoint can have.
INSERT_MISSING = """
INSERT INTO projections (name, version, wanted_version, epoch)
VALUES (%s, 'none', %s, extract(epoch FROM clock_timestamp())::bigint)
    ON CONFLICT (name) DO NOTHING
"""
FAIL_DEAD = """
UPDATE projection_rebuilds SET state = 'failed', message = 'its process died',
       ended_at = clock_timestamp()
 WHERE projection = %s AND ended_at IS NULL AND state <> 'requested' AND id <> %s
   AND kind <> 'retry'
"""


@dataclass(frozen=True)
class CheckedRows:
    """How the live rows of a projection compare with those of a fresh fold."""

    projection: str
    differences: list[Difference]
    problem: str
    """Why the live tables could not be compared; empty if they were."""

    @property
    def fault(self) -> str:
        """What is wrong, without anything from a row; empty if the rows are equal."""
        return self.problem or (number_of(self.differences) if self.differences else "")

    def __str__(self) -> str:
        lines = [f"{self.projection}: {self.fault or ROWS_EQUAL}"]
        lines += [
            f"  {each.table} {each.key}: live {each.first}, fresh fold {each.second}"
            for each in self.differences
        ]
        return "\n".join(lines)


class Rebuild:
    """A rebuild of one or more projections in one pass over the log, performed by `run`."""

    def __init__(
        self,
        url: str,
        definitions: Mapping[str, str],
        *,
        rebuild_ids: Mapping[str, int] | None = None,
        replace_because: str | None = None,
        requested_by: str = "",
        throttle_events_per_s: float | None = None,
        workers: int | None = None,
        on_step: OnStep = lambda step, done, total: None,
    ) -> None:
        """replace_because: why the live tables, which may be damaged or missing, are replaced
        without a comparison; None if the rows of equal code must be equal. rebuild_ids: the ids of
        jobs that were requested before; the others are recorded as requested by `requested_by`."""
        self._url = url
        self._definitions = dict(sorted(definitions.items()))
        self._shadows = [Shadow(*each) for each in self._definitions.items()]
        self._ids = dict(rebuild_ids or {})
        self._throttle = throttle_events_per_s
        self._workers = workers or os.cpu_count() or 1
        self._on_step = on_step
        self._replace_because = replace_because
        self._requested_by = requested_by

    def run(self) -> None:
        """Build, catch up, compare, swap. Raises `RebuildRefused`, `Cancelled`, `psycopg.Error`."""
        with self._recorded("rebuild") as (connection, progress):
            self._build(connection, progress)
            self._catch_up(connection, progress)
            if self._replace_because is None:
                self._compare(connection, progress)
            self._swap(connection, progress)
            progress.end("done", summary=SWAPPED_IN)

    def verify(self) -> list[CheckedRows]:
        """Build, catch up, and compare with the live rows, which stay as they are.

        Raises as `run`.
        """
        with self._recorded("verify") as (connection, progress):
            self._build(connection, progress)
            self._catch_up(connection, progress)
            progress.step("comparing")
            checked = [_check(connection, self._url, shadow) for shadow in self._shadows]
            self._drop(connection)
            faulty = [each for each in checked if each.fault]
            if faulty:
                summary = "; ".join(f"{each.projection}: {each.fault}" for each in faulty)
                progress.end("failed", "\n".join(map(str, faulty)), summary=summary)
            else:
                progress.end("done", summary=ROWS_EQUAL)
            return checked

    @contextmanager
    def _recorded(self, kind: BuildKind) -> Iterator[tuple[Connection, RebuildProgress]]:
        """Lock the projections, and record the progress and how it ended if by an error."""
        with (
            follow_connection(self._url, application_name="annals-rebuild") as connection,
            ExitStack() as stack,
        ):
            end_with_client(connection)
            for shadow in self._shadows:
                stack.enter_context(_locked(connection, shadow.name, self._ids.get(shadow.name)))
            progress = self._begin(connection, kind)
            try:
                yield connection, progress
            except Cancelled:
                self._drop(connection)
                progress.end("cancelled")
                raise
            except (RebuildRefused, psycopg.Error) as error:
                if not connection.closed:
                    progress.end("failed", str(error), summary=summary_of(error))
                raise

    def _begin(self, connection: Connection, kind: BuildKind) -> RebuildProgress:
        for shadow in self._shadows:
            if self._replace_because is not None:
                # So that a projection without a checkpoint can be rebuilt, too.
                connection.execute(INSERT_MISSING, (shadow.name, shadow.version))
            if shadow.name not in self._ids:
                self._ids[shadow.name] = record_request(
                    connection,
                    shadow.name,
                    kind,
                    shadow.version,
                    requested_by=self._requested_by,
                    replace_because=self._replace_because,
                )
        progress = RebuildProgress(connection, self._ids.values(), self._on_step)
        progress.begin(count_events(connection))
        return progress

    def _build(self, connection: Connection, progress: RebuildProgress) -> None:
        for shadow in self._shadows:
            shadow.prepare(connection)
        upto = readable_position(connection)
        total = count_events(connection, upto=upto)
        parts = self._plan_parts(upto, total)
        self._in_parallel(_build_part, parts, progress, fold_processes)
        progress.step("indexing")
        finishes = [(self._url, name, self._definitions[name], upto) for name in self._definitions]
        # PostgreSQL does the work here, so threads that wait for it are enough.
        self._in_parallel(_finish, finishes, progress, ThreadPoolExecutor)

    def _plan_parts(self, upto: int, total: int) -> list[_PartBuild]:
        parts = min(self._workers, 1 + total // PART_EVENTS_MIN)
        rate = self._throttle / parts if self._throttle else None
        schemas = {shadow.name: shadow.schema for shadow in self._shadows}
        ids = list(self._ids.values())
        return [
            _PartBuild(self._url, schemas, ids, Part(upto, n, parts), rate) for n in range(parts)
        ]

    def _in_parallel(
        self,
        work: Callable[[Any], None],
        items: list[Any],
        progress: RebuildProgress,
        executor: Callable[[int], Executor],
    ) -> None:
        """Call `work` with each item, on at most `workers` items at a time."""
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
                    progress.add()
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
                apply_page(connection, followers, page, parks_rejected_rows=False)
                progress.add(len(page.events), page.upto)
            if not page.more:
                return

    def _compare(self, connection: Connection, progress: RebuildProgress) -> None:
        progress.step("comparing")
        for shadow in self._shadows:
            shadow.compare(connection, self._url)

    def _swap(self, connection: Connection, progress: RebuildProgress) -> None:
        progress.step("swapping")
        replaces = self._replace_because is not None
        swap(connection, [shadow.exchange(replaces=replaces) for shadow in self._shadows])

    def _drop(self, connection: Connection) -> None:
        for shadow in self._shadows:
            shadow.drop(connection)


@dataclass(frozen=True)
class _PartBuild:
    """What a process needs to build one part."""

    url: str
    schemas: dict[str, str]
    rebuild_ids: list[int]
    part: Part
    throttle_events_per_s: float | None


def _build_part(job: _PartBuild) -> None:
    with psycopg.connect(job.url, autocommit=True) as connection:

        def on_progress(events: int) -> None:
            if not add_progress(connection, job.rebuild_ids, events):
                raise Cancelled  # the rebuild has ended, and another one may have begun

        build_part(
            job.url,
            [PROJECTIONS[name] for name in job.schemas],
            job.schemas,
            job.part,
            throttle(on_progress, job.throttle_events_per_s),
        )


def _finish(job: tuple[str, str, str, int]) -> None:
    url, name, definition, upto = job
    with follow_connection(url, application_name="annals-rebuild") as connection:
        end_with_client(connection)
        Shadow(name, definition).finish(connection, upto)


def rollback(url: str, name: str, definition: str, *, job_id: int | None = None) -> None:
    """Swap the tables from before the last swap back in, caught up.

    Raises `RebuildRefused` if there are none, or if other code than the running one made them:
    only the code that made them may bring them up to date.
    """
    live = PROJECTIONS[name]
    previous = replace(live, name=previous_name(name))
    with follow_connection(url, application_name="annals-rollback") as connection:
        end_with_client(connection)
        made_by = fetch_value(
            connection, "SELECT version FROM projections WHERE name = %s", previous.name
        )
        if made_by is None:
            raise RebuildRefused(f"no previous tables of {name} are kept.")
        if made_by != version(name, definition):
            raise RebuildRefused(
                f"the previous tables of {name} were made by version {made_by} of its code: roll"
                " back with that code, which also brings them up to date."
            )
        with _locked(connection, name, job_id):
            exchange = Exchange(
                live, previous, previous_schema(name), made_by, Definition.parse(definition)
            )
            swap(connection, [exchange])


def summary_of(error: RebuildRefused | psycopg.Error) -> str:
    """Why a rebuild failed, without anything that the database may have quoted from a row."""
    if isinstance(error, RebuildRefused):
        return error.summary
    return f"the database refused: {type(error).__name__}"


@contextmanager
def _locked(connection: Connection, name: str, own_id: int | None) -> Iterator[None]:
    """Keep other processes from rebuilding this projection during the block.

    own_id: the id of this job, if it was requested before. Raises `RebuildRefused` if another
    process is rebuilding the projection.
    """
    with rebuild_locked(connection, name):
        # A rebuild whose process died has not recorded its end.
        connection.execute(FAIL_DEAD, (name, own_id or 0))
        connection.execute(
            "UPDATE projections SET state = 'live' WHERE name = %s AND state = 'handover'", (name,)
        )
        yield


def _check(connection: Connection, url: str, shadow: Shadow) -> CheckedRows:
    try:
        return CheckedRows(shadow.name, shadow.differences(connection, url), "")
    except CannotApply as problem:
        return CheckedRows(shadow.name, [], problem.problem)
