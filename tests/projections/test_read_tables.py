"""Read tables match the log after random commands in any order and crashes of the projector."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import orjson
from hypothesis import HealthCheck, Phase, given, settings

from commands.entities import EntityCommands
from eventlog.connections import Connection
from eventlog.libpq.batches import BatchStatement
from eventlog.store.log import EventLog
from eventlog.store.mapper import EventMapper, LogEvent, OrjsonTranscoder
from projections.changes import Projection
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from projections.engine.rows.statements import Statement
from tests.support.databases import Urls
from tests.support.duplicate_keys import assert_keys_match_lists
from tests.support.oracle import (
    Row,
    actual_tables,
    assert_claims_match_log,
    assert_tables_match_log,
    recorded_events,
)
from tests.support.random_commands import Project, Step, StepRunner, step_lists
from tests.support.watched_projection import Watched, watched

EXAMPLES_MAX = 30
STEPS_MIN, STEPS_MAX = 60, 120

quick = settings(
    max_examples=EXAMPLES_MAX,
    deadline=None,
    print_blob=True,
    # Shrinking a failure may take a minute; explaining it would take as long again.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Killed(BaseException):
    """Raised where the projector's process is killed."""


def test_read_tables_match_log_after_random_steps(
    urls: Urls, log: EventLog, commands: EntityCommands, database: Connection
) -> None:
    @quick
    @given(step_lists(STEPS_MIN, STEPS_MAX))
    def run_steps(steps: list[Step]) -> None:
        runner = StepRunner.of(log, commands, urls.owner)
        for step in steps:
            if isinstance(step, Project):
                project(urls, step)
            else:
                runner.run(step)
        project(urls, Project(batch_events=1_000))
        workspaces = [scope.workspace_id for scope in runner.scopes]
        assert_tables_match_log(database, workspaces)
        assert_claims_match_log(database, workspaces)
        for event in recorded_events(database, workspaces):
            assert_round_trip(event)

    run_steps()
    assert_tables_match_log(database)
    assert_keys_match_lists(database)
    before = actual_tables(database)
    reset_projections(database)
    assert not any(actual_tables(database).values())
    project(urls, Project(batch_events=777))
    assert actual_tables(database) == before


def project(urls: Urls, step: Project) -> None:
    """Run a new engine until it catches up or is killed as the step says."""
    projections: Iterable[Projection] = PROJECTIONS.values()
    if step.killed_at_event is not None:
        projections = [killed_after(each, step.killed_at_event) for each in projections]
    with suppress(Killed), killed_at_table(step.killed_at_table):
        ProjectionEngine(urls.projector, projections, batch_events=step.batch_events).catch_up()


def killed_after(projection: Projection, events: int) -> Projection:
    """Return the projection, killing its process at the first event after this number."""
    seen = 0

    def watch(_event: Watched) -> None:
        nonlocal seen
        seen += 1
        if seen > events:
            raise Killed

    return watched(projection, watch)


@contextmanager
def killed_at_table(number: int | None) -> Iterator[None]:
    """Kill the process within a batch, after this number of tables was applied."""
    if number is None:
        yield
        return
    applied = 0
    of = Statement.of

    def watch(statement: Statement, *arguments: Any) -> BatchStatement:
        nonlocal applied
        applied += 1
        if applied > number:
            raise Killed
        return of(statement, *arguments)

    with mock.patch.object(Statement, "of", watch):
        yield


def reset_projections(database: Connection) -> None:
    """Empty the read tables and set all projections to the beginning of the log."""
    for name in actual_tables(database):
        database.execute(f"TRUNCATE read.{name}".encode())
    database.execute("UPDATE projections SET position = 0")
    database.execute("TRUNCATE projection_coverage")


def assert_round_trip(row: Row) -> None:
    """Assert that the row becomes an event, and the event the same row."""
    mapper = EventMapper(OrjsonTranscoder())
    stored = LogEvent(
        originator_id=row["stream_id"],
        originator_version=row["stream_version"],
        topic=row["topic"],
        state=orjson.dumps(row["data"]),
        occurred_at=row["occurred_at"],
        account_id=row["account_id"],
        workspace_id=row["workspace_id"],
    )
    again = mapper.to_stored_event(mapper.to_domain_event(stored))
    assert orjson.loads(again.state) == row["data"]
    assert dataclasses.replace(again, state=b"") == dataclasses.replace(
        stored, state=b"", workspace_id=None
    )
