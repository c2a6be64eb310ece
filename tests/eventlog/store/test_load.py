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
