"""The audit trail is a reading of the log: the same entries for every filter, by narrow indexes."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest

from eventlog.connections import Connection
from eventlog.reading.positions import POSITION_MAX
from readmodels.audit import (
    AuditQuery,
    audit_page,
    last_positions_below,
    operation_of,
    positions_of_command,
)
from readmodels.exports import Format, audit_export, blocks
from readmodels.pool import AsyncConnection
from server.postgres.embedded import Cluster, DatabaseUrls, prepare_database
from tests.support.explained import explain_all
from tests.support.list_pages import Pages
from tests.support.oracle import Row, audit_entries, recorded_events

DATABASE = "test_audit"
MINE, THEIRS = UUID(int=1), UUID(int=2)
EVENTS = 3_000
PAGE = 7
ADA, BOB = str(UUID(int=11)), str(UUID(int=12))
KEY, KEY_OF_ADA, RARE_KEY = (str(UUID(int=number)) for number in (21, 22, 23))
ACTORS: tuple[tuple[Row, str | None], ...] = (
    ({"type": "member", "id": ADA, "name": "Ada"}, KEY_OF_ADA),
    ({"type": "member", "id": BOB, "name": "Bob"}, RARE_KEY),
    ({"type": "api_key", "id": KEY, "name": "Sync"}, KEY),
    ({"type": "system", "id": "annals", "name": "Annals"}, None),
    ({}, None),
)
TOPICS = (
    "account.created",
    "account.updated",
    "account.deleted",
    "account.restored",
    "account.status_changed",
    "contact.created",
    "contact.deleted",
    "note.updated",
    "job.progressed",
    "later.version_of_annals",
)
BY_DATA = {"deleted": ("mergedInto", "movedTo"), "restored": ("movedFrom",)}
APPEND = "SELECT append_events(%s::uuid, %s::json, %s::json)"
COMMANDS = [str(UUID(int=100 + number)) for number in range(20)]


def random_event(rng: random.Random, versions: dict[UUID, int]) -> tuple[Row, Row]:
    """Return an event as append_events takes it, and its metadata."""
    stream = UUID(int=1_000 + rng.randrange(40))
    versions[stream] = versions.get(stream, 0) + 1
    topic = rng.choice(TOPICS)
    data: Row = {"fields": {"name": "x"}}
    if (keys := BY_DATA.get(topic.split(".")[1])) and rng.random() < 0.4:
        data[rng.choice(keys)] = str(UUID(int=3))
    actor, key = rng.choices(ACTORS, weights=(60, 5, 20, 10, 5))[0]
    metadata: Row = {"actor": actor, "userAgent": 'a "undoesPosition" in text'}
    if key:
        metadata["keyId"] = key
    if rng.random() < 0.8:
        metadata["commandId"] = rng.choice(COMMANDS)
    if rng.random() < 0.1:
        metadata |= {"undoesPosition": 1, "undoes": COMMANDS[0]}
    event = {
        "stream": stream,
        "version": versions[stream],
        "topic": topic,
        "data": data,
        "occurred": "2026-01-01T00:00:00Z",
    }
    return event, metadata


@pytest.fixture(scope="module")
def urls(cluster: Cluster, template: str) -> Iterator[DatabaseUrls]:
    """Fill the log of two workspaces with random events, in a database that reports its plans."""
    made = prepare_database(cluster, DATABASE, template=template)
    rng = random.Random(1)
    versions: dict[UUID, int] = {}
    with psycopg.connect(made.app, autocommit=True) as app:
        app.execute("SET synchronous_commit = off")
        for number in range(EVENTS):
            workspace = THEIRS if number % 3 == 0 else MINE
            append(app, workspace, *random_event(rng, versions))
    with psycopg.connect(cluster.url("postgres", DATABASE), autocommit=True) as superuser:
        superuser.execute("VACUUM ANALYZE events")
    explain_all(cluster, DATABASE)
    yield made
    with psycopg.connect(cluster.superuser_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())


def append(connection: Connection, workspace: UUID, event: Row, metadata: Row) -> None:
    batch = orjson.dumps([event]).decode()
    connection.execute(APPEND, (workspace, batch, orjson.dumps(metadata).decode()))


@pytest.fixture(scope="module")
def events(urls: DatabaseUrls, cluster: Cluster) -> list[Row]:
    """The entries of the log by the oracle, in order of position."""
    with psycopg.connect(cluster.url("postgres", DATABASE)) as connection:
        return audit_entries(recorded_events(connection))


@pytest.fixture
def pages(urls: DatabaseUrls) -> Pages:
    return Pages(urls.app, MINE)


def matching(events: list[Row], query: AuditQuery) -> list[Row]:
    """Return the entries that the query selects, newest first, without pages."""
    wanted = [
        event
        for event in reversed(events)
        if event["workspace_id"] == query.workspace_id
        and query.entity_type in (None, event["entity_type"])
        and query.entity_id in (None, event["entity_id"])
        and query.action in (None, event["action"])
        and query.actor_id in (None, event["actor_id"])
        and (query.key_id is None or str(query.key_id) == event["key_id"])
        and (query.since is None or event["recorded_at"] >= query.since)
        and (query.until is None or event["recorded_at"] < query.until)
    ]
    return [{name: each[name] for name in SHOWN} for each in wanted]


SHOWN = ("position", "entity_type", "entity_id", "action")


def shown(item: Row) -> Row:
    """Return an item of a page in the form of `matching`."""
    return {
        "position": item["position"],
        "entity_type": item["entityType"],
        "entity_id": UUID(item["entityId"]),
        "action": item["action"],
    }


async def walk(connection: AsyncConnection, query: AuditQuery, upto: int) -> list[Row]:
    """Return the entries of all pages."""
    found: list[Row] = []
    while True:
        page = orjson.loads(await audit_page(connection, query, upto))
        found += map(shown, page["items"])
        if page["nextCursor"] is None:
            return found
        assert len(page["items"]) == query.limit
        query = replace(query, cursor=page["nextCursor"])


def queries(events: list[Row]) -> list[AuditQuery]:
    """Return two queries for each combination of filters; some values do not occur."""
    rng = random.Random(2)
    mine = [event for event in events if event["workspace_id"] == MINE]
    times = [event["recorded_at"] for event in mine]
    values: dict[str, list[Any]] = {
        "entity_type": ["account", "job", "later", "member"],
        "entity_id": [event["entity_id"] for event in mine],
        "action": ["update", "undo", "merge", "move", "delete", "progressed"],
        "actor_id": [ADA, BOB, KEY, "annals", "unknown"],
        "key_id": [UUID(KEY), UUID(RARE_KEY), UUID(int=99)],
        "since": times[: len(times) // 2],
        "until": times[len(times) // 2 :],
    }
    return [
        AuditQuery(MINE, limit=PAGE, **{name: rng.choice(values[name]) for name in chosen})
        for size in range(len(values) + 1)
        for chosen in itertools.combinations(values, size)
        for _ in range(2)
    ]


def test_every_combination_of_filters_finds_the_entries_of_the_oracle(
    pages: Pages, events: list[Row]
) -> None:
    async def ask(connection: AsyncConnection) -> int:
        found = 0
        for query in queries(events):
            expected = matching(events, query)
            assert await walk(connection, replace(query, limit=500), POSITION_MAX) == expected, (
                query
            )
            assert await walk(connection, query, POSITION_MAX) == expected[: 10**6], query
            found += len(expected) > 0
        return found

    assert pages.reading(ask) > 50


def test_entries_above_the_readable_position_are_left_out(pages: Pages, events: list[Row]) -> None:
    upto = events[EVENTS // 2]["position"]

    async def ask(connection: AsyncConnection) -> list[list[Row]]:
        return [
            await walk(connection, AuditQuery(MINE, limit=500), upto),
            await walk(connection, AuditQuery(MINE, limit=500, actor_id=ADA), upto),
            await walk(
                connection, AuditQuery(MINE, limit=500, since=events[0]["recorded_at"]), upto
            ),
        ]

    for found in pages.reading(ask):
        assert found
        assert max(each["position"] for each in found) <= upto


@pytest.mark.parametrize("descending", [True, False])
def test_export_has_the_entries_of_the_pages(
    pages: Pages, events: list[Row], descending: bool
) -> None:
    query = AuditQuery(MINE, entity_type="account", actor_id=ADA)

    async def ask(connection: AsyncConnection) -> list[Row]:
        export = await audit_export(
            connection, query, Format.NDJSON, POSITION_MAX, descending=descending
        )
        content = b"".join([block async for block in blocks(connection, export)])
        return [shown(orjson.loads(line)) for line in content.splitlines()]

    expected = matching(events, query)
    assert pages.reading(ask) == (expected if descending else expected[::-1])


def test_events_of_a_command_are_found_without_those_of_its_job(
    urls: DatabaseUrls, pages: Pages, events: list[Row]
) -> None:
    async def ask(connection: AsyncConnection, command: str) -> tuple[list[int], Any]:
        positions = await positions_of_command(connection, MINE, command, 10_000)
        return positions, await operation_of(connection, MINE, command)

    for command in COMMANDS:
        all_of_it = [
            each
            for each in events
            if each["workspace_id"] == MINE and each["command_id"] == command
        ]
        expected = [each["position"] for each in all_of_it if each["entity_type"] != "job"]

        async def of_command(connection: AsyncConnection, command: str = command) -> Any:
            return await ask(connection, command)

        positions, operation = pages.reading(of_command)
        assert positions == expected
        assert operation.events == len(expected)
        assert operation.last_position == expected[-1]
        with psycopg.connect(urls.app) as connection:
            connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [str(MINE)])
            below = expected[len(expected) // 2]
            last = last_positions_below(connection, MINE, command, below, 5)
            assert last == [each for each in reversed(expected) if each < below][:5]


@pytest.mark.parametrize("role", ["app", "sender"])
def test_no_role_sets_the_columns_by_which_events_are_found(urls: DatabaseUrls, role: str) -> None:
    """An event cannot be hidden from a filter: the trigger sets the columns from the event."""
    with psycopg.connect(getattr(urls, role)) as connection:
        connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [str(THEIRS)])
        for column in ("action_topic", "actor_id", "api_key_id", "command_id"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(
                    f"""INSERT INTO events (workspace_id, stream_id, stream_version, topic, data,
                                            metadata, occurred_at, {column})
                        VALUES (%s, gen_random_uuid(), 1, 'account.created', '{{}}', '{{}}', now(),
                                'hidden')""".encode(),
                    [THEIRS],
                )


def test_superuser_cannot_set_the_columns_either(urls: DatabaseUrls, cluster: Cluster) -> None:
    with psycopg.connect(cluster.url("postgres", DATABASE)) as connection:
        row = connection.execute(
            """INSERT INTO events (workspace_id, stream_id, stream_version, topic, data, metadata,
                                   occurred_at, action_topic, actor_id, command_id)
               VALUES (%s, gen_random_uuid(), 1, 'account.created', '{}', '{"actor": {"id": "a"}}',
                       now(), 'hidden', 'hidden', 'hidden')
               RETURNING action_topic, actor_id, command_id""",
            [THEIRS],
        ).fetchone()
        assert row == ("account.created", "a", None)
        connection.rollback()


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "events_by_action"),
        ({"cursor": 1_000}, "events_by_action"),
        ({"entity_type": "account"}, "events_by_action"),
        ({"action": "undo"}, "events_by_action"),
        ({"entity_type": "account", "action": "merge"}, "events_by_action"),
        ({"actor_id": ADA}, "events_by_actor"),
        ({"actor_id": BOB, "entity_type": "note", "action": "undo"}, "events_by_actor"),
        ({"key_id": UUID(RARE_KEY)}, "events_by_key"),
        ({"entity_id": UUID(int=1_001)}, "events_stream_id_stream_version_key"),
    ],
)
def test_page_is_read_by_an_index_and_not_sorted(
    pages: Pages, filters: dict[str, Any], index: str
) -> None:
    plan = plan_of(pages, AuditQuery(MINE, **filters))
    assert re.search(rf"Index (Only )?Scan (Backward )?using {index}|Bitmap.* on {index}", plan), (
        plan
    )
    assert "Seq Scan on events" not in plan, plan


def plan_of(pages: Pages, query: AuditQuery) -> str:
    """Return the plan that was executed for a page."""

    async def ask(connection: AsyncConnection) -> str:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        await audit_page(connection, query, POSITION_MAX)
        await connection.execute("SELECT 1")  # the server reports a plan with the next statement
        return "\n".join(notices)

    return pages.reading(ask)
