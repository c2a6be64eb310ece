"""Messages have the digest of their event in the log and match their schema."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator

from domain.api_key import ApiKey
from domain.shared.kinds import EVENTS, KINDS
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
from eventlog.reading import read_rows_after, to_event
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from tests.support.databases import Urls
from tests.support.event_samples import entity_with_all_events, jobs_with_all_events
from tests.support.keys import open_key_log

TRICKY = [
    (b"{}", b"{}"),
    (b'{ "a" : 1.0,\n "b": 1e3 }', b'{"x": ",\\"data\\":", "y": "}"}'),
    (b'{"note": ",\\"metadata\\":{}", "n": {"metadata": {}}}', b'{"metadata":{"data":1}}'),
    ('{"name": "東京 \\u6771 Ünïcode"}'.encode(), b"{ }"),
]


def row(data: bytes, metadata: bytes) -> tuple[Any, ...]:
    """Return a row of the log."""
    at = "2026-01-31 12:00:00.5+00"
    ids = (str(uuid4()), str(uuid4()), 1)
    return (7, *ids, "account.created", None, data, metadata, at, at)


@pytest.mark.parametrize(("data", "metadata"), TRICKY)
def test_message_decodes_to_its_event(data: bytes, metadata: bytes) -> None:
    stored = row(data, metadata)
    assert decode(encode(stored)) == to_event(stored)
    assert digest_of(encode(stored)) == (7, to_event(stored).digest)
    assert json.loads(encode(stored))["data"] == json.loads(data)


def test_headers_hold_topic_position_and_origin() -> None:
    origin = Origin(str(uuid4()), 2, 5)
    head = read_head(headers("account.created", 7, origin))
    assert (head.topic, head.position, head.origin, head.is_mark) == (
        "account.created", 7, origin, False,
    )  # fmt: skip
    assert read_head(headers(MARK_TOPIC, 7, origin)).is_mark


MALFORMED = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff",
    b'{"dataBytes":1,"data":{},"metadata":{}}',
    b'{"dataBytes":1}',
    b'{"dataBytes":"1","data":{},"metadata":{}}',
    b'{"dataBytes":-9,"data":{},"metadata":{}}',
    b'{"dataBytes":1e300,"data":{},"metadata":{}}',
]


@pytest.mark.parametrize("value", MALFORMED)
def test_malformed_message_is_refused(value: bytes) -> None:
    for read in (decode, digest_of):
        with pytest.raises(MalformedMessage):
            read(value)
    with pytest.raises(MalformedMessage):
        read_head([("topic", b"x")])


def test_schema_files_are_up_to_date() -> None:
    """If this fails, run python -m eventlog.kafka.schemas."""
    in_folder = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert in_folder == {f"{name}.json": as_text(each) for name, each in schemas().items()}


def test_message_of_every_topic_matches_its_schema(log: EventLog, scope: Scope, urls: Urls) -> None:
    append_all_events(log, scope, urls)
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


def append_all_events(log: EventLog, scope: Scope, urls: Urls) -> None:
    """Append an entity of each kind, and jobs, with all their events."""
    with open_key_log(urls.owner) as key_log:
        for kind in KINDS.values():
            chosen = key_log if kind is ApiKey else log
            with chosen.scoped(scope):
                chosen.append(entity_with_all_events(kind, uuid4()))
    with log.scoped(scope):
        for job in jobs_with_all_events(iter(uuid4, None)):
            log.append(job)
