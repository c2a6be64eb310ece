"""Commands on entities: decisions, refusals and concurrent writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from commands.decisions import CommandOutcome
from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from domain.member import Member
from domain.note import Note
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from domain.shared.refusals import (
    AccountUnavailable,
    IsDeleted,
    NotAMember,
    NotFound,
    OpenOpportunities,
    StaleVersion,
    TransitionRefused,
)
from domain.task import Task
from eventlog.connections import Connection, write_pool
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from tests.support.databases import Urls

Call = Callable[[], CommandOutcome]

ACME = {"company": "Acme", "type": "customer"}


def clock() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def acme(commands: EntityCommands, scope: Scope) -> UUID:
    """An account."""
    return commands.create(scope, Account, ACME).entity.id


def events(database: Connection, entity_id: UUID) -> list[str]:
    """Return the topics of one stream."""
    rows = database.execute(
        "SELECT topic FROM events WHERE stream_id = %s ORDER BY stream_version", [entity_id]
    )
    return [row[0] for row in rows]


def named(company: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda values: {**values, "company": company}


def assigned(to: UUID) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda values: {**values, "assignedTo": to}


def test_children_are_deleted_and_restored_with_their_account(
    commands: EntityCommands, scope: Scope, acme: UUID, log: EventLog
) -> None:
    contact = commands.create(scope, Contact, {"name": "Ada"}, account_id=acme).entity.id
    note = commands.create(scope, Note, {"body": "x"}, account_id=acme).entity.id
    deleted_before = commands.create(scope, Task, {"title": "x"}, account_id=acme).entity.id
    commands.delete(scope, Task, deleted_before)
    commands.delete(scope, Account, acme)
    with log.scoped(scope):
        assert log.load(Contact, contact).deleted_with == acme
        assert log.load(Note, note).deleted_with == acme
        assert log.load(Task, deleted_before).deleted_with is None
    commands.restore(scope, Account, acme)
    with log.scoped(scope):
        assert not log.load(Contact, contact).is_deleted
        assert not log.load(Note, note).is_deleted
        assert log.load(Task, deleted_before).is_deleted


def test_account_with_open_opportunities_cannot_be_deleted(
    commands: EntityCommands, scope: Scope, acme: UUID, database: Connection
) -> None:
    deal = commands.create(scope, Opportunity, {"name": "Renewal"}, account_id=acme).entity.id
    with pytest.raises(OpenOpportunities) as refusal:
        commands.delete(scope, Account, acme)
    assert refusal.value == OpenOpportunities(acme, [deal])
    assert events(database, acme) == ["account.created"]
    commands.revise(scope, Opportunity, deal, lambda values: {**values, "stage": "lost"})
    commands.delete(scope, Account, acme)
    assert events(database, deal)[-1] == "opportunity.deleted"


def test_deleted_or_unknown_account_accepts_no_children(
    commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    contact = commands.create(scope, Contact, {"name": "Ada"}, account_id=acme).entity.id
    commands.delete(scope, Account, acme)
    for account in (acme, uuid4()):
        with pytest.raises(AccountUnavailable):
            commands.create(scope, Contact, {"name": "Ada"}, account_id=account)
    with pytest.raises(AccountUnavailable):
        commands.restore(scope, Contact, contact)
    with pytest.raises(IsDeleted):
        commands.revise(scope, Contact, contact, lambda values: values)


def test_entities_are_assigned_to_existing_members_only(
    commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    ada = commands.create(scope, Member, {"name": "Ada"}).entity.id
    foreign = commands.create(Scope(uuid4()), Member, {"name": "Bob"}).entity.id
    commands.revise(scope, Account, acme, assigned(ada))
    commands.delete(scope, Member, ada)
    commands.revise(scope, Account, acme, named("Acme Corp"))  # a deleted member keeps assignments
    for not_a_member in (foreign, acme, uuid4()):
        with pytest.raises(NotAMember):
            commands.revise(scope, Account, acme, assigned(not_a_member))
    with pytest.raises(NotAMember):
        commands.create(scope, Account, {**ACME, "assignedTo": ada})


@pytest.mark.parametrize("kind", [Account, Contact])
def test_entity_of_another_kind_or_workspace_is_not_found(
    commands: EntityCommands, scope: Scope, acme: UUID, kind: type[Entity]
) -> None:
    other_scope = Scope(uuid4()) if kind is Account else scope
    calls: list[Call] = [
        lambda: commands.revise(other_scope, kind, acme, lambda values: values),
        lambda: commands.delete(other_scope, kind, acme),
        lambda: commands.restore(other_scope, kind, acme),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()


def test_repeated_command_records_nothing_and_returns_a_position_that_covers_it(
    commands: EntityCommands, scope: Scope, acme: UUID, database: Connection
) -> None:
    calls: list[Call] = [
        lambda: commands.revise(scope, Account, acme, named("Acme Corp")),
        lambda: commands.delete(scope, Account, acme),
        lambda: commands.restore(scope, Account, acme),
    ]
    for call in calls:
        first, second = call(), call()
        assert second.position >= first.position
        assert second.entity.version == first.entity.version
    assert events(database, acme) == [
        "account.created",
        "account.updated",
        "account.deleted",
        "account.restored",
    ]


def test_position_of_a_repeated_command_covers_it_during_other_writes(
    commands: EntityCommands, scope: Scope, acme: UUID, log: EventLog
) -> None:
    """Followers stop below an unfinished writer, so the caller has to wait for that one."""
    with log.transaction(Scope(uuid4())):
        other = Account.create(uuid4(), uuid4(), ACME, at=clock())
        log.append(other)
        # This thread has the transaction open, so another thread sends the commands.
        first, second = in_another_thread(
            lambda: [commands.revise(scope, Account, acme, named("Acme Corp")) for _ in range(2)]
        )
    assert second.position >= first.position


def in_another_thread(function: Callable[[], Any]) -> Any:
    """Call the function in another thread and return its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(60)
    (result,) = results
    return result


def test_command_needs_only_one_connection(urls: Urls, scope: Scope) -> None:
    """With a second one, as many commands as connections could block each other forever."""
    with write_pool(urls.app, max_size=1) as pool:
        commands = EntityCommands(EventLog(pool), clock=clock, new_id=uuid4)
        acme = commands.create(scope, Account, ACME).entity.id
        contact = commands.create(scope, Contact, {"name": "Ada"}, account_id=acme).entity.id
        calls: list[Call] = [
            lambda: commands.revise(
                scope, Contact, contact, lambda values: {**values, "name": "x"}
            ),
            lambda: commands.delete(scope, Contact, contact),
            lambda: commands.restore(scope, Contact, contact),
            lambda: commands.delete(scope, Account, acme),
            lambda: commands.restore(scope, Account, acme),
        ]
        for call in calls:
            call()
            call()


def test_version_that_is_no_longer_current_is_stale(
    commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    commands.revise(scope, Account, acme, named("Acme Corp"), expected_version=1)
    calls: list[Call] = [
        lambda: commands.revise(scope, Account, acme, named("x"), expected_version=1),
        lambda: commands.delete(scope, Account, acme, expected_version=1),
        lambda: commands.restore(scope, Account, acme, expected_version=1),
    ]
    for call in calls:
        with pytest.raises(StaleVersion) as refusal:
            call()
        assert refusal.value == StaleVersion(acme, 1, 2)


def test_command_is_decided_again_after_a_concurrent_write(
    commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    concurrent: list[CommandOutcome] = []

    def change(values: dict[str, Any]) -> dict[str, Any]:
        if not concurrent:
            concurrent.append(commands.revise(scope, Account, acme, named("Acme Corp")))
        return {**values, "priority": "high"}

    values = commands.revise(scope, Account, acme, change).entity.values
    assert (values["company"], values["priority"]) == ("Acme Corp", "high")


def test_concurrent_write_is_a_stale_version_if_the_command_names_one(
    commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    def change(values: dict[str, Any]) -> dict[str, Any]:
        for company in ("Acme Corp", "Acme Inc"):
            commands.revise(scope, Account, acme, named(company))
        return {**values, "priority": "high"}

    with pytest.raises(StaleVersion) as refusal:
        commands.revise(scope, Account, acme, change, expected_version=1)
    assert refusal.value == StaleVersion(acme, 1, 3)


def test_account_is_not_stale_after_a_concurrent_change_of_a_child(
    commands: EntityCommands, scope: Scope, acme: UUID, urls: Urls, database: Connection
) -> None:
    contact = commands.create(scope, Contact, {"name": "Ada"}, account_id=acme).entity.id
    ticks: list[int] = []

    def late_clock() -> datetime:
        """Rename the contact once the deletion of the account has loaded everything."""
        if not ticks:
            ticks.append(1)
            in_another_thread(
                lambda: commands.revise(
                    scope, Contact, contact, lambda values: {**values, "name": "Ada King"}
                )
            )
        return clock()

    with write_pool(urls.app) as pool:
        slow = EntityCommands(EventLog(pool), clock=late_clock, new_id=uuid4)
        slow.delete(scope, Account, acme, expected_version=1)
    assert events(database, contact) == ["contact.created", "contact.updated", "contact.deleted"]
    assert events(database, acme) == ["account.created", "account.deleted"]


def test_refused_command_records_nothing(
    commands: EntityCommands, scope: Scope, acme: UUID, database: Connection
) -> None:
    won = {"name": "Renewal", "stage": "won"}
    deal = commands.create(scope, Opportunity, won, account_id=acme).entity.id
    with pytest.raises(TransitionRefused):
        commands.revise(
            scope, Opportunity, deal, lambda values: {**values, "stage": "lost", "name": "x"}
        )
    assert events(database, deal) == ["opportunity.created"]


def test_slow_clock_never_dates_an_event_before_the_previous_one(
    commands: EntityCommands, scope: Scope, acme: UUID, log: EventLog
) -> None:
    behind = EntityCommands(log, clock=lambda: datetime(2020, 1, 1, tzinfo=UTC), new_id=uuid4)
    with log.scoped(scope):
        created_on = log.load(Account, acme).created_on
    assert behind.revise(scope, Account, acme, named("x")).entity.modified_on == created_on
