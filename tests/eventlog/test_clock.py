"""An event does not occur after it was recorded, however wrong the clock of its writer is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from commands.entities import EntityCommands
from commands.merging import MergeCommands
from commands.undo.commands import UndoCommands, UndoTarget
from domain.account import Account
from domain.shared.entity import Entity
from eventlog.clock import DatabaseClock, local_time
from eventlog.connections import Connection, write_pool
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from tests.support.databases import Urls
from tests.support.waiting import wait_until

HOURS = timedelta(hours=3)
ACCOUNT = {"company": "Acme", "type": "customer"}


def ahead() -> datetime:
    """The clock of a machine that is three hours ahead."""
    return local_time() + HOURS


def rename(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "company": "Acme 2"}


def times(database: Connection, entity: Entity) -> list[tuple[datetime, datetime]]:
    return database.execute(
        "SELECT occurred_at, recorded_at FROM events WHERE stream_id = %s ORDER BY position",
        (entity.id,),
    ).fetchall()


@pytest.mark.parametrize("role", ["app", "sender"])
def test_event_of_a_clock_that_is_ahead_occurs_when_it_is_recorded(
    role: str, scope: Scope, database: Connection, urls: Urls
) -> None:
    with write_pool(getattr(urls, role)) as pool:
        commands = EntityCommands(EventLog(pool), clock=ahead, new_id=uuid4)
        account = commands.create(scope, Account, ACCOUNT).entity
        commands.revise(scope, Account, account.id, rename)
        commands.delete(scope, Account, account.id)
        commands.restore(scope, Account, account.id)
    found = times(database, account)
    assert len(found) == 4
    assert all(occurred == recorded for occurred, recorded in found)


def test_times_in_the_past_are_kept(scope: Scope, database: Connection, urls: Urls) -> None:
    past = local_time() - timedelta(days=400)
    with write_pool(urls.app) as pool:
        commands = EntityCommands(EventLog(pool), clock=local_time, new_id=uuid4)
        account = commands.create(scope, Account, ACCOUNT, occurred_at=past).entity
    assert times(database, account)[0][0] == past


def test_entity_keeps_its_order_after_the_server_was_set_back(
    commands: EntityCommands, scope: Scope, database: Connection
) -> None:
    """The first event was recorded by a server whose clock was three hours ahead."""
    account = commands.create(scope, Account, ACCOUNT).entity
    database.execute("ALTER TABLE events DISABLE TRIGGER events_are_never_changed")
    database.execute(
        "UPDATE events SET occurred_at = occurred_at + %s, recorded_at = recorded_at + %s",
        (HOURS, HOURS),
    )
    commands.revise(scope, Account, account.id, rename)
    (first, _), (second, _) = times(database, account)
    assert second == first


def test_undo_and_merge_with_a_clock_that_is_ahead(
    scope: Scope, database: Connection, urls: Urls
) -> None:
    with write_pool(urls.app) as pool:
        log = EventLog(pool)
        commands = EntityCommands(log, clock=ahead, new_id=uuid4)
        kept, other = (commands.create(scope, Account, ACCOUNT).entity for _ in range(2))
        merged = MergeCommands(log, clock=ahead).merge(scope, Account, kept.id, other.id, {})
        renamed = commands.revise(scope, Account, merged.outcome.entity.id, rename)
        UndoCommands(log, clock=ahead).undo(scope, UndoTarget((renamed.position,)))
    late = database.execute("SELECT FROM events WHERE occurred_at > recorded_at").fetchall()
    assert late == []


@pytest.mark.parametrize("difference", [HOURS, -HOURS], ids=["ahead", "behind"])
def test_clock_of_the_database_is_followed(
    difference: timedelta, scope: Scope, database: Connection, urls: Urls
) -> None:
    def local() -> datetime:
        return local_time() + difference

    with write_pool(urls.app) as pool, closing(DatabaseClock(pool, local)) as clock:
        clock.measure()
        before = database.execute("SELECT clock_timestamp() - interval '10 s'").fetchone()
        now = clock.now()
        after = database.execute("SELECT clock_timestamp()").fetchone()
        assert before is not None
        assert after is not None
        assert before[0] < now <= after[0]


def test_clock_is_measured_without_being_asked(urls: Urls) -> None:
    with write_pool(urls.app) as pool, closing(DatabaseClock(pool, ahead)) as clock:
        wait_until(lambda: clock.now() - local_time() < HOURS / 2, "the clock was measured")


def test_clock_runs_while_the_database_is_away(urls: Urls) -> None:
    with write_pool("postgresql://127.0.0.1:1/none") as pool, closing(DatabaseClock(pool)) as clock:
        assert abs(clock.now() - local_time()) < timedelta(seconds=10)
