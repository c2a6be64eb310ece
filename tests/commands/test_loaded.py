"""LoadedEntities: one instance per id, and one append for all accepted events."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import IntegrityError

from commands.loaded import LoadedEntities, event_time
from domain.account import Account
from domain.appointment import Appointment
from domain.contact import Contact
from domain.member import Member
from domain.shared.refusals import NotFound, StaleVersion, TimeTaken
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog

NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)


def new_account(scope: Scope, name: str = "Acme") -> Account:
    fields = {"company": name, "type": "customer"}
    return Account.create(uuid4(), scope.workspace_id, fields, at=NOW)


def new_contact(scope: Scope, account_id: UUID, name: str = "Ada") -> Contact:
    fields = {"name": name}
    return Contact.create(uuid4(), scope.workspace_id, fields, at=NOW, account_id=account_id)


def save(log: EventLog, scope: Scope, *entities: Account | Contact | Member) -> None:
    with log.transaction(scope):
        log.append(*entities)


def rename(account: Account, name: str) -> None:
    account.revise({**account.values, "company": name}, at=event_time(account, NOW))


def load_names(log: EventLog, scope: Scope, *ids: UUID) -> list[str]:
    with log.transaction(scope):
        found = log.load_many(Account, ids)
    return [found[each].values["company"] for each in ids]


def test_each_id_is_read_once_and_gives_one_instance(log: EventLog, scope: Scope) -> None:
    accounts = [new_account(scope), new_account(scope)]
    save(log, scope, *accounts)
    reads: list[set[UUID]] = []

    def read(ids: object) -> dict[UUID, Account]:
        assert isinstance(ids, set)
        reads.append(ids)
        return log.load_many(Account, ids)

    ids, unknown = {each.id for each in accounts}, uuid4()
    with log.transaction(scope):
        loaded = LoadedEntities(log, read=read)
        loaded.load([*ids, unknown])
        first = loaded.get(Account, accounts[0].id)
        rename(first, "Changed")
        assert loaded.get(Account, accounts[0].id) is first
        assert loaded.find(Account, unknown) is None
        assert loaded.find(Contact, accounts[1].id) is None
    assert reads == [{*ids, unknown}]


def test_get_refuses_unknown_ids_other_kinds_and_stale_versions(
    log: EventLog, scope: Scope
) -> None:
    account = new_account(scope)
    save(log, scope, account)
    with log.scoped(scope):
        loaded = LoadedEntities(log)
        assert loaded.get(Account, account.id, expected_version=1).version == 1
        with pytest.raises(NotFound):
            loaded.get(Account, uuid4())
        with pytest.raises(NotFound):
            loaded.get(Contact, account.id)
        with pytest.raises(StaleVersion):
            loaded.get(Account, account.id, expected_version=2)


def test_staged_events_are_recorded_in_order_and_in_one_call(
    log: EventLog, scope: Scope, database: Connection
) -> None:
    old, new = new_account(scope, "Old"), new_account(scope, "New")
    save(log, scope, old)
    with log.transaction(scope):
        loaded = LoadedEntities(log)
        loaded.stage(new)
        account = loaded.get(Account, old.id)
        rename(account, "Renamed")
        loaded.stage(account)
        assert loaded.changed == [new, account]
        assert loaded.is_changed(old.id)
        position = loaded.append()
        assert loaded.changed == []
        assert loaded.append() == position
    rows = database.execute("SELECT position, stream_id FROM events ORDER BY position").fetchall()
    assert [row[1] for row in rows] == [old.id, new.id, old.id]
    assert rows[-1][0] == position


def test_metadata_of_an_event_is_added_to_that_of_the_scope(
    log: EventLog, scope: Scope, database: Connection
) -> None:
    one, other = new_account(scope), new_account(scope)
    save(log, scope, one, other)
    with log.transaction(scope):
        loaded = LoadedEntities(log)
        for entity_id, metadata in ((one.id, {"undoes": "c-1"}), (other.id, {})):
            account = loaded.get(Account, entity_id)
            rename(account, "Renamed")
            loaded.stage_events(account.collect_events(), metadata)
        loaded.append()
    rows = database.execute(
        "SELECT metadata FROM events WHERE stream_version = 2 ORDER BY position"
    ).fetchall()
    assert [row[0] for row in rows] == [{**scope.metadata(), "undoes": "c-1"}, scope.metadata()]


def test_discarded_events_are_dropped_and_staged_events_stay(log: EventLog, scope: Scope) -> None:
    account = new_account(scope)
    save(log, scope, account)
    with log.transaction(scope):
        loaded = LoadedEntities(log)
        first = loaded.get(Account, account.id)
        rename(first, "Accepted")
        loaded.stage(first)
        rename(first, "Refused")
        loaded.discard([account.id])
        again = loaded.get(Account, account.id)
        assert again is not first
        assert (again.values["company"], again.version) == ("Accepted", 2)
        assert not again.pending_events
        loaded.append()
    assert load_names(log, scope, account.id) == ["Accepted"]


def test_children_are_the_already_loaded_instances(log: EventLog, scope: Scope) -> None:
    account = new_account(scope)
    ada, bob = new_contact(scope, account.id), new_contact(scope, account.id, "Bob")
    save(log, scope, account, ada, bob)
    with log.transaction(scope):
        loaded = LoadedEntities(log)
        loaded.lock_accounts(exclusive=[account.id])
        contact = loaded.get(Contact, ada.id)
        contact.delete(at=NOW)
        loaded.load_children([account.id])
        children = loaded.children_of(account.id)
        assert [each.id for each in children] == [ada.id, bob.id]
        assert children[0] is contact
        assert loaded.get(Contact, bob.id) is children[1]


def test_locked_account_is_loaded_again(log: EventLog, scope: Scope) -> None:
    account = new_account(scope)
    save(log, scope, account)
    with log.transaction(scope):
        loaded = LoadedEntities(log)
        before = loaded.get(Account, account.id)
        _change_elsewhere(log, scope, account.id)
        assert loaded.get(Account, account.id) is before
        loaded.lock_accounts(shared=[account.id])
        assert loaded.get(Account, account.id).values["company"] == "Elsewhere"


def test_a_concurrent_write_is_an_integrity_error(log: EventLog, scope: Scope) -> None:
    account = new_account(scope)
    save(log, scope, account)

    def decide() -> None:
        with log.transaction(scope):
            loaded = LoadedEntities(log)
            mine = loaded.get(Account, account.id)
            _change_elsewhere(log, scope, account.id)
            rename(mine, "Mine")
            loaded.stage(mine)
            loaded.append()

    with pytest.raises(IntegrityError):
        decide()
    assert load_names(log, scope, account.id) == ["Elsewhere"]


def test_a_preview_locks_nothing_and_records_nothing(
    log: EventLog, scope: Scope, database: Connection
) -> None:
    account = new_account(scope)
    save(log, scope, account)
    with log.transaction(scope):
        loaded = LoadedEntities(log, is_preview=True)
        loaded.lock_accounts(exclusive=[account.id])
        locks = database.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
        assert locks == (0,)
        shown = loaded.get(Account, account.id)
        rename(shown, "Shown")
        loaded.stage(shown)
        with pytest.raises(AssertionError):
            loaded.append()


def test_claimed_times_follow_the_staged_events(log: EventLog, scope: Scope) -> None:
    member = Member.create(uuid4(), scope.workspace_id, {"name": "Ada"}, at=NOW)
    save(log, scope, member)
    appointments = [_new_appointment(scope, member.id, hours) for hours in (0, 1)]

    def append(*created: Appointment) -> None:
        with log.transaction(scope):
            loaded = LoadedEntities(log)
            loaded.stage(*created)
            loaded.append()

    append(*appointments)
    with pytest.raises(TimeTaken):
        append(_new_appointment(scope, member.id, 1))
    with log.transaction(scope):
        loaded = LoadedEntities(log)
        second = loaded.get(Appointment, appointments[1].id)
        second.delete(at=event_time(second, NOW))
        loaded.stage(second, _new_appointment(scope, member.id, 1))
        loaded.append()


def test_an_event_is_not_earlier_than_the_one_before_it(scope: Scope) -> None:
    account = new_account(scope)
    assert event_time(account, NOW - timedelta(hours=1)) == NOW
    assert event_time(account, NOW + timedelta(hours=1)) == NOW + timedelta(hours=1)


def _new_appointment(scope: Scope, member_id: UUID, hours: int) -> Appointment:
    fields = {
        "title": "Review",
        "memberId": str(member_id),
        "startsAt": (NOW + timedelta(hours=hours)).isoformat(),
        "durationMinutes": 60,
    }
    return Appointment.create(uuid4(), scope.workspace_id, fields, at=NOW)


def _change_elsewhere(log: EventLog, scope: Scope, account_id: UUID) -> None:
    """Rename the account in another thread and transaction."""

    def change() -> None:
        with log.transaction(scope):
            account = log.load(Account, account_id)
            rename(account, "Elsewhere")
            log.append(account)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(change).result()
