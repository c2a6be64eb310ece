"""Commands that share transactions: each has its own outcome, and none touches its neighbours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import OperationalError

from commands.committing.committer import BATCH_MAX, Committer
from commands.decisions import CommandOutcome, Decision
from commands.entities import EntityCommands
from commands.idempotency import (
    Answer,
    IdempotencyKey,
    KeyedRequest,
    KeyInFlight,
    KeyReused,
)
from commands.loaded import LoadedEntities
from domain.account import Account
from domain.api_key import ApiKey
from domain.appointment import Appointment
from domain.contact import Contact
from domain.member import Member
from domain.shared.entity import Entity
from domain.shared.refusals import (
    AccountUnavailable,
    InvalidFields,
    NotAMember,
    NotFound,
    StaleVersion,
)
from eventlog import connections
from eventlog.connections import SHARED_WRITER, Connection
from eventlog.libpq.rows import Statement
from eventlog.locks import ACCOUNT_LOCK
from eventlog.scope import Scope
from eventlog.store import shared
from eventlog.store.cache import DECIDED_VERSION_MIN
from eventlog.store.log import EventLog
from eventlog.store.shared import CannotShare, SharedTransaction, SharedTransactions
from tests.support.api_server import free_port
from tests.support.databases import Urls
from tests.support.examples import EXAMPLES, Example
from tests.support.waiting import wait_until

T = TypeVar("T")
Asked = tuple[Scope, Decision]
Run = Callable[[Committer], Awaitable[T]]

DAY_S = 86_400
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ACME = {"company": "Acme", "type": "customer"}


def named(company: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda values: {**values, "company": company}


class Shared:
    """Executes commands by a committer, in an event loop of its own for each call."""

    def __init__(self, log: EventLog, url: str) -> None:
        self._log = log
        self._url = url

    def run(self, ask: Run[T]) -> T:
        """Await what `ask` makes of a committer."""

        async def run() -> T:
            transactions = SharedTransactions(self._log, self._url)
            await transactions.open()
            committer = Committer(self._log, transactions, window_s=DAY_S)
            try:
                return await ask(committer)
            finally:
                await committer.close()
                await transactions.close()

        return asyncio.run(run())

    def execute(self, *asked: Asked) -> list[Any]:
        """Execute commands that arrive together; return the outcome or error of each."""

        async def ask(committer: Committer) -> list[Any]:
            done = (committer.run(scope, decision) for scope, decision in asked)
            return await asyncio.gather(*done, return_exceptions=True)

        return self.run(ask)


@pytest.fixture
def together(log: EventLog, urls: Urls) -> Shared:
    return Shared(log, urls.app)


@pytest.fixture
def acme(commands: EntityCommands, scope: Scope) -> UUID:
    """An account."""
    return commands.create(scope, Account, ACME).entity.id


def creating(commands: EntityCommands, scope: Scope, company: str = "Acme") -> Asked:
    return scope, commands.creating(scope.workspace_id, Account, {**ACME, "company": company})


def transactions_of(database: Connection, *ids: UUID) -> int:
    """The number of transactions that have recorded events of these entities."""
    row = database.execute(
        "SELECT count(DISTINCT xmin::text) FROM events WHERE stream_id = ANY(%s)", [list(ids)]
    ).fetchone()
    assert row is not None
    return int(row[0])


def streams(database: Connection) -> list[tuple[str, int]]:
    rows = database.execute("SELECT topic, stream_version FROM events ORDER BY position")
    return [(row[0], row[1]) for row in rows]


def test_commands_that_arrive_together_share_a_transaction(
    together: Shared, commands: EntityCommands, scope: Scope, database: Connection
) -> None:
    asked = [
        creating(commands, replace(scope, command=f"c{n}", command_id=str(uuid4())), f"Company {n}")
        for n in range(BATCH_MAX)
    ]
    outcomes = together.execute(*asked)
    ids = [each.entity.id for each in outcomes]
    assert transactions_of(database, *ids) == 1
    rows = database.execute("SELECT stream_id, position, metadata FROM events ORDER BY position")
    found = {row[0]: (row[1], row[2]["command"], row[2]["commandId"]) for row in rows}
    for (given, _), outcome in zip(asked, outcomes, strict=True):
        expected = (outcome.position, given.command, given.command_id)
        assert found[outcome.entity.id] == expected


def test_a_refusal_is_heard_by_its_own_command_alone(
    together: Shared, commands: EntityCommands, scope: Scope, acme: UUID, database: Connection
) -> None:
    wrong = commands.revising(Account, acme, lambda values: {**values, "type": "unheard-of"})
    unknown = commands.revising(Account, uuid4(), named("x"))
    stale = commands.revising(Account, acme, named("y"), expected_version=7)
    stranger = str(uuid4())
    left = commands.revising(Account, acme, lambda values: {**values, "assignedTo": stranger})
    right = commands.revising(Account, acme, named("Renamed"))
    asked = [(scope, each) for each in (wrong, unknown, stale, left, right)]
    *refused, done = together.execute(*asked)
    assert [type(each) for each in refused] == [InvalidFields, NotFound, StaleVersion, NotAMember]
    assert (done.entity.version, done.entity.values["company"]) == (2, "Renamed")
    assert streams(database) == [("account.created", 1), ("account.updated", 2)]


def test_commands_on_one_entity_follow_each_other(
    together: Shared, commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    first = commands.revising(Account, acme, named("First"), expected_version=1)
    second = commands.revising(
        Account, acme, lambda values: {**values, "nextAction": values["company"]}
    )
    third = commands.revising(Account, acme, named("Third"), expected_version=1)
    one, two, three = together.execute((scope, first), (scope, second), (scope, third))
    assert (one.entity.version, one.entity.values.get("nextAction")) == (2, None)
    assert (two.entity.version, two.entity.values["nextAction"]) == (3, "First")
    assert isinstance(three, StaleVersion)
    assert three.actual == 3
    assert one.position < two.position


def test_a_command_that_changes_nothing_gets_a_position_that_includes_all_before_it(
    together: Shared, commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    last = commands.create(scope, Account, ACME).position
    same = commands.revising(Account, acme, lambda values: values)
    changed, unchanged = together.execute(creating(commands, scope), (scope, same))
    assert unchanged.position >= last
    assert unchanged.entity.version == 1
    assert changed.position > last


def test_entities_that_a_decision_asks_for_are_read_for_it(
    together: Shared, commands: EntityCommands, scope: Scope, acme: UUID
) -> None:
    ada = commands.create(scope, Member, {"name": "Ada", "email": "ada@example.com"}).entity.id
    assigned = commands.revising(Account, acme, lambda values: {**values, "assignedTo": str(ada)})
    other = commands.revising(Account, acme, named("Renamed"))
    first, second = together.execute((scope, assigned), (scope, other))
    assert first.entity.values["assignedTo"] == str(ada)
    assert {first.entity.version, second.entity.version} == {2, 3}


def test_workspaces_share_transactions_but_no_entity(
    together: Shared, commands: EntityCommands, scope: Scope, acme: UUID, database: Connection
) -> None:
    other = Scope(uuid4(), scope.actor)
    ours = commands.revising(Account, acme, named("Ours"))
    theirs = commands.revising(Account, acme, named("Theirs"))
    for step in (1, -1):
        asked = [(other, theirs), (scope, ours), creating(commands, other)][::step]
        refused, changed, created = together.execute(*asked)[::step]
        assert isinstance(refused, NotFound)
        assert changed.entity.values["company"] == "Ours"
        assert created.entity.workspace_id == other.workspace_id
    rows = database.execute("SELECT workspace_id, count(*) FROM events GROUP BY 1").fetchall()
    assert dict(rows) == {scope.workspace_id: 2, other.workspace_id: 2}


def test_a_lone_command_takes_two_statements(
    together: Shared,
    commands: EntityCommands,
    scope: Scope,
    acme: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str] = []
    execute, fetch = psycopg.AsyncConnection.execute, Statement.fetch

    async def record_execute(connection: Any, statement: Any, *args: Any, **options: Any) -> Any:
        sent.append(statement if isinstance(statement, str) else statement.decode())
        return await execute(connection, statement, *args, **options)

    async def record_fetch(statement: Statement, connection: Any, values: Any) -> Any:
        sent.append(statement.text)
        return await fetch(statement, connection, values)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", record_execute)
    monkeypatch.setattr(Statement, "fetch", record_fetch)
    together.execute((scope, commands.revising(Account, acme, named("Renamed"))))
    statements = [each.split("(")[0].split()[-1] for each in sent if "(" in each]
    assert statements == ["read_streams", "append_event"]


# Conflicts


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, method: str, act: Callable[[], object]) -> Any:
    """Call `act` once in a thread before a transaction's next call of this method."""
    call = getattr(SharedTransaction, method)
    pending = [act]

    async def interrupt(self: SharedTransaction, *arguments: Any) -> Any:
        if pending:
            await asyncio.to_thread(pending.pop())
        return await call(self, *arguments)

    monkeypatch.setattr(SharedTransaction, method, interrupt)
    yield
    assert not pending, f"{method} was not called"


def test_after_a_concurrent_write_nothing_is_recorded_and_each_command_runs_alone(
    together: Shared,
    commands: EntityCommands,
    scope: Scope,
    acme: UUID,
    database: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conflicting = commands.revising(Account, acme, named("Late"))
    asked = [creating(commands, scope), (scope, conflicting), creating(commands, scope)]

    def write() -> None:
        commands.revise(scope, Account, acme, named("Early"))

    with interrupted(monkeypatch, "append", write):
        found = together.execute(*asked)
    assert [type(each) for each in found] == [CannotShare] * 3
    assert streams(database) == [("account.created", 1), ("account.updated", 2)]
    versions = [commands.run(*each).entity.version for each in asked]
    assert versions == [1, 3, 1], "a decision can be executed again"


def test_a_lock_that_is_not_granted_holds_no_other_command_up(
    together: Shared, commands: EntityCommands, scope: Scope, acme: UUID, database: Connection
) -> None:
    contact = commands.creating(scope.workspace_id, Contact, {"name": "Ada"}, account_id=acme)
    with database.transaction():
        database.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (ACCOUNT_LOCK, str(acme))
        )
        found = together.execute((scope, contact), creating(commands, scope))
    assert [type(each) for each in found] == [CannotShare] * 2
    outcomes = together.execute((scope, contact), creating(commands, scope))
    assert [each.entity.version for each in outcomes] == [1, 1]


def test_an_account_is_locked_against_its_deletion_until_the_commit(
    together: Shared,
    commands: EntityCommands,
    scope: Scope,
    acme: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contact = commands.creating(scope.workspace_id, Contact, {"name": "Ada"}, account_id=acme)
    deleting = threading.Thread(target=commands.delete, args=(scope, Account, acme))

    def delete() -> None:
        deleting.start()
        wait_until(lambda: is_waiting(together), "the deletion waits for the account")

    def is_waiting(_: Shared) -> bool:
        with psycopg.connect(together._url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND classid = %s", [ACCOUNT_LOCK]
            ).fetchone()
        return bool(row and row[0])

    with interrupted(monkeypatch, "append", delete):
        (outcome,) = together.execute((scope, contact))
    deleting.join()
    contact_id = outcome.entity.id
    deleted = commands.delete(scope, Contact, contact_id).entity
    assert isinstance(deleted, Contact)
    assert deleted.deleted_with == acme
    late = commands.creating(scope.workspace_id, Contact, {"name": "Bob"}, account_id=acme)
    (refused,) = together.execute((scope, late))
    assert isinstance(refused, AccountUnavailable)


# Lost connections


def end_connections(database: Connection) -> None:
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = %s",
        [SHARED_WRITER],
    )


@pytest.mark.parametrize(("method", "error"), [("read", CannotShare), ("append", OperationalError)])
def test_commands_hear_that_the_connection_was_lost(
    together: Shared,
    commands: EntityCommands,
    scope: Scope,
    acme: UUID,
    database: Connection,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    error: type[Exception],
) -> None:
    """Before events are sent, nothing was recorded; after that it is not known."""
    revising = commands.revising(Account, acme, named("Renamed"))
    with interrupted(monkeypatch, method, lambda: end_connections(database)):
        found = together.execute((scope, revising), creating(commands, scope))
    assert [type(each) for each in found] == [error] * 2
    assert streams(database) == [("account.created", 1)]


def test_the_next_command_finds_a_new_connection(
    together: Shared,
    commands: EntityCommands,
    scope: Scope,
    acme: UUID,
    database: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask(committer: Committer) -> list[Any]:
        found: list[Any] = []
        for company in ("First", "Second"):
            revising = commands.revising(Account, acme, named(company))
            try:
                found.append(await committer.run(scope, revising))
            except OperationalError:
                found.append(None)
        return found

    with interrupted(monkeypatch, "append", lambda: end_connections(database)):
        lost, done = together.run(ask)
    assert lost is None
    assert (done.entity.version, done.entity.values["company"]) == (2, "Second")


def test_commands_do_not_wait_one_after_the_other_for_a_database_that_is_away(
    log: EventLog, commands: EntityCommands, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "WRITE_POOL_WAIT_S", 0.5)
    away = Shared(log, f"postgresql://127.0.0.1:{free_port()}/annals?user=annals_app")
    begun = []
    begin = SharedTransactions.begin

    def count(transactions: SharedTransactions, **options: Any) -> Any:
        begun.append(options)
        return begin(transactions, **options)

    monkeypatch.setattr(SharedTransactions, "begin", count)
    found = away.execute(*(creating(commands, scope) for _ in range(BATCH_MAX * 3)))
    assert {type(each) for each in found} == {OperationalError}
    assert len(begun) == 1, "only the first batch has waited"


# What runs by itself


def test_kinds_that_claim_time_and_accounts_with_children_run_alone(
    commands: EntityCommands, scope: Scope, acme: UUID, together: Shared
) -> None:
    deciding = [
        commands.deleting(Account, acme),
        commands.deleting(Appointment, uuid4()),
        commands.acting(Appointment, uuid4(), lambda appointment, at: None),
    ]
    found = together.execute(*((scope, each) for each in deciding))
    assert [type(each) for each in found] == [CannotShare] * 3


def test_a_long_stream_runs_alone_unless_its_state_is_kept(
    together: Shared,
    commands: EntityCommands,
    scope: Scope,
    acme: UUID,
    log: EventLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(12):
        commands.revise(scope, Account, acme, named(f"Name {number}"))
    monkeypatch.setattr(shared, "STREAM_EVENTS_MAX", 6)
    revising = commands.revising(Account, acme, named("Renamed"))
    log.cache.__init__()  # type: ignore[misc]
    (found,) = together.execute((scope, revising))
    assert isinstance(found, CannotShare)
    commands.run(scope, revising)  # keeps the state
    (outcome,) = together.execute((scope, commands.revising(Account, acme, named("Again"))))
    assert (outcome.entity.version, outcome.entity.values["company"]) == (15, "Again")


# States that are kept


@pytest.mark.parametrize(
    "example",
    [each for each in EXAMPLES if not each.kind.CLAIMS_TIME and each.kind is not ApiKey],
    ids=lambda each: each.kind.KIND,
)
def test_the_state_that_a_command_leaves_is_kept_as_it_is_read(
    together: Shared, commands: EntityCommands, scope: Scope, log: EventLog, example: Example
) -> None:
    kind, entity_id = example.kind, uuid4()
    account_id = commands.create(scope, Account, ACME).entity.id
    of_account = {"account_id": account_id} if kind.BELONGS_TO_ACCOUNT else {}
    entity = kind.create(entity_id, scope.workspace_id, example.values, at=NOW, **of_account)
    with log.scoped(scope):
        log.append(entity)
    before = example.values[example.field]
    steps: list[dict[str, Any]] = [
        {example.field: example.value},
        {example.field: before, "customFields": {"größe": "XL", "x": 1.5, "y": True}},
        {example.field: example.value},
        {example.field: before, "customFields": {}},
    ]
    for version, step in enumerate(steps, start=2):
        revising = commands.revising(kind, entity_id, partial(_merged, step))
        (outcome,) = together.execute((scope, revising))
        assert outcome.entity.version == version
        kept = log.cache.find(scope.workspace_id, entity_id)
        if version < DECIDED_VERSION_MIN:
            assert kept is None, "short streams would replace the states of others"
            continue
        assert kept is not None
        with log.scoped(scope):
            read = EventLog(log._log_recorder.pool).load(kind, entity_id)
        assert kept.__dict__ == read.__dict__


def _merged(step: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    return {**values, **step}


def test_commands_of_one_batch_leave_the_state_after_the_last_of_them(
    together: Shared, commands: EntityCommands, scope: Scope, acme: UUID, log: EventLog
) -> None:
    renaming = [commands.revising(Account, acme, named(f"Name {n}")) for n in range(5)]
    outcomes = together.execute(*((scope, each) for each in renaming))
    assert [each.entity.version for each in outcomes] == [2, 3, 4, 5, 6]
    kept = log.cache.find(scope.workspace_id, acme)
    assert kept is not None
    assert (kept.version, kept.values["company"]) == (6, "Name 4")
    kept_by = outcomes[-1].entity
    kept_by.values["company"] = "of the caller"
    assert kept.values["company"] == "Name 4"


def test_what_is_not_recorded_is_not_kept(
    together: Shared, commands: EntityCommands, scope: Scope, acme: UUID, log: EventLog
) -> None:
    for number in range(3):
        commands.revise(scope, Account, acme, named(f"Name {number}"))

    def leaves_events(loaded: LoadedEntities) -> Entity:
        account = loaded.get(Account, acme)
        account.revise({**account.values, "company": "never staged"}, at=account.modified_on)
        return account

    def refuses(loaded: LoadedEntities) -> Entity:
        loaded.stage(leaves_events(loaded))
        raise InvalidFields([])

    unchanged = commands.acting(Account, acme, lambda account, at: None)
    asked = [Decision(leaves_events, (acme,)), Decision(refuses, (acme,)), unchanged]
    kinds = [CommandOutcome, InvalidFields, CommandOutcome]
    assert [type(each) for each in together.execute(*((scope, each) for each in asked))] == kinds
    assert log.cache.find(scope.workspace_id, acme) is None
    with log.scoped(scope):
        assert log.load(Account, acme).version == 4, "what a refused decision staged was recorded"

    def write_first() -> None:
        commands.revise(scope, Account, acme, named("First"))

    late = commands.revising(Account, acme, named("Late"))
    with pytest.MonkeyPatch.context() as patch, interrupted(patch, "append", write_first):
        (found,) = together.execute((scope, late))
    assert isinstance(found, CannotShare)
    assert log.cache.find(scope.workspace_id, acme) is None


# Idempotency keys


def keyed(scope: Scope, key: str, request: bytes = b"r" * 32) -> KeyedRequest:
    return KeyedRequest(IdempotencyKey(scope.workspace_id, UUID(int=7), key), request, "token")


def answer(outcome: CommandOutcome) -> Answer:
    return Answer(201, (("ETag", str(outcome.entity.version)),), str(outcome.position).encode())


def execute_keyed(
    together: Shared, asked: Sequence[tuple[Scope, Decision, KeyedRequest]]
) -> list[Any]:
    async def ask(committer: Committer) -> list[Any]:
        done = (
            committer.run(scope, decision, keyed=request, answer=answer)
            for scope, decision, request in asked
        )
        return await asyncio.gather(*done, return_exceptions=True)

    return together.run(ask)


def test_each_request_with_a_key_has_its_own_stored_answer(
    together: Shared, commands: EntityCommands, scope: Scope, database: Connection
) -> None:
    other = Scope(uuid4(), scope.actor)
    asked = [
        (each, commands.creating(each.workspace_id, Account, ACME), keyed(each, key))
        for each in (scope, other)
        for key in ("a", "b")
    ]
    outcomes = execute_keyed(together, asked)
    ids = [each.entity.id for each in outcomes]
    assert len(set(ids)) == 4
    assert transactions_of(database, *ids) == 1
    again = execute_keyed(together, asked)
    assert again == [answer(each) for each in outcomes]
    assert transactions_of(database, *ids) == 1
    assert len(streams(database)) == 4


def test_a_key_counts_once_in_a_batch(
    together: Shared, commands: EntityCommands, scope: Scope, acme: UUID, database: Connection
) -> None:
    def create() -> Decision:
        return commands.creating(scope.workspace_id, Account, ACME)

    execute_keyed(together, [(scope, create(), keyed(scope, "used"))])
    refused = Decision.refused(InvalidFields([]))
    found = execute_keyed(
        together,
        [
            (scope, create(), keyed(scope, "twice")),
            (scope, create(), keyed(scope, "twice")),
            (scope, create(), keyed(scope, "used", b"x" * 32)),
            (scope, refused, keyed(scope, "refused")),
        ],
    )
    kinds = [CommandOutcome, KeyInFlight, KeyReused, InvalidFields]
    assert [type(each) for each in found] == kinds
    assert len(streams(database)) == 3
    (retried,) = execute_keyed(together, [(scope, create(), keyed(scope, "refused"))])
    assert isinstance(retried, CommandOutcome), "a refusal is not stored"
    (stored,) = execute_keyed(together, [(scope, refused, keyed(scope, "used"))])
    assert isinstance(stored, Answer), "a stored answer goes before a refusal"


def test_a_key_in_use_elsewhere_is_refused(
    together: Shared, commands: EntityCommands, scope: Scope, database: Connection
) -> None:
    first = commands.creating(scope.workspace_id, Account, ACME)
    request = keyed(scope, "k")

    def send_again() -> None:
        (found,) = execute_keyed(together, [(scope, first, request)])
        assert isinstance(found, KeyInFlight)

    with pytest.MonkeyPatch.context() as patch, interrupted(patch, "append", send_again):
        second = commands.creating(scope.workspace_id, Account, ACME)
        (outcome,) = execute_keyed(together, [(scope, second, request)])
    assert isinstance(outcome, CommandOutcome)
    assert len(streams(database)) == 1
