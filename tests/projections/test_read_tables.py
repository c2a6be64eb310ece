"""Whatever is done, in whatever order, and whatever befalls the projector: the read tables are what
the log says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import orjson
from hypothesis import HealthCheck, Phase, given, settings

from commands.entities import EntityCommands
from eventlog.connections import Connection
from eventlog.store.log import EventLog
from eventlog.store.mapper import EventMapper, LogEvent, OrjsonTranscoder
from projections.changes import Projection
from projections.engine.live.runner import ProjectionEngine
from projections.engine.live.statements import Statement
from projections.engine.registry import PROJECTIONS
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

EXAMPLES_MAX = 30
STEPS_MIN, STEPS_MAX = 60, 120

quick = settings(
    max_examples=EXAMPLES_MAX,
    deadline=None,
    print_blob=True,
    # Shrinking a failure may take a minute; explaining it as long again.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Killed(BaseException):
    """The projector's process ends here."""


def test_read_tables_are_what_the_log_says(
    urls: Urls, log: EventLog, commands: EntityCommands, database: Connection
) -> None:
    @quick
    @given(step_lists(STEPS_MIN, STEPS_MAX))
    def live(life: list[Step]) -> None:
        player = StepRunner.of(log, commands)
        for step in life:
            if isinstance(step, Project):
                project(urls, step)
            else:
                player.run(step)
        project(urls, Project(batch_events=1_000))
        workspaces = [scope.workspace_id for scope in player.scopes]
        assert_tables_match_log(database, workspaces)
        assert_claims_match_log(database, workspaces)
        for event in recorded_events(database, workspaces):
            assert_comes_back_the_same(event)

    live()
    assert_tables_match_log(database)
    assert_keys_match_lists(database)
    before = actual_tables(database)
    forget_everything(database)
    assert not any(actual_tables(database).values())
    project(urls, Project(batch_events=777))
    assert actual_tables(database) == before


def project(urls: Urls, step: Project) -> None:
    """A new engine catches up, unless the step says that it dies before."""
    projections: Iterable[Projection] = PROJECTIONS.values()
    if step.killed_at_event is not None:
        projections = [dying(each, step.killed_at_event) for each in projections]
    with suppress(Killed), killed_at_table(step.killed_at_table):
        ProjectionEngine(urls.projector, projections, batch_events=step.batch_events).catch_up()


def dying(projection: Projection, events: int) -> Projection:
    """The projection, with a process that ends while it looks at an event after so many."""
    seen = 0

    def watched(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def watch(event: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen > events:
                raise Killed
            return handler(event)

        return watch

    return dataclasses.replace(
        projection,
        handlers={topic: watched(handler) for topic, handler in projection.handlers.items()},
        every=watched(projection.every) if projection.every else None,
    )


@contextmanager
def killed_at_table(number: int | None) -> Iterator[None]:
    """The process ends within a transaction, with so many tables applied."""
    if number is None:
        yield
        return
    applied = 0
    apply = Statement.apply

    def watch(statement: Statement, *arguments: Any) -> None:
        nonlocal applied
        applied += 1
        if applied > number:
            raise Killed
        apply(statement, *arguments)

    with mock.patch.object(Statement, "apply", watch):
        yield


def forget_everything(database: Connection) -> None:
    """Read tables are emptied and projections begin anew."""
    for name in actual_tables(database):
        database.execute(f"TRUNCATE read.{name}".encode())
    database.execute("UPDATE projections SET position = 0")
    database.execute("TRUNCATE projection_coverage")


def assert_comes_back_the_same(row: Row) -> None:
    """The event's row becomes an event, and the event the same row."""
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
