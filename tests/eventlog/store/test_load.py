"""Entities are loaded in one statement, which enters the workspace of the scope by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg
import pytest

from domain.account import Account
from domain.shared.entity import Entity
from domain.shared.refusals import NotFound
from eventlog.connections import write_pool
from eventlog.scope import Scope
from eventlog.store.cache import KEPT_AFTER_EVENTS, EntityCache
from eventlog.store.log import EventLog
from tests.support.databases import Urls

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@contextmanager
def one_connection(urls: Urls) -> Iterator[EventLog]:
    """A log whose statements all run on one connection, one after the other."""
    with write_pool(urls.app, max_size=1) as pool:
        yield EventLog(pool)


def recorded(log: EventLog, scope: Scope, company: str) -> UUID:
    entity = Account.create(
        uuid4(), scope.workspace_id, {"company": company, "type": "customer"}, at=NOW
    )
    with log.scoped(scope):
        log.append(entity)
    return entity.id


def changed(log: EventLog, scope: Scope, entity_id: UUID, times: int) -> None:
    """Change an entity so many times."""
    with log.scoped(scope):
        account = log.load(Account, entity_id)
        for _ in range(times):
            fields = {**account.values, "nextAction": f"Step {account.version}"}
            account.revise(fields, at=account.modified_on)
        log.append(account)


def as_read(log: EventLog, scope: Scope, entity_id: UUID) -> Account:
    """The entity as another process reads it."""
    with log.scoped(scope):
        return log.load(Account, entity_id)


def test_a_workspace_sees_its_own_entities_only(urls: Urls) -> None:
    scopes = [Scope(uuid4()), Scope(uuid4())]
    with one_connection(urls) as log:
        ids = [recorded(log, scope, f"Acme {n}") for n, scope in enumerate(scopes)]
        for scope, own, other in zip(scopes, ids, reversed(ids), strict=True):
            with log.scoped(scope):
                assert set(log.load_many(Entity, ids)) == {own}
                assert log.load(Account, own).id == own
                with pytest.raises(NotFound):
                    log.load(Account, other)
                assert log.load_many(Entity, []) == {}


def test_the_connection_has_left_the_workspace_after_a_load(urls: Urls) -> None:
    scope = Scope(uuid4())
    with one_connection(urls) as log:
        entity_id = recorded(log, scope, "Acme")
        with log.scoped(scope):
            log.load(Account, entity_id)
        with log._log_recorder.pool.connection() as connection:
            assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)


def test_a_load_is_one_statement(urls: Urls) -> None:
    scope = Scope(uuid4())
    with one_connection(urls) as log, psycopg.connect(urls.superuser, autocommit=True) as watcher:
        entity_id = recorded(log, scope, "Acme")
        with log._log_recorder.pool.connection() as connection:
            pid = connection.info.backend_pid
        with log.scoped(scope):
            log.load(Account, entity_id)
        row = watcher.execute(
            "SELECT query LIKE '%%entered%%', state FROM pg_stat_activity WHERE pid = %s", (pid,)
        ).fetchone()
    assert row == (True, "idle")


def test_within_a_transaction_a_load_sees_what_the_transaction_recorded(urls: Urls) -> None:
    scope = Scope(uuid4())
    with one_connection(urls) as log, log.transaction(scope):
        entity_id = recorded(log, scope, "Acme")
        assert log.load(Account, entity_id).version == 1


# States that are kept


def test_a_kept_state_is_continued_with_the_events_of_other_processes(urls: Urls) -> None:
    scope = Scope(uuid4())
    with one_connection(urls) as log, one_connection(urls) as other:
        entity_id = recorded(log, scope, "Acme")
        changed(log, scope, entity_id, 30)
        for version in (31, 36, 76, 77):
            changed(other, scope, entity_id, version - as_read(other, scope, entity_id).version)
            shown, fresh = as_read(log, scope, entity_id), EventLog(other._log_recorder.pool)
            assert shown.__dict__ == as_read(fresh, scope, entity_id).__dict__
            assert shown.version == version
            kept = log.cache.find(scope.workspace_id, entity_id)
            assert kept is not None
            assert version - kept.version < KEPT_AFTER_EVENTS


def test_changes_of_a_loaded_entity_do_not_reach_the_kept_state(urls: Urls) -> None:
    scope = Scope(uuid4())
    with one_connection(urls) as log:
        entity_id = recorded(log, scope, "Acme")
        changed(log, scope, entity_id, 30)
        for _ in range(2):
            account = as_read(log, scope, entity_id)
            assert account.values["nextAction"] == "Step 30"
            assert account.pending_events == []
            account.values["nextAction"] = "never recorded"
            account.revise({"company": "Other", "type": "customer"}, at=account.modified_on)


def change_and_fail(log: EventLog, scope: Scope, entity_id: UUID) -> None:
    with log.transaction(scope):
        changed(log, scope, entity_id, 30)
        assert log.load(Account, entity_id).version == 31
        raise ZeroDivisionError


def test_events_that_are_rolled_back_are_not_kept(urls: Urls) -> None:
    scope = Scope(uuid4())
    with one_connection(urls) as log:
        entity_id = recorded(log, scope, "Acme")
        with pytest.raises(ZeroDivisionError):
            change_and_fail(log, scope, entity_id)
        assert as_read(log, scope, entity_id).version == 1


@pytest.mark.parametrize("version", [21, 40])
def test_a_kept_state_that_the_log_does_not_have_is_not_used(urls: Urls, version: int) -> None:
    scope = Scope(uuid4())
    with one_connection(urls) as log:
        entity_id = recorded(log, scope, "Acme")
        changed(log, scope, entity_id, 30)
        foreign = as_read(log, scope, entity_id)
        # As if a backup had brought back a history that is shorter, or another one.
        foreign.__dict__["_version"] = version
        foreign.__dict__["_modified_on"] = NOW.replace(year=2027)
        log.cache.keep_folded(scope.workspace_id, foreign, events=version)
        assert as_read(log, scope, entity_id).version == 31
        assert as_read(log, scope, entity_id).values["nextAction"] == "Step 30"


def test_a_kept_state_that_the_log_does_not_have_is_dropped(urls: Urls) -> None:
    scope = Scope(uuid4())
    with one_connection(urls) as log:
        entity_id = recorded(log, scope, "Acme")
        changed(log, scope, entity_id, 2)
        foreign = as_read(log, scope, entity_id)
        foreign.__dict__["_modified_on"] = NOW.replace(year=2027)
        log.cache.keep_decided(scope.workspace_id, foreign)
        assert as_read(log, scope, entity_id).modified_on == NOW
        assert log.cache.find(scope.workspace_id, entity_id) is None


def test_a_kept_state_belongs_to_its_workspace(urls: Urls) -> None:
    scope = Scope(uuid4())
    with one_connection(urls) as log:
        entity_id = recorded(log, scope, "Acme")
        changed(log, scope, entity_id, 30)
        assert as_read(log, scope, entity_id).version == 31
        with pytest.raises(NotFound):
            as_read(log, Scope(uuid4()), entity_id)


def test_the_states_used_last_are_kept(urls: Urls) -> None:
    scope = Scope(uuid4())
    cache = EntityCache(kept_max=2)
    with one_connection(urls) as log:
        ids = [recorded(log, scope, f"Acme {number}") for number in range(3)]
        for each in ids:
            changed(log, scope, each, 30)
            cache.keep_folded(scope.workspace_id, as_read(log, scope, each), events=31)
            cache.find(scope.workspace_id, ids[0])
    found = [cache.find(scope.workspace_id, each) is not None for each in ids]
    assert found == [True, False, True]
