"""Commands on entities: what they decide on, and what happens where others write meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from commands.entities import CommandOutcome, EntityCommands
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

Ask = Callable[[], CommandOutcome]

ACME = {"company": "Acme", "type": "customer"}


def clock() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def acme(commands: EntityCommands, scope: Scope) -> UUID:
    """An account."""
    return commands.create(scope, Account, ACME).entity.id


def events(database: Connection, entity_id: UUID) -> list[str]:
    """The topics of one stream."""
    rows = database.execute(
        "SELECT topic FROM events WHERE stream_id = %s ORDER BY stream_version", [entity_id]
    )
    return [row[0] for row in rows]


def named(company: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda facts: {**facts, "company": company}


def assigned(to: UUID) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda facts: {**facts, "assignedTo": to}


def test_deleting_an_account_takes_along_what_hangs_on_it_and_restoring_brings_that_back(
    commands: EntityCommands, scope: Scope, acme: UUID, log: EventLog
) -> None:
    contact = commands.create(scope, Contact, {"name": "Ada"}, account_id=acme).entity.id
    note = commands.create(scope, Note, {"body": "x"}, account_id=acme).entity.id
    gone_before = commands.create(scope, Task, {"title": "x"}, account_id=acme).entity.id
    commands.delete(scope, Task, gone_before)
    commands.delete(scope, Account, acme)
    with log.scoped(scope):
        assert log.load(Contact, contact).deleted_with == acme
        assert log.load(Note, note).deleted_with == acme
        assert log.load(Task, gone_before).deleted_with is None
    commands.restore(scope, Account, acme)
    with log.scoped(scope):
        assert not log.load(Contact, contact).is_deleted
        assert not log.load(Note, note).is_deleted
        assert log.load(Task, gone_before).is_deleted


def test_an_account_with_open_opportunities_is_not_deleted(
    commands: EntityCommands, scope: Scope, acme: UUID, database: Connection
) -> None:
    deal = commands.create(scope, Opportunity, {"name": "Renewal"}, account_id=acme).entity.id
    with pytest.raises(OpenOpportunities) as refusal:
        commands.delete(scope, Account, acme)
    assert refusal.value == OpenOpportunities(acme, [deal])
    assert events(database, acme) == ["account.created"]
    commands.revise(scope, Opportunity, deal, lambda facts: {**facts, "stage": "lost"})
    commands.delete(scope, Account, acme)
    assert events(database, deal)[-1] == "opportunity.deleted"


def test_nothing_is_added_to_an_account_that_is_deleted_or_never_was(
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
        commands.revise(scope, Contact, contact, lambda facts: facts)


def test_things_are_assigned_to_members_only(
    commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    ada = commands.create(scope, Member, {"name": "Ada"}).entity.id
    foreign = commands.create(Scope(uuid4()), Member, {"name": "Bob"}).entity.id
    commands.revise(scope, Account, acme, assigned(ada))
    commands.delete(scope, Member, ada)
    commands.revise(scope, Account, acme, named("Acme Corp"))  # who left keeps what was assigned
    for nobody in (foreign, acme, uuid4()):
        with pytest.raises(NotAMember):
            commands.revise(scope, Account, acme, assigned(nobody))
    with pytest.raises(NotAMember):
        commands.create(scope, Account, {**ACME, "assignedTo": ada})


@pytest.mark.parametrize("kind", [Account, Contact])
def test_what_is_of_another_kind_or_workspace_is_not_found(
    commands: EntityCommands, scope: Scope, acme: UUID, kind: type[Entity]
) -> None:
    where = Scope(uuid4()) if kind is Account else scope
    asked: list[Ask] = [
        lambda: commands.revise(where, kind, acme, lambda facts: facts),
        lambda: commands.delete(where, kind, acme),
        lambda: commands.restore(where, kind, acme),
    ]
    for command in asked:
        with pytest.raises(NotFound):
            command()


def test_asking_twice_records_once_and_tells_a_position_by_which_it_is_there(
    commands: EntityCommands, scope: Scope, acme: UUID, database: Connection
) -> None:
    asked: list[Ask] = [
        lambda: commands.revise(scope, Account, acme, named("Acme Corp")),
        lambda: commands.delete(scope, Account, acme),
        lambda: commands.restore(scope, Account, acme),
    ]
    for command in asked:
        first, second = command(), command()
        assert second.position >= first.position
        assert second.entity.version == first.entity.version
    assert events(database, acme) == [
        "account.created",
        "account.updated",
        "account.deleted",
        "account.restored",
    ]


def test_asking_twice_tells_a_position_that_covers_it_while_others_are_still_writing(
    commands: EntityCommands, scope: Scope, acme: UUID, log: EventLog
) -> None:
    """Followers stop below a writer that is not done; whoever asks has to wait for that one."""
    with log.transaction(Scope(uuid4())):
        other = Account.create(uuid4(), uuid4(), ACME, at=clock())
        log.append(other)
        # In this thread the transaction is current: somebody else has to ask.
        first, second = in_another_thread(
            lambda: [commands.revise(scope, Account, acme, named("Acme Corp")) for _ in range(2)]
        )
    assert second.position >= first.position


def in_another_thread(ask: Callable[[], Any]) -> Any:
    """What `ask` returns there."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()
    thread.join(60)
    (answer,) = answers
    return answer


def test_a_command_needs_no_second_connection(urls: Urls, scope: Scope) -> None:
    """With as many commands as connections, each would wait for one that another one has."""
    with write_pool(urls.app, max_size=1) as pool:
        commands = EntityCommands(EventLog(pool), clock=clock, new_id=uuid4)
        acme = commands.create(scope, Account, ACME).entity.id
        contact = commands.create(scope, Contact, {"name": "Ada"}, account_id=acme).entity.id
        asked: list[Ask] = [
            lambda: commands.revise(scope, Contact, contact, lambda facts: {**facts, "name": "x"}),
            lambda: commands.delete(scope, Contact, contact),
            lambda: commands.restore(scope, Contact, contact),
            lambda: commands.delete(scope, Account, acme),
            lambda: commands.restore(scope, Account, acme),
        ]
        for command in asked:
            command()
            command()


def test_a_version_that_is_no_longer_the_last_is_stale(
    commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    commands.revise(scope, Account, acme, named("Acme Corp"), expected_version=1)
    asked: list[Ask] = [
        lambda: commands.revise(scope, Account, acme, named("x"), expected_version=1),
        lambda: commands.delete(scope, Account, acme, expected_version=1),
        lambda: commands.restore(scope, Account, acme, expected_version=1),
    ]
    for command in asked:
        with pytest.raises(StaleVersion) as refusal:
            command()
        assert refusal.value == StaleVersion(acme, 1, 2)


def test_whoever_is_outrun_decides_again_on_what_is_there_now(
    commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    outran: list[CommandOutcome] = []

    def change(facts: dict[str, Any]) -> dict[str, Any]:
        if not outran:
            outran.append(commands.revise(scope, Account, acme, named("Acme Corp")))
        return {**facts, "priority": "high"}

    facts = commands.revise(scope, Account, acme, change).entity.values
    assert (facts["company"], facts["priority"]) == ("Acme Corp", "high")


def test_whoever_is_outrun_and_meant_a_version_hears_which_one_there_is(
    commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    def change(facts: dict[str, Any]) -> dict[str, Any]:
        for company in ("Acme Corp", "Acme Inc"):
            commands.revise(scope, Account, acme, named(company))
        return {**facts, "priority": "high"}

    with pytest.raises(StaleVersion) as refusal:
        commands.revise(scope, Account, acme, change, expected_version=1)
    assert refusal.value == StaleVersion(acme, 1, 3)


def test_an_account_is_not_stale_because_something_on_it_changed_meanwhile(
    commands: EntityCommands, scope: Scope, acme: UUID, urls: Urls, database: Connection
) -> None:
    contact = commands.create(scope, Contact, {"name": "Ada"}, account_id=acme).entity.id
    ticks: list[int] = []

    def late_clock() -> datetime:
        """While the account's delete has loaded everything, somebody renames the contact."""
        if not ticks:
            ticks.append(1)
            in_another_thread(
                lambda: commands.revise(
                    scope, Contact, contact, lambda facts: {**facts, "name": "Ada King"}
                )
            )
        return clock()

    with write_pool(urls.app) as pool:
        slow = EntityCommands(EventLog(pool), clock=late_clock, new_id=uuid4)
        slow.delete(scope, Account, acme, expected_version=1)
    assert events(database, contact) == ["contact.created", "contact.updated", "contact.deleted"]
    assert events(database, acme) == ["account.created", "account.deleted"]


def test_a_refusal_records_nothing(
    commands: EntityCommands, scope: Scope, acme: UUID, database: Connection
) -> None:
    won = {"name": "Renewal", "stage": "won"}
    deal = commands.create(scope, Opportunity, won, account_id=acme).entity.id
    with pytest.raises(TransitionRefused):
        commands.revise(
            scope, Opportunity, deal, lambda facts: {**facts, "stage": "lost", "name": "x"}
        )
    assert events(database, deal) == ["opportunity.created"]


def test_a_slow_clock_never_puts_an_event_before_the_last_one(
    commands: EntityCommands, scope: Scope, acme: UUID, log: EventLog
) -> None:
    behind = EntityCommands(log, clock=lambda: datetime(2020, 1, 1, tzinfo=UTC), new_id=uuid4)
    with log.scoped(scope):
        created_on = log.load(Account, acme).created_on
    assert behind.revise(scope, Account, acme, named("x")).entity.modified_on == created_on
