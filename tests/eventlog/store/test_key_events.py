"""What the API's database role cannot do with API keys: the attacks with a stolen password."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from commands.entities import EntityCommands
from commands.keys import IssuedKey, digest, issue_key, parse_token
from domain.api_key import OPERATORS, ApiKey
from domain.member import Member
from domain.shared.refusals import InvalidFields, KeyNotAccepted
from eventlog.connections import Connection, set_workspace, write_pool
from eventlog.scope import Credential, Scope
from eventlog.store.log import EventLog
from tests.support.databases import Urls
from tests.support.keys import credential, issue_first_key, issue_operator_key

INSERT = """
INSERT INTO events (workspace_id, stream_id, stream_version, topic, data, metadata, occurred_at)
VALUES (%s, %s, 1, %s, %s, '{}', now())
"""
APPEND = "SELECT append_key_events(%s, %s, '{}', %s, %s)"
APPEND_DIRECTLY = (
    "SELECT append_events(%s, %s, '{}')",
    "SELECT append_events_each(%s, %s)",
    "SELECT append_events_together(ARRAY[%s::uuid], json_build_array(%s::json))",
    """SELECT append_event(%s, (e->>'stream')::uuid, 1, e->>'topic', NULL, e->'data', '{}', now())
         FROM (SELECT %s::json -> 0 AS e) AS given""",
)
FIELDS = {"name": "mine", "role": "admin", "secretSha256": digest("known to the attacker")}
TOPICS = ("api_key.issued", "api_key.updated", "api_key.revoked")
MEMBER_KEY = {"name": "k", "role": "member"}


@dataclass
class Tenant:
    """A workspace with an admin key."""

    id: UUID
    issued: IssuedKey

    @property
    def credential(self) -> Credential:
        """Id and secret of the admin key."""
        return credential(self.issued)


@pytest.fixture
def tenant(urls: Urls, workspace: UUID) -> Tenant:
    """The workspace of the test, with an admin key."""
    return Tenant(workspace, issue_first_key(urls.owner, workspace))


@pytest.fixture(params=["app", "sender"])
def stolen(urls: Urls, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A connection with a stolen password of a role that may insert events."""
    with psycopg.connect(getattr(urls, request.param), autocommit=True) as connection:
        yield connection


@pytest.fixture
def app(urls: Urls) -> Iterator[Connection]:
    """A connection as annals_app."""
    with psycopg.connect(urls.app, autocommit=True) as connection:
        yield connection


def batch(topic: str = "api_key.issued", stream: UUID | None = None) -> str:
    """Return a batch with one event, as the recorder sends it."""
    event: dict[str, Any] = {
        "stream": stream or uuid4(),
        "version": 1,
        "topic": topic,
        "data": {"fields": FIELDS},
        "meta": {},
        "occurred": datetime.now(UTC),
    }
    return orjson.dumps([event]).decode()


@pytest.mark.parametrize("topic", TOPICS)
def test_key_event_cannot_be_inserted(stolen: Connection, tenant: Tenant, topic: str) -> None:
    data = orjson.dumps({"fields": FIELDS}).decode()
    with stolen.transaction():
        set_workspace(stolen, tenant.id)
        with pytest.raises(InsufficientPrivilege):
            stolen.execute(INSERT, (tenant.id, uuid4(), topic, data))
        stolen.execute("ROLLBACK")
    for statement in APPEND_DIRECTLY:
        with pytest.raises(InsufficientPrivilege):
            stolen.execute(statement, (tenant.id, batch(topic)))


@pytest.mark.parametrize("topic", [*TOPICS, "workspace.created"])
def test_nothing_can_be_recorded_among_the_operators(stolen: Connection, topic: str) -> None:
    for statement in APPEND_DIRECTLY:
        with pytest.raises(InsufficientPrivilege):
            stolen.execute(statement, (OPERATORS, batch(topic)))


def test_function_accepts_only_the_secret_of_a_live_admin_key(
    app: Connection, urls: Urls, tenant: Tenant
) -> None:
    now = datetime.now(UTC)
    stranger = issue_first_key(urls.owner, uuid4())
    operator = issue_operator_key(urls.owner)
    expired = {**MEMBER_KEY, "role": "admin", "expiresAt": (now - timedelta(minutes=1)).isoformat()}
    mine = [
        issue_first_key(urls.owner, tenant.id, fields)
        for fields in (MEMBER_KEY, {"name": "a", "role": "auditor"}, expired)
    ]
    key_id, secret = tenant.credential.key_id, tenant.credential.secret
    refused = [
        *(credential(each) for each in (stranger, operator, *mine)),
        Credential(key_id, "wrong"),
        Credential(key_id, digest(secret)),  # what the database stores is not enough
        Credential(uuid4(), secret),
    ]
    for each in refused:
        with pytest.raises(InsufficientPrivilege):
            app.execute(APPEND, (tenant.id, batch(), each.key_id, each.secret))
    for value in (None, ""):
        with pytest.raises(InsufficientPrivilege):
            app.execute(APPEND, (tenant.id, batch(), key_id, value))
    app.execute(APPEND, (tenant.id, batch(), key_id, secret))


def test_function_refuses_revoked_keys_changed_roles_and_members_who_left(
    app: Connection, urls: Urls, log: EventLog, commands: EntityCommands, tenant: Tenant
) -> None:
    scope = Scope(tenant.id, credential=tenant.credential)
    member = commands.create(scope, Member, {"name": "Grace"}).entity.id
    given = {"name": "k", "role": "admin"}
    revoked, demoted = (issue_key(commands, scope, given) for _ in range(2))
    of_member = issue_key(commands, scope, {**given, "memberId": str(member)})
    for each in (revoked, demoted, of_member):
        key = credential(each)
        app.execute(APPEND, (tenant.id, batch(), key.key_id, key.secret))
    commands.delete(scope, ApiKey, revoked.outcome.entity.id)
    commands.revise(
        scope, ApiKey, demoted.outcome.entity.id, lambda values: {**values, "role": "member"}
    )
    commands.delete(scope, Member, member)
    for each in (revoked, demoted, of_member):
        key = credential(each)
        with pytest.raises(InsufficientPrivilege):
            app.execute(APPEND, (tenant.id, batch(), key.key_id, key.secret))


def test_function_appends_nothing_but_events_of_keys(app: Connection, tenant: Tenant) -> None:
    key = tenant.credential
    for topic in ("account.created", "api_keys.issued", "xapi_key.issued"):
        with pytest.raises(InsufficientPrivilege):
            app.execute(APPEND, (tenant.id, batch(topic), key.key_id, key.secret))


def test_owner_records_keys_and_nothing_else(urls: Urls, tenant: Tenant) -> None:
    with psycopg.connect(urls.owner, autocommit=True) as owner:
        for statement in APPEND_DIRECTLY:
            with pytest.raises(InsufficientPrivilege):
                owner.execute(statement, (tenant.id, batch("account.created")))


def test_functions_run_for_the_roles_that_need_them_only(urls: Urls) -> None:
    roles = ("app", "projector", "sender")
    for role in roles:
        with psycopg.connect(getattr(urls, role), autocommit=True) as connection:
            may = connection.execute(
                "SELECT has_function_privilege(oid, 'EXECUTE') FROM pg_proc"
                " WHERE proname = ANY(%s) ORDER BY proname",
                (["append_key_events", "is_live_admin_key"],),
            ).fetchall()
        assert may == [(role == "app",), (False,)], role


def test_commands_without_an_admin_key_record_no_key(
    commands: EntityCommands, urls: Urls, tenant: Tenant
) -> None:
    member = credential(issue_first_key(urls.owner, tenant.id, MEMBER_KEY))
    with pytest.raises(KeyNotAccepted):
        issue_key(commands, Scope(tenant.id, credential=member), {"name": "k", "role": "admin"})
    scope = Scope(tenant.id, credential=tenant.credential)
    issued = issue_key(commands, scope, MEMBER_KEY)
    assert parse_token(issued.token) is not None
    with pytest.raises(InvalidFields):
        issue_key(commands, scope, {"name": "k", "role": "operator"})


def test_transaction_with_a_key_rolls_back_as_a_whole(urls: Urls, tenant: Tenant) -> None:
    scope = Scope(tenant.id, credential=tenant.credential)
    with write_pool(urls.app) as pool:
        log = EventLog(pool)
        commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)
        wrong = replace(scope, credential=Credential(tenant.credential.key_id, "wrong"))

        def create_member_and_key() -> None:
            with log.transaction(scope):
                commands.create(scope, Member, {"name": "Grace"}, entity_id=member)
                issue_key(commands, wrong, MEMBER_KEY)

        member = uuid4()
        with pytest.raises(KeyNotAccepted):
            create_member_and_key()
        with log.scoped(scope):
            assert log.load_many(Member, [member]) == {}
