"""A request repeated with its idempotency key is done once and gets the same answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from eventsourcing.persistence import IntegrityError

from commands.entities import EntityCommands
from commands.idempotency import (
    MAINTAIN_PARTITIONS,
    Answer,
    IdempotencyKey,
    IdempotencyStore,
    KeyedRequest,
    KeyInFlight,
    KeyReused,
    request_digest,
)
from domain.account import Account
from domain.contact import Contact
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from runtime.settings import REPOSITORY, Settings
from tests.support.api_server import Api, ApiWorkspace, created, free_port, is_live
from tests.support.databases import Urls
from tests.support.waiting import TIMEOUT_S, wait_until

DAY_S = 86_400
CALLER, OTHER_CALLER = UUID(int=1), UUID(int=2)
ACME = {"company": "Acme", "type": "customer"}
ANSWER = Answer(201, (("etag", '"1"'), ("content-type", "application/json")), b'{"id":"1"}')
REQUEST = request_digest("POST", "/api/accounts", "application/json", b"{}")


def with_key(key: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": key or str(uuid4())}


def events_of(api: Api, workspace_id: UUID, topic: str = "account.created") -> list[UUID]:
    """Return the stream ids of the events of this topic, in order."""
    with (
        api.writing.log.transaction(Scope(workspace_id)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "SELECT stream_id FROM events WHERE workspace_id = %s AND topic = %s ORDER BY position",
            (workspace_id, topic),
        )
        return [row[0] for row in cursor]


def send_until_done(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Send a request again while the first one is in flight, and return the answer."""
    answers: list[httpx.Response] = []

    def is_done() -> bool:
        answers.append(send())
        is_in_flight = answers[-1].status_code == 409 and answers[-1].json()["code"] == "E5013"
        assert not is_in_flight or answers[-1].headers["Retry-After"] == "1"
        return not is_in_flight

    wait_until(is_done, "the first request is done")
    return answers[-1]


MUTATIONS: dict[str, Callable[[ApiWorkspace], tuple[str, str, Any]]] = {
    "create": lambda api_workspace: ("POST", "/api/accounts", ACME),
    "change": lambda api_workspace: (
        "PATCH",
        f"/api/accounts/{api_workspace.account()}",
        {"nextAction": "x"},
    ),
    "delete": lambda api_workspace: ("DELETE", f"/api/accounts/{api_workspace.account()}", None),
    "restore": lambda api_workspace: (
        "POST",
        f"/api/accounts/{api_workspace.account()}/restore",
        None,
    ),
    "workspace": lambda api_workspace: ("PATCH", "/api/workspace", {"name": "Other"}),
    "issue a key": lambda api_workspace: ("POST", "/api/keys", {"name": "x", "role": "member"}),
    "revoke a key": lambda api_workspace: ("DELETE", f"/api/keys/{issue_key(api_workspace)}", None),
    "undo": lambda api_workspace: (
        "POST",
        "/api/undo",
        {"eventPosition": create_account(api_workspace)},
    ),
}


def issue_key(api_workspace: ApiWorkspace) -> str:
    """Issue an API key and return its id."""
    return str(api_workspace.make("keys", name="x", role="member").json()["id"])


def create_account(api_workspace: ApiWorkspace) -> int:
    """Create an account and return its position."""
    return int(api_workspace.make("accounts", **ACME).headers["Annals-Position"])


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("header", ["Idempotency-Key", "X-Idempotency-Key"])
def test_repetition_gets_the_first_answer(
    api_workspace: ApiWorkspace, mutation: str, header: str
) -> None:
    method, path, body = MUTATIONS[mutation](api_workspace)
    client, key = api_workspace.client(), {header: str(uuid4())}
    first, again = (
        client.request(method, path, headers=key, json=body)
        if body
        else client.request(method, path, headers=key)
        for _ in range(2)
    )
    assert first.is_success, first.text
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    for name in ("ETag", "Location", "Annals-Position", "Annals-Command", "Content-Type"):
        assert again.headers.get(name) == first.headers.get(name)
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]


def test_every_mutation_accepts_an_idempotency_key(api: Api) -> None:
    document = api.client().get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            given = {each["name"] for each in operation.get("parameters", ())}
            accepts_key = {"Idempotency-Key", "X-Idempotency-Key"} <= given
            is_of_workspace = "operation" not in operation["tags"]
            assert accepts_key == (method != "get" and is_of_workspace), f"{method} {path}"


def test_repetition_gets_the_first_answer_after_later_changes(
    api_workspace: ApiWorkspace,
) -> None:
    client, url = api_workspace.client(), f"/api/accounts/{api_workspace.account()}"
    key = with_key()
    first = client.patch(url, headers=key, json={"nextAction": "Call"})
    client.patch(url, json={"nextAction": "Write"})
    assert client.patch(url, headers=key, json={"nextAction": "Call"}).content == first.content
    assert client.get(f"{url}?asOf=3").json()["nextAction"] == "Write"


def test_both_headers_may_name_one_key_and_quotes_are_ignored(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    both = {"Idempotency-Key": '"k-1"', "X-Idempotency-Key": "k-1"}
    first = created(client.post("/api/accounts", headers=both, json=ACME))
    again = client.post("/api/accounts", headers=with_key("k-1"), json=ACME)
    assert again.content == first.content


@pytest.mark.parametrize("key", ["", "k" * 201, "two words", 'a"b', "a\\b", "ключ", "a\tb"])
def test_invalid_key_is_400(api_workspace: ApiWorkspace, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    refused = api_workspace.client().post("/api/accounts", headers=headers, json=ACME)
    assert (refused.status_code, refused.json()["code"]) == (400, "E2035")


def test_two_different_keys_are_refused(api_workspace: ApiWorkspace) -> None:
    for headers in (
        [("Idempotency-Key", "a"), ("X-Idempotency-Key", "b")],
        [("Idempotency-Key", "a"), ("Idempotency-Key", "b")],
    ):
        refused = api_workspace.client().post("/api/accounts", headers=headers, json=ACME)
        assert refused.json()["code"] == "E2035"


def test_another_request_with_the_same_key_is_422(api_workspace: ApiWorkspace) -> None:
    client, key, url = (
        api_workspace.client(),
        with_key(),
        f"/api/accounts/{api_workspace.account()}",
    )
    merge = {**key, "Content-Type": "application/merge-patch+json"}
    assert client.patch(url, headers=key, json={"nextAction": "x"}).status_code == 200
    others = [
        client.patch(url, headers=key, json={"nextAction": "y"}),
        client.patch(url, headers=merge, content=b'{"nextAction":"x"}'),
        client.patch(
            f"/api/accounts/{api_workspace.account()}", headers=key, json={"nextAction": "x"}
        ),
        client.delete(url, headers=key),
    ]
    assert [(each.status_code, each.json()["code"]) for each in others] == [(422, "E2036")] * 4


def test_refusals_are_not_remembered(api_workspace: ApiWorkspace) -> None:
    client, key = api_workspace.client(), with_key()
    url = f"/api/accounts/{api_workspace.account()}"
    failures = [
        client.post("/api/accounts", headers=key, json={"company": ""}),
        client.post("/api/accounts", headers=key, content=b"{", params={}),
        client.patch(url, headers={**key, "If-Match": '"7"'}, json={"nextAction": "x"}),
        client.patch(f"/api/accounts/{uuid4()}", headers=key, json={"nextAction": "x"}),
        api_workspace.client("read-only").post("/api/accounts", headers=key, json=ACME),
    ]
    assert [each.status_code for each in failures] == [422, 415, 412, 404, 403]
    assert created(client.post("/api/accounts", headers=key, json=ACME))


def test_business_rule_is_checked_again(api_workspace: ApiWorkspace) -> None:
    client, key, account = api_workspace.client(), with_key(), api_workspace.account()
    deal = api_workspace.make("opportunities", name="Renewal", accountId=account).json()["id"]
    for _ in range(2):
        refused = client.delete(f"/api/accounts/{account}", headers=key)
        assert (refused.status_code, refused.json()["code"]) == (409, "E5001")
    client.patch(f"/api/opportunities/{deal}", json={"stage": "lost"})
    assert client.delete(f"/api/accounts/{account}", headers=key).status_code == 204


def test_keys_of_different_callers_are_independent(api: Api) -> None:
    here, there, key = api.new_workspace(), api.new_workspace(), with_key()
    answers = [
        created(client.post("/api/accounts", headers=key, json=ACME))
        for client in (here.client(), there.client(), here.client("member"))
    ]
    assert len({each.json()["id"] for each in answers}) == 3
    assert len(events_of(api, here.workspace_id)) == 2
    assert len(events_of(api, there.workspace_id)) == 1


def test_fifty_concurrent_requests_record_one_event_and_get_one_answer(
    api: Api, api_workspace: ApiWorkspace
) -> None:
    key, token = with_key(), api_workspace.token("member")
    clients = [api.client(token) for _ in range(50)]

    def send(client: httpx.Client) -> httpx.Response:
        return send_until_done(lambda: client.post("/api/accounts", headers=key, json=ACME))

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(send, clients))
    assert {each.status_code for each in answers} == {201}
    assert len({each.content for each in answers}) == 1
    assert sum("Idempotent-Replayed" not in each.headers for each in answers) == 1
    assert events_of(api, api_workspace.workspace_id) == [UUID(answers[0].json()["id"])]


def test_concurrent_changes_are_retried_within_their_transactions(
    api: Api, api_workspace: ApiWorkspace
) -> None:
    url, token = f"/api/accounts/{api_workspace.account()}", api_workspace.token("member")

    def send(number: int) -> httpx.Response:
        body = {"customFields": {f"n{number}": number}}
        return api.client(token).patch(url, headers=with_key(), json=body)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(8)))
    assert {each.status_code for each in answers} == {200}
    assert len(events_of(api, api_workspace.workspace_id, "account.updated")) == 8
    shown = api_workspace.client().get(f"{url}?asOf=9").json()
    assert shown["customFields"] == {f"n{number}": number for number in range(8)}


def test_issued_api_key_is_not_stored_in_clear_text(api: Api, api_workspace: ApiWorkspace) -> None:
    body = {"name": "x", "role": "member"}
    answer = created(api_workspace.client().post("/api/keys", headers=with_key("issue"), json=body))
    _, _, secret = answer.json()["token"].split("_", 2)
    with api.writing.log.transaction(Scope(api_workspace.workspace_id)) as connection:
        rows = connection.execute("SELECT answer FROM remembered_answers").fetchall()
    assert len(rows) == 1
    assert secret.encode() not in rows[0][0]
    assert answer.json()["id"].encode() not in rows[0][0]


# kill -9


@contextmanager
def crashing_api(settings: Settings, when: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run an API on the same database that kills itself at `when`; yield its URL and process."""
    port = free_port()
    names = ("owner_url", "app_url", "projector_url")
    given = {f"ANNALS_{name.upper()}": str(getattr(settings, name)) for name in names}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.crashing_api", str(port), when],
        cwd=REPOSITORY,
        env={**os.environ, **given},
    )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait(TIMEOUT_S)


@pytest.mark.parametrize(("when", "is_recorded"), [("answer", True), ("commit", False)])
def test_kill_9_keeps_both_event_and_answer_or_neither(
    api: Api, api_workspace: ApiWorkspace, when: str, is_recorded: bool
) -> None:
    key, token = with_key(), api_workspace.token("member")
    with crashing_api(api.settings, when) as (url, process):
        client = httpx.Client(base_url=url, headers=api.client(token).headers, verify=False)
        with client:
            wait_until(lambda: is_live(url), "the API answers")
            with pytest.raises(httpx.TransportError):
                client.post("/api/accounts", headers=key, json=ACME)
        assert process.wait(TIMEOUT_S) == -9
    before = events_of(api, api_workspace.workspace_id)
    assert len(before) == is_recorded
    again = send_until_done(lambda: api.client(token).post("/api/accounts", headers=key, json=ACME))
    assert again.status_code == 201
    assert ("Idempotent-Replayed" in again.headers) == is_recorded
    assert events_of(api, api_workspace.workspace_id) == [UUID(again.json()["id"])]
    assert set(before) <= {UUID(again.json()["id"])}


def test_kill_9_under_load_keeps_every_acknowledged_command_once(
    api: Api, api_workspace: ApiWorkspace
) -> None:
    token = api_workspace.token("member")
    headers = api.client(token).headers
    acknowledged: dict[str, str] = {}
    sent: set[str] = set()

    def send_until_killed(url: str) -> None:
        with httpx.Client(base_url=url, headers=headers, verify=False) as client:
            while True:
                key = str(uuid4())
                sent.add(key)
                try:
                    given = {"Idempotency-Key": key}
                    done = client.post("/api/accounts", headers=given, json=ACME)
                except httpx.TransportError:
                    return
                acknowledged[key] = created(done).json()["id"]

    with crashing_api(api.settings, "never") as (url, process), ThreadPoolExecutor(16) as pool:
        wait_until(lambda: is_live(url), "the API answers")
        clients = [pool.submit(send_until_killed, url) for _ in range(16)]
        wait_until(lambda: len(acknowledged) > 100, "requests are answered")
        process.kill()
        for each in clients:
            each.result(TIMEOUT_S)
    recorded = events_of(api, api_workspace.workspace_id)
    assert len(recorded) == len(set(recorded))
    assert set(acknowledged.values()) <= set(map(str, recorded))
    again = {}
    for key in sent:
        given = {"Idempotency-Key": key}
        post = partial(api.client(token).post, "/api/accounts", headers=given, json=ACME)
        again[key] = created(send_until_done(post)).json()["id"]
    assert again.items() >= acknowledged.items()
    assert sorted(again.values()) == sorted(map(str, events_of(api, api_workspace.workspace_id)))


# Stored answers and their retention


def open_store(
    connection: Connection,
    scope: Scope,
    *,
    caller: UUID = CALLER,
    request: bytes = REQUEST,
    window_s: int = DAY_S,
) -> IdempotencyStore:
    keyed = KeyedRequest(IdempotencyKey(scope.workspace_id, caller, "k"), request, "token")
    return IdempotencyStore(connection, keyed, window_s=window_s)


def find_answer(log: EventLog, scope: Scope, **given: Any) -> Answer | None:
    with log.transaction(scope) as connection:
        return open_store(connection, scope, **given).find()


def remember_answer(log: EventLog, scope: Scope) -> None:
    with log.transaction(scope) as connection:
        open_store(connection, scope).remember(ANSWER)


def test_answer_is_found_unchanged(log: EventLog, scope: Scope) -> None:
    assert find_answer(log, scope) is None
    remember_answer(log, scope)
    assert find_answer(log, scope) == ANSWER
    assert find_answer(log, scope, caller=OTHER_CALLER) is None
    with pytest.raises(KeyReused):
        find_answer(log, scope, request=b"another")


def test_key_is_in_flight_until_its_transaction_ends(log: EventLog, scope: Scope) -> None:
    with log.transaction(scope) as connection:
        assert open_store(connection, scope).find() is None
        with ThreadPoolExecutor(1) as other, pytest.raises(KeyInFlight):
            other.submit(find_answer, log, scope).result()
    assert find_answer(log, scope) is None


def test_request_in_flight_is_409(api: Api, api_workspace: ApiWorkspace) -> None:
    client, scope = api_workspace.client(), Scope(api_workspace.workspace_id)
    caller = UUID(client.headers["Authorization"].split("_")[1])
    with api.writing.log.transaction(scope) as connection:
        open_store(connection, scope, caller=caller).find()
        refused = client.post("/api/accounts", headers=with_key("k"), json=ACME)
        assert (refused.status_code, refused.json()["code"]) == (409, "E5013")
        assert refused.headers["Retry-After"] == "1"
    assert created(client.post("/api/accounts", headers=with_key("k"), json=ACME))


def partitions(database: Connection) -> list[str]:
    """Return the names of the partitions, oldest first."""
    statement = """
        SELECT inhrelid::regclass::text FROM pg_inherits
         WHERE inhparent = 'remembered_answers'::regclass ORDER BY 1
    """
    return [row[0] for row in database.execute(statement)]


def age_answers(database: Connection, hours: int) -> None:
    """Move all answers some hours into the past, and so into an older partition."""
    start = f"date_bin('6 hours', now() - interval '{hours} hours', '2000-01-01 00:00+00')"
    database.execute(
        f"""DO $$ BEGIN
            EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF remembered_answers
                            FOR VALUES FROM (%L) TO (%L)',
                'remembered_answers_' || to_char({start} AT TIME ZONE 'UTC', 'YYYYMMDDHH24'),
                {start}, {start} + interval '6 hours');
            END $$"""
    )
    database.execute(
        "UPDATE remembered_answers SET answered_at = answered_at - make_interval(hours => %s)",
        (hours,),
    )


def create_partitions_ahead(database: Connection) -> None:
    """Create those that are due now: the database may have been made in an earlier six hours."""
    database.execute(MAINTAIN_PARTITIONS, (DAY_S,))


def test_partitions_are_created_ahead_and_dropped_with_their_answers(
    log: EventLog, scope: Scope, urls: Urls, database: Connection
) -> None:
    assert len(partitions(database)) >= 8
    create_partitions_ahead(database)
    remember_answer(log, scope)
    age_answers(database, 7)
    before = partitions(database)
    assert find_answer(log, scope) == ANSWER, "answers of an older partition are found"
    assert find_answer(log, scope, window_s=6 * 3_600) is None
    with psycopg.connect(urls.app, autocommit=True) as app:
        assert app.execute(MAINTAIN_PARTITIONS, (DAY_S,)).fetchone() == (0, 0)
        assert find_answer(log, scope) == ANSWER
        assert app.execute(MAINTAIN_PARTITIONS, (60,)).fetchone() == (
            0,
            len(before) - len(before[1:]),
        )
        assert app.execute(MAINTAIN_PARTITIONS, (0,)).fetchone() == (0, 0), "the minimum is 60 s"
    assert partitions(database) == before[1:]
    assert find_answer(log, scope) is None


def test_key_can_be_used_again_after_the_window(
    log: EventLog, scope: Scope, database: Connection
) -> None:
    remember_answer(log, scope)
    age_answers(database, 24)
    assert find_answer(log, scope) is None
    remember_answer(log, scope)
    assert find_answer(log, scope) == ANSWER


def test_dropping_partitions_does_not_wait_for_open_transactions(
    log: EventLog, scope: Scope, urls: Urls, database: Connection
) -> None:
    create_partitions_ahead(database)
    remember_answer(log, scope)
    age_answers(database, 30)
    before = partitions(database)
    with psycopg.connect(urls.app, autocommit=True) as app:
        with log.transaction(scope) as connection:
            open_store(connection, scope).find()
            app.execute("SET statement_timeout = '30s'")
            assert app.execute(MAINTAIN_PARTITIONS, (DAY_S,)).fetchone() == (0, 0)
        assert partitions(database) == before
        assert app.execute(MAINTAIN_PARTITIONS, (DAY_S,)).fetchone() == (0, 1)


def test_missing_partition_is_created_for_an_answer(
    log: EventLog, scope: Scope, database: Connection
) -> None:
    for name in partitions(database):
        database.execute(f"DROP TABLE {name}")
    remember_answer(log, scope)
    assert find_answer(log, scope) == ANSWER


def test_answers_are_invisible_to_other_workspaces_and_immutable(
    log: EventLog, scope: Scope, urls: Urls, database: Connection
) -> None:
    remember_answer(log, scope)
    with log.transaction(Scope(uuid4())) as connection:
        assert connection.execute("SELECT FROM remembered_answers").fetchall() == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            open_store(connection, scope).remember(ANSWER)
    with psycopg.connect(urls.app, autocommit=True) as app:
        for statement in (
            "UPDATE remembered_answers SET key = 'x'",
            "DELETE FROM remembered_answers",
            "TRUNCATE remembered_answers",
            f"SELECT FROM {partitions(database)[0]}",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)


# Transactions within a transaction


def test_commands_join_an_open_transaction(
    log: EventLog, commands: EntityCommands, scope: Scope
) -> None:
    with log.transaction(scope) as connection:
        account = commands.create(scope, Account, ACME).entity.id
        commands.create(scope, Contact, {"name": "Ada"}, account_id=account)
        raise psycopg.Rollback
    with log.transaction(scope) as connection:
        assert connection.execute("SELECT FROM events").fetchall() == []


def test_failed_command_keeps_the_rest_of_the_transaction(
    log: EventLog, commands: EntityCommands, scope: Scope
) -> None:
    with log.transaction(scope):
        account = commands.create(scope, Account, ACME).entity.id
        with pytest.raises(IntegrityError):
            commands.create(scope, Account, ACME, entity_id=account)
        commands.revise(scope, Account, account, lambda values: {**values, "nextAction": "x"})
    with log.scoped(scope):
        assert log.load(Account, account).version == 2


def test_after_append_is_called_once_after_the_commit(
    log: EventLog, commands: EntityCommands, scope: Scope
) -> None:
    calls: list[int] = []
    log.recorder.after_append = lambda: calls.append(1)  # type: ignore[attr-defined]
    with log.transaction(scope):
        commands.create(scope, Account, ACME)
        assert calls == []
    assert calls == [1]


def test_command_of_another_workspace_does_not_join(
    log: EventLog, commands: EntityCommands, scope: Scope
) -> None:
    elsewhere = Scope(uuid4())
    with log.transaction(scope):
        account = commands.create(elsewhere, Account, ACME).entity.id
        raise psycopg.Rollback
    with log.scoped(elsewhere):
        assert log.load(Account, account).version == 1
