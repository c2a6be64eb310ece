"""Entities are saved and loaded through the eventsourcing library's interfaces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from eventsourcing.domain import AggregateCreated
from eventsourcing.persistence import (
    IntegrityError,
    MapperDeserialisationError,
    OperationalError,
    ProgrammingError,
)

from domain.account import Account
from domain.contact import Contact
from domain.shared.entity import EntityEvent
from domain.shared.kinds import EVENTS
from domain.shared.merging import EntityMerged
from domain.shared.refusals import NotFound
from eventlog import upcast
from eventlog.connections import Connection, follow_connection, write_pool
from eventlog.hints import APPENDED, Hinter, wait_for_hint
from eventlog.reading import read_after
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from eventlog.store.mapper import EventMapper, LogEvent, OrjsonTranscoder
from tests.support.databases import Urls
from tests.support.keys import credential, issue_first_key
from tests.support.waiting import wait_until

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
LARGE = 5_000


def account(workspace: UUID, company: str = "Acme", *, entity_id: UUID | None = None) -> Account:
    fields = {"company": company, "type": "customer"}
    return Account.create(entity_id or uuid4(), workspace, fields, at=NOW)


def positions(urls: Urls) -> list[int]:
    with psycopg.connect(urls.superuser) as connection:
        return [row[0] for row in connection.execute("SELECT position FROM events ORDER BY 1")]


def append_and_fail(log: EventLog, scope: Scope) -> None:
    with log.transaction(scope):
        log.append(account(scope.workspace_id))
        log.append(account(scope.workspace_id))
        raise ZeroDivisionError


def append_and_stall(log: EventLog, scope: Scope) -> None:
    with log.transaction(scope) as connection:
        connection.execute("SET LOCAL annals.writer_limit_ms = 100")
        log.append(account(scope.workspace_id))
        time.sleep(0.4)  # longer than the writer's limit, which is under test
        log.append(account(scope.workspace_id))


# Loading and saving


def test_appended_entity_is_loaded_unchanged(log: EventLog, scope: Scope, workspace: UUID) -> None:
    acme = account(workspace)
    acme.revise({"company": "Acme Corporation", "type": "customer", "status": "active"}, at=NOW)
    with log.scoped(scope):
        last = log.append(acme)
        again = log.load(Account, acme.id)
    assert last == 3
    assert (again.values, again.version, again.workspace_id) == (acme.values, 3, workspace)
    assert again.modified_on == NOW


def test_append_without_new_events_records_nothing(
    log: EventLog, scope: Scope, workspace: UUID, urls: Urls
) -> None:
    acme = account(workspace)
    with log.scoped(scope):
        log.append(acme)
        assert log.append(acme) is None
    assert positions(urls) == [1]


def test_entity_of_another_workspace_or_kind_is_not_found(
    log: EventLog, scope: Scope, workspace: UUID
) -> None:
    acme = account(workspace)
    with log.scoped(scope):
        log.append(acme)
        with pytest.raises(NotFound):
            log.load(Contact, acme.id)
    with log.scoped(Scope(uuid4())), pytest.raises(NotFound):
        log.load(Account, acme.id)


def test_append_outside_a_scope_is_refused(log: EventLog, workspace: UUID) -> None:
    with pytest.raises(ProgrammingError, match="scoped"):
        log.append(account(workspace))


# Optimistic concurrency


def test_second_append_to_the_same_version_is_refused(
    log: EventLog, scope: Scope, workspace: UUID, urls: Urls
) -> None:
    acme = account(workspace)
    with log.scoped(scope):
        log.append(acme)
        one, other = log.load(Account, acme.id), log.load(Account, acme.id)
        one.change_status("active", at=NOW)
        other.change_status("churned", at=NOW)
        log.append(one)
        with pytest.raises(IntegrityError) as refusal:
            log.append(other)
        assert log.load(Account, acme.id).status == "active"
    assert str(acme.id) not in str(refusal.value), (
        "the message would reveal an id of another workspace"
    )
    assert len(positions(urls)) == 2


def test_append_of_several_streams_is_atomic(
    log: EventLog, scope: Scope, workspace: UUID, urls: Urls
) -> None:
    first, second = account(workspace), account(workspace)
    with log.scoped(scope):
        log.append(second)
        with pytest.raises(IntegrityError):
            log.append(first, account(workspace, entity_id=second.id))
        with pytest.raises(NotFound):
            log.load(Account, first.id)


def test_appends_of_a_transaction_are_atomic(
    log: EventLog, scope: Scope, workspace: UUID, urls: Urls
) -> None:
    with pytest.raises(ZeroDivisionError):
        append_and_fail(log, scope)
    assert positions(urls) == []
    with log.transaction(scope):
        log.append(account(workspace))
        log.append(account(workspace))
    assert len(positions(urls)) == 2


# What is recorded


def test_event_metadata_holds_actor_and_command(log: EventLog, workspace: UUID, urls: Urls) -> None:
    scope = Scope(
        workspace,
        Actor("member", "ada", "Ada Lovelace"),
        command="create_account",
        command_id="c-1",
        causation_id="e-7",
        request_id="r-1",
        ip="192.0.2.1",
        user_agent="curl/8",
        extra={"import": "i-1"},
    )
    with log.scoped(scope):
        log.append(account(workspace), account(workspace))
    with follow_connection(urls.projector, application_name="test") as follower:
        events = read_after(follower, 0, 10).events
    assert len(events) == 2
    for event in events:
        assert orjson.loads(event.metadata) == {
            "actor": {"type": "member", "id": "ada", "name": "Ada Lovelace"},
            "command": "create_account",
            "commandId": "c-1",
            "correlationId": "c-1",
            "causationId": "e-7",
            "requestId": "r-1",
            "ip": "192.0.2.1",
            "userAgent": "curl/8",
            "import": "i-1",
        }
        assert (event.workspace_id, event.topic, event.kind) == (
            str(workspace),
            "account.created",
            "account",
        )
        assert datetime.fromisoformat(event.occurred_at) == NOW
        recorded = datetime.fromisoformat(event.recorded_at)
        assert abs(datetime.now(UTC) - recorded) < timedelta(minutes=1)


def example(event_class: type[EntityEvent]) -> EntityEvent:
    """Return an event of this class with a value for each of its fields."""
    values: dict[str, Any] = {
        "workspace_id": uuid4(),
        "fields": {"company": "Ação – 漢字 😀", "customFields": {"n": 1, "ok": True, "x": 1.5}},
        "changes": {"company": {"before": None, "after": "Acme"}},
        "before": "prospect",
        "after": "active",
        "deleted_with": uuid4(),
        "merged_into": uuid4(),
        "moved_to": uuid4(),
        "moved_from": uuid4(),
        "other": uuid4(),
        "moved": {"note": 1},
    }
    base = next(b for b in event_class.__mro__ if b.__module__ == "domain.shared.entity")
    fields = {name: values[name] for name in base.__annotations__ if name in values}
    if issubclass(event_class, EntityMerged):
        fields["changes"] = values["changes"]
    event = object.__new__(event_class)
    event.__dict__.update(
        originator_id=uuid4(),
        originator_version=1 if issubclass(event_class, AggregateCreated) else 7,
        timestamp=NOW,
        account_id=uuid4(),
        **fields,
    )
    return event


def test_every_event_is_read_back_unchanged(
    urls: Urls, log: EventLog, workspace: UUID, scope: Scope
) -> None:
    scope = replace(scope, credential=credential(issue_first_key(urls.owner, workspace)))
    mapper = log.mapper
    assert len(EVENTS) > 30
    for topic, event_class in EVENTS.items():
        event = example(event_class)
        if isinstance(event, AggregateCreated):
            event.__dict__["workspace_id"] = workspace
        with log.scoped(scope):
            log.recorder.insert_events([mapper.to_stored_event(event)])
            (stored,) = log.recorder.select_events(event.originator_id)
        again = mapper.to_domain_event(stored)
        assert (stored.topic, type(again)) == (topic, event_class)
        found = {name: value for name, value in vars(again).items() if name != "originator_topic"}
        assert found == vars(event)


@pytest.fixture
def upcaster() -> Iterator[None]:
    """Register upcasters from account.sketched to account.created, through a version between."""

    def named(data: upcast.Data) -> upcast.Data:
        return {"fields": {"company": data["name"]}}

    def typed(data: upcast.Data) -> upcast.Data:
        return {"fields": {**data["fields"], "type": "customer"}}

    upcast.upcaster("account.sketched", "account.sketched.v2")(named)
    upcast.upcaster("account.sketched.v2", "account.created")(typed)
    yield
    del upcast._STEPS["account.sketched"]
    del upcast._STEPS["account.sketched.v2"]


@pytest.mark.usefixtures("upcaster")
def test_old_event_versions_are_read_as_the_newest(
    log: EventLog, scope: Scope, workspace: UUID, urls: Urls
) -> None:
    stream = uuid4()
    old = LogEvent(
        stream, 1, "account.sketched", b'{"name": "Acme"}',
        occurred_at=NOW, account_id=None, workspace_id=None,
    )  # fmt: skip
    with log.scoped(scope):
        log.recorder.insert_events([old])
        loaded = log.load(Account, stream)
    assert loaded.values == {"company": "Acme", "type": "customer"}
    with follow_connection(urls.projector, application_name="test") as follower:
        (event,) = read_after(follower, 0, 10).events
    assert (event.topic, event.data["fields"]) == ("account.created", loaded.values)
    register = upcast.upcaster("account.sketched", "other")
    with pytest.raises(ValueError, match="has an upcaster already"):
        register(lambda data: data)


def test_error_names_the_unknown_topic() -> None:
    event = LogEvent(
        uuid4(), 1, "account.vanished", b"{}", occurred_at=NOW, account_id=None, workspace_id=None
    )
    with pytest.raises(MapperDeserialisationError, match=r"account\.vanished"):
        EventMapper(OrjsonTranscoder()).to_domain_event(event)


# Bounds


def test_large_append_is_one_transaction(
    log: EventLog, scope: Scope, workspace: UUID, urls: Urls
) -> None:
    accounts = [account(workspace, f"Company {number}") for number in range(LARGE)]
    with log.scoped(scope):
        assert log.append(*accounts) == LARGE
        assert log.load(Account, accounts[-1].id).values["company"] == f"Company {LARGE - 1}"
    with follow_connection(urls.projector, application_name="test") as follower:
        page = read_after(follower, 0, LARGE)
    assert [event.stream_id for event in page.events] == [str(one.id) for one in accounts]


def test_timeout_for_a_connection_is_operational_error(
    urls: Urls, scope: Scope, workspace: UUID
) -> None:
    with write_pool(urls.app, max_size=1) as pool:
        pool.wait()
        pool.timeout = 0.1
        log = EventLog(pool)
        with pool.connection(), log.scoped(scope), pytest.raises(OperationalError):
            log.append(account(workspace))


def test_timeout_for_another_writer_of_the_stream_is_operational_error(
    log: EventLog, urls: Urls, scope: Scope, workspace: UUID
) -> None:
    def set_lock_timeout(connection: Connection) -> None:
        connection.execute("SET lock_timeout = '100ms'")

    acme = account(workspace)
    with (
        write_pool(urls.app, configure=set_lock_timeout) as pool,
        log.transaction(scope),
    ):
        log.append(acme)
        with EventLog(pool).scoped(scope), pytest.raises(OperationalError, match="lock"):
            EventLog(pool).append(account(workspace, entity_id=acme.id))


def test_transaction_beyond_the_writer_limit_is_operational_error(
    log: EventLog, scope: Scope, workspace: UUID
) -> None:
    with pytest.raises(OperationalError):
        append_and_stall(log, scope)
    with log.scoped(scope):  # the pool uses another connection
        assert log.append(account(workspace)) is not None


# The library's interfaces


def test_notification_log_reads_only_the_workspace(
    log: EventLog, scope: Scope, workspace: UUID
) -> None:
    stranger = Scope(uuid4())
    with log.scoped(stranger):
        log.append(account(stranger.workspace_id))
    with log.scoped(scope):
        log.append(*(account(workspace) for _ in range(4)))
        section = log.notification_log["1,10"]
        assert [item.id for item in section.items] == [2, 3, 4, 5]
        page = log.notification_log.select(start=3, limit=2, topics=["account.created"])
        assert [item.id for item in page] == [3, 4]
        assert log.notification_log.select(start=1, limit=9, topics=["account.deleted"]) == []
        event = log.mapper.to_domain_event(page[0])
        assert isinstance(event, Account.Created)
        assert event.workspace_id == workspace
        assert log.recorder.max_notification_id() == 5


def test_empty_log_has_no_last_position(log: EventLog) -> None:
    assert log.recorder.max_notification_id() is None


def test_subscription_delivers_later_appends(log: EventLog, scope: Scope, workspace: UUID) -> None:
    with log.scoped(scope):
        log.append(account(workspace), account(workspace))
        with log.recorder.subscribe(gt=1) as subscription:
            assert next(subscription).id == 2
            log.append(account(workspace))
            assert next(subscription).id == 3
            subscription.stop()
            assert list(subscription) == []


def test_save_of_library_records_like_append(log: EventLog, scope: Scope, workspace: UUID) -> None:
    with log.scoped(scope):
        (recording,) = log.save(account(workspace))
        assert recording.notification.id == 1


# Hints


def test_append_sends_a_hint_and_rollback_does_not(
    urls: Urls, scope: Scope, workspace: UUID
) -> None:
    with (
        write_pool(urls.app) as pool,
        follow_connection(urls.projector, application_name="test") as listener,
    ):
        listener.execute(f"LISTEN {APPENDED}".encode())
        hinter = Hinter(urls.app)
        log = EventLog(pool, after_append=hinter.hint)
        try:
            with log.scoped(scope):
                log.append(account(workspace))
            assert wait_for_hint(listener, 60)
            with pytest.raises(ZeroDivisionError):
                append_and_fail(log, scope)
            assert not wait_for_hint(listener, 0.1)
            with log.transaction(scope):
                log.append(account(workspace))
            assert wait_for_hint(listener, 60)
        finally:
            hinter.close()


def test_unsent_hint_is_sent_on_the_next_connection(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.hints.HINT_RETRY_S", 0.05)
    with (
        psycopg.connect(urls.superuser, autocommit=True) as superuser,
        follow_connection(urls.projector, application_name="test") as listener,
    ):
        listener.execute(f"LISTEN {APPENDED}".encode())
        hinter = Hinter(urls.app)
        try:
            hinter.hint()
            assert wait_for_hint(listener, 60)
            superuser.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'annals-hinter' AND datname = current_database()"
            )
            hinter.hint()
            assert wait_for_hint(listener, 60)
        finally:
            hinter.close()


def test_hint_asked_for_in_the_pause_after_another_is_sent_too(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.hints.HINT_PAUSE_S", 0.2)
    hinter = Hinter(urls.app)
    try:
        for number in range(1, 4):
            hinter.hint()
            wait_until(lambda: hinter.sent >= number, "the hint is sent")  # noqa: B023
            assert hinter.sent == number
    finally:
        hinter.close()
