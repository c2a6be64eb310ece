"""The event on the wire: the same digest as in the log, and as its schema has it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator

from commands.entities import EntityCommands
from domain.account import Account
from domain.kinds import EVENTS
from domain.workspace import Workspace
from eventlog.connections import follow_connection
from eventlog.kafka.message import (
    MARK_TOPIC,
    MalformedMessage,
    Origin,
    decode,
    digest_of,
    encode,
    encode_mark,
    headers,
    read_head,
)
from eventlog.kafka.schemas import FOLDER, as_text, schemas
from eventlog.log import EventLog
from eventlog.reading import read_rows_after, to_event
from eventlog.scope import Scope
from tests.conftest import Urls
from tests.domain.examples import EXAMPLES
from tests.test_event_samples import lives_of_jobs

TRICKY = [
    (b"{}", b"{}"),
    (b'{ "a" : 1.0,\n "b": 1e3 }', b'{"x": ",\\"data\\":", "y": "}"}'),
    (b'{"note": ",\\"metadata\\":{}", "n": {"metadata": {}}}', b'{"metadata":{"data":1}}'),
    ('{"name": "東京 \\u6771 Ünïcode"}'.encode(), b"{ }"),
]


def row(data: bytes, metadata: bytes) -> tuple[Any, ...]:
    """A row of the log."""
    at = "2026-01-31 12:00:00.5+00"
    ids = (str(uuid4()), str(uuid4()), 1)
    return (7, *ids, "account.created", None, data, metadata, at, at)


@pytest.mark.parametrize(("data", "metadata"), TRICKY)
def test_a_message_is_read_back_as_the_event_that_it_was(data: bytes, metadata: bytes) -> None:
    stored = row(data, metadata)
    assert decode(encode(stored)) == to_event(stored)
    assert digest_of(encode(stored)) == (7, to_event(stored).digest)
    assert json.loads(encode(stored))["data"] == json.loads(data)


def test_the_headers_say_what_is_inside() -> None:
    origin = Origin(str(uuid4()), 2, 5)
    head = read_head(headers("account.created", 7, origin))
    assert (head.topic, head.position, head.origin, head.is_mark) == (
        "account.created", 7, origin, False,
    )  # fmt: skip
    assert read_head(headers(MARK_TOPIC, 7, origin)).is_mark


@pytest.mark.parametrize("value", [b"", b"{}", b'{"dataBytes":1,"data":{},"metadata":{}}'])
def test_what_no_relay_wrote_is_malformed(value: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(value)
    with pytest.raises(MalformedMessage):
        read_head([("topic", b"x")])


def test_the_schemas_are_those_of_the_code() -> None:
    """Otherwise: python -m eventlog.kafka.schemas"""
    in_folder = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert in_folder == {f"{name}.json": as_text(each) for name, each in schemas().items()}


def test_a_message_of_every_topic_is_as_its_schema_says(
    log: EventLog, commands: EntityCommands, scope: Scope, urls: Urls
) -> None:
    live_through_everything(log, commands, scope)
    with follow_connection(urls.projector, application_name="test") as connection:
        page = read_rows_after(connection, 0, 1_000)
    made = schemas()
    seen = set()
    for stored in page.rows:
        Draft202012Validator.check_schema(made[stored[4]])
        Draft202012Validator(made[stored[4]]).validate(json.loads(encode(stored)))
        seen.add(stored[4])
    assert seen == set(EVENTS)
    Draft202012Validator(made[MARK_TOPIC]).validate(json.loads(encode_mark(7)))


def live_through_everything(log: EventLog, commands: EntityCommands, scope: Scope) -> None:
    """One of each kind is created, changed, moved on, deleted and brought back; jobs end."""
    with log.scoped(scope):
        for job in lives_of_jobs(iter(uuid4, None)):
            log.append(job)
    account = commands.create(scope, Account, {"company": "Host", "type": "partner"}).entity
    assert isinstance(account, Account)
    for example in EXAMPLES:
        kind = example.kind
        at = datetime.now(UTC)
        workspace = uuid4() if kind is Workspace else scope.workspace_id
        entity = kind.create(
            workspace if kind is Workspace else uuid4(),
            workspace,
            {**example.facts, "customFields": {"a": 1}},
            at=at,
            account_id=account.id if kind.BELONGS_TO_ACCOUNT else None,
        )
        changed = {**entity.facts, example.field: example.value, "customFields": {"b": True}}
        entity.revise(changed, at=at)
        if kind.STATUS_FIELD and entity.status:
            entity.change_status(sorted(kind.TRANSITIONS[entity.status])[0], at=at)
        entity.delete(at=at)
        if kind.TOPIC + ".restored" in EVENTS:
            entity.restore(at=at)
        if kind.BELONGS_TO_ACCOUNT:
            entity.leave(account.id, at=at)
            entity.arrive(account.id, at=at)
        if kind.TOPIC + ".merged" in EVENTS:
            other = commands.create(
                scope, kind, entity.facts, account_id=entity.account_id, occurred_at=at
            ).entity
            entity.take_over(other, {**entity.facts, "customFields": {}}, at=at, moved={"note": 1})
            with log.scoped(scope):
                log.append(other)
        with log.scoped(scope):
            log.append(entity)
