"""The engine projects each event once, and the ledger reports every skipped or changed event."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from eventlog.connections import Connection, follow_connection
from eventlog.reading import readable_position
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.ledger.coverage import Gap, gaps
from projections.engine.live import runner
from projections.engine.live.follower import FoldedBatch, Follower
from projections.engine.live.planning import force_index_plans
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.retry import retry
from projections.engine.registry import PROJECTIONS
from tests.support.databases import Urls
from tests.support.failing_projection import companies, failing_for
from tests.support.processes import running_engine
from tests.support.waiting import wait_until
from tests.support.watched_projection import Watched, watched

TRIGGER = "events_are_never_changed"
MANY = 1_000
LOOK_UP = """
EXPLAIN SELECT t.company FROM jsonb_array_elements('[{}]') AS i
          JOIN read.accounts AS t ON t.workspace_id = (i->>'w')::uuid AND t.id = (i->>'k')::uuid
"""


def found(database: Connection, projection: str = "accounts") -> list[Gap]:
    """Return the gaps that the coverage ledger finds between the projection and the log."""
    return gaps(database, projection, upto=readable_position(database))


def test_ledger_of_caught_up_projections_has_no_gaps(
    accounts: list[Account], engine: ProjectionEngine, database: Connection
) -> None:
    engine.catch_up()
    assert [found(database, name) for name in PROJECTIONS] == [[] for _ in PROJECTIONS]


def test_event_removed_after_projection_is_reported(
    accounts: list[Account], engine: ProjectionEngine, database: Connection
) -> None:
    engine.catch_up()
    database.execute(f"ALTER TABLE events DISABLE TRIGGER {TRIGGER}")
    database.execute("DELETE FROM events WHERE position = 3")
    assert [(gap.fault, gap.position) for gap in found(database)] == [("removed", 3)]


def test_event_altered_after_projection_is_reported(
    accounts: list[Account], engine: ProjectionEngine, database: Connection
) -> None:
    engine.catch_up()
    database.execute(f"ALTER TABLE events DISABLE TRIGGER {TRIGGER}")
    database.execute("""UPDATE events SET data = '{"fields": {}}' WHERE position = 5""")
    assert [(gap.fault, gap.position) for gap in found(database)] == [("altered", 5)]


def test_doubled_and_skipped_events_are_reported(
    accounts: list[Account], engine: ProjectionEngine, database: Connection, urls: Urls
) -> None:
    engine.catch_up()
    database.execute("UPDATE projections SET position = 5 WHERE name = 'accounts'")
    engine.catch_up()
    assert [(gap.fault, gap.position) for gap in found(database)] == [("doubled", 6)]
    database.execute("UPDATE projections SET position = 5 WHERE name = 'contacts'")
    database.execute("DELETE FROM projection_coverage WHERE projection = 'contacts'")
    engine.catch_up()
    assert found(database, "contacts")[0].fault == "several"
    database.execute("DELETE FROM projection_coverage WHERE projection = 'notes'")
    database.execute("UPDATE projections SET position = 1 WHERE name = 'notes'")
    engine.catch_up()
    assert [(gap.fault, gap.position) for gap in found(database, "notes")] == [("skipped", 1)]


def test_failing_projector_parks_only_that_entity(
    accounts: list[Account], database: Connection, urls: Urls
) -> None:
    ProjectionEngine(urls.projector, [failing_for(PROJECTIONS["accounts"], "Bluth")]).catch_up()
    assert companies(database) == [("Acme", 1), ("Cyberdyne", 1)]
    parked = database.execute("SELECT entity_id, position, events, error FROM projection_parked")
    assert parked.fetchall() == [(accounts[1].id, 3, 2, "ValueError: cannot digest Bluth")]
    assert found(database) == []


def test_row_refused_by_database_parks_only_its_entity(
    accounts: list[Account], database: Connection, urls: Urls
) -> None:
    database.execute("ALTER TABLE read.accounts ADD CHECK (company <> 'Bluth')")
    ProjectionEngine(urls.projector, [PROJECTIONS["accounts"], PROJECTIONS["contacts"]]).catch_up()
    assert companies(database) == [("Acme", 1), ("Cyberdyne", 1)]
    parked = database.execute(
        "SELECT projection, entity_id, position, events FROM projection_parked"
    )
    assert parked.fetchall() == [("accounts", accounts[1].id, 3, 2)]
    assert database.execute("SELECT count(*) FROM read.contacts").fetchone() == (3,)


def test_failing_entity_is_parked_as_a_whole_in_batch_with_refused_row(
    accounts: list[Account],
    commands: EntityCommands,
    scope: Scope,
    database: Connection,
    urls: Urls,
) -> None:
    commands.create(scope, Contact, {"name": "late"}, account_id=accounts[1].id)
    database.execute("ALTER TABLE read.accounts ADD CHECK (company <> 'Acme')")
    broken = failing_for(PROJECTIONS["accounts"], "Bluth")
    ProjectionEngine(urls.projector, [broken]).catch_up()
    assert companies(database) == [("Cyberdyne", 1)]
    parked = database.execute("SELECT position, events FROM projection_parked ORDER BY position")
    assert parked.fetchall() == [(1, 2), (3, 3)]


def test_refused_row_in_batch_does_not_release_later_events_of_failing_entity(
    accounts: list[Account],
    commands: EntityCommands,
    scope: Scope,
    database: Connection,
    urls: Urls,
) -> None:
    """The failing contact and the next one are parked; otherwise a retry would count one twice."""
    outcome = commands.create(scope, Contact, {"name": "poison"}, account_id=accounts[1].id)
    commands.create(scope, Contact, {"name": "late"}, account_id=accounts[1].id)
    database.execute("ALTER TABLE read.accounts ADD CHECK (company <> 'Acme')")

    def fail(event: Watched) -> None:
        if event.entity[1] == str(outcome.entity.id):
            raise ValueError("cannot digest poison")

    broken = watched(PROJECTIONS["accounts"], fail)
    ProjectionEngine(urls.projector, [broken]).catch_up()
    assert companies(database) == [("Bluth", 1), ("Cyberdyne", 1)]
    database.execute("ALTER TABLE read.accounts DROP CONSTRAINT accounts_company_check")
    assert [each.error for each in retry(urls.projector, PROJECTIONS["accounts"])] == [None, None]
    assert companies(database) == [("Acme", 1), ("Bluth", 3), ("Cyberdyne", 1)]


def test_refused_row_among_many_events_costs_few_more_statements(
    commands: EntityCommands,
    scope: Scope,
    database: Connection,
    urls: Urls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Applying the events one by one would take longer than a projector may be silent."""
    for number in range(64):
        commands.create(scope, Account, {"company": str(number), "type": "customer"})
    database.execute("ALTER TABLE read.accounts ADD CHECK (company <> '40')")
    writes = 0
    write = Follower.write

    def counted(self: Follower, connection: Connection, batch: FoldedBatch) -> None:
        nonlocal writes
        writes += 1
        write(self, connection, batch)

    monkeypatch.setattr(Follower, "write", counted)
    ProjectionEngine(urls.projector, [PROJECTIONS["accounts"]]).catch_up()
    assert len(companies(database)) == 63
    assert writes <= 2 * math.log2(64) + 3


def test_later_events_of_parked_entity_are_parked(
    accounts: list[Account],
    commands: EntityCommands,
    scope: Scope,
    database: Connection,
    urls: Urls,
) -> None:
    engine = ProjectionEngine(urls.projector, [failing_for(PROJECTIONS["accounts"], "Bluth")])
    engine.catch_up()
    commands.create(scope, Contact, {"name": "late"}, account_id=accounts[1].id)
    commands.create(scope, Contact, {"name": "late"}, account_id=accounts[0].id)
    engine.catch_up()
    assert companies(database) == [("Acme", 2), ("Cyberdyne", 1)]
    assert database.execute("SELECT events FROM projection_parked").fetchall() == [(3,)]


def test_alternating_engines_project_each_event_once(
    accounts: list[Account], database: Connection, urls: Urls, engine: ProjectionEngine
) -> None:
    for _ in range(3):
        engine.catch_up()
        ProjectionEngine(urls.projector, PROJECTIONS.values(), batch_events=1).catch_up()
    assert [found(database, name) for name in PROJECTIONS] == [[] for _ in PROJECTIONS]


@pytest.mark.parametrize("fails", [False, True])
def test_engine_releases_its_locks_before_it_disconnects(
    accounts: list[Account],
    database: Connection,
    urls: Urls,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    """PostgreSQL notices a closed connection late; the next engine must find nothing locked."""
    opened: list[Connection] = []

    @contextmanager
    def kept_open(url: str, **named: str) -> Iterator[Connection]:
        connection = stack.enter_context(follow_connection(url, **named))
        opened.append(connection)
        yield connection

    def fail(*_given: object) -> None:
        raise ZeroDivisionError

    with ExitStack() as stack:
        monkeypatch.setattr(runner, "follow_connection", kept_open)
        if fails:
            monkeypatch.setattr(runner, "apply_page", fail)
        with suppress(ZeroDivisionError):
            ProjectionEngine(urls.projector, PROJECTIONS.values()).catch_up()
        held = database.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = ANY(%s)",
            ([each.info.backend_pid for each in opened],),
        ).fetchone()
    assert len(opened) == 2
    assert held == (0,)


def test_growing_new_table_is_analyzed_and_looked_up_by_key(
    log: EventLog, scope: Scope, urls: Urls, database: Connection
) -> None:
    database.execute("ALTER TABLE read.accounts SET (autovacuum_enabled = off)")
    with log.transaction(scope):
        fields = {"company": "Acme", "type": "customer"}
        log.append(
            *[
                Account.create(uuid4(), scope.workspace_id, fields, at=datetime.now(UTC))
                for _ in range(MANY)
            ]
        )
    unknown = "SELECT reltuples < 0 FROM pg_class WHERE oid = 'read.accounts'::regclass"
    assert database.execute(unknown).fetchone() == (True,)
    with running_engine(ProjectionEngine(urls.projector, PROJECTIONS.values())):
        wait_until(
            lambda: database.execute(unknown).fetchone() == (False,), "the table is analyzed"
        )
    with follow_connection(urls.projector, application_name="test") as connection:
        force_index_plans(connection)
        plan = [str(line) for (line,) in connection.execute(LOOK_UP).fetchall()]
    assert [line for line in plan if "Scan using accounts_pkey" in line], plan
