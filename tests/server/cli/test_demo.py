"""The demo's data: the same for the same seed, valid under the rules, and created once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from commands.keys import matches, parse_token
from domain.shared.entity import Entity
from eventlog.connections import Connection
from readmodels.keys import find_key
from runtime.settings import Settings
from server.cli.local import demo_data
from server.cli.local.database import with_reader
from server.cli.local.demo import BATCH_ACCOUNTS, bootstrap, fill
from server.postgres.embedded import Cluster, prepare_database
from tests.support.databases import Urls
from tests.support.imports import Importer, settings_for

ACCOUNTS = 120
SEED = 7

CONTENT = """
SELECT topic, stream_id::text, stream_version, account_id::text, data::text, occurred_at
  FROM events WHERE workspace_id = %s AND topic NOT LIKE 'api_key.%%'
 ORDER BY stream_id, stream_version
"""


@pytest.fixture(scope="module")
def urls(cluster: Cluster, template: str) -> Urls:
    """One database for all of these tests, each with its own workspace."""
    made = prepare_database(cluster, "demos", template=template)
    return Urls(made.owner, made.app, made.projector, cluster.url("postgres", "demos"))


@pytest.fixture
def settings(urls: Urls, tmp_path: Path) -> Settings:
    return settings_for(urls, tmp_path)


def load_content(database: Connection, workspace: UUID) -> list[Any]:
    return database.execute(CONTENT, (workspace,)).fetchall()


def generate_entities(seed: int, count: int) -> list[Entity]:
    owner = demo_data.demo_members(seed)[0]
    return [each for n in range(count) for each in demo_data.generate_account(seed, n, owner)]


def as_text(entities: list[Entity]) -> str:
    events = [vars(event) for each in entities for event in each.pending_events]
    return json.dumps(events, default=str)


def topic(event: Any) -> str:
    name: str = event.TOPIC
    return name


def load_key(settings: Settings, token: str) -> tuple[UUID, str]:
    """Return the workspace and role of the key."""
    parsed = parse_token(token)
    assert parsed is not None
    key_id, secret = parsed
    row = with_reader(settings, lambda connection: find_key(connection, key_id))
    assert row is not None
    assert matches(secret, row.secret_sha256)
    return row.workspace_id, row.role


def test_same_seed_gives_the_same_entities() -> None:
    assert as_text(generate_entities(SEED, 20)) == as_text(generate_entities(SEED, 20))
    assert as_text(generate_entities(SEED, 20)) != as_text(generate_entities(SEED + 1, 20))


def test_accounts_do_not_depend_on_how_many_are_generated() -> None:
    assert as_text(generate_entities(SEED, 40)).startswith(
        as_text(generate_entities(SEED, 20)).rstrip("]")
    )


def test_company_names_are_unique() -> None:
    names = {demo_data.company_name(number, SEED) for number in range(50_000)}
    assert len(names) == 50_000


def test_events_occur_within_the_eighteen_months() -> None:
    for entity in generate_entities(SEED, 100):
        times = [vars(event)["timestamp"] for event in entity.pending_events]
        assert times == sorted(times)
        assert times[0] >= demo_data.STARTS_AT
        assert times[-1] <= demo_data.ENDS_AT


def test_demo_contains_all_kinds_of_events() -> None:
    topics = Counter(
        topic(event) for each in generate_entities(SEED, 300) for event in each.pending_events
    )
    for kind in ("account", "contact", "task", "meeting", "note", "opportunity"):
        assert topics[f"{kind}.created"] > 100
    for name in (
        "account.updated", "account.status_changed", "account.deleted", "account.restored",
        "contact.deleted", "task.status_changed", "meeting.status_changed",
        "lead.created", "lead.status_changed", "lead.converted", "appointment.created",
        "appointment.confirmed", "appointment.completed", "appointment.missed",
        "appointment.cancelled", "proposal.created", "proposal.sent", "proposal.accepted",
        "proposal.declined",
    ):  # fmt: skip
        assert topics[name] > 0
    assert topics["opportunity.stage_changed"] > topics["opportunity.created"]


def test_demo_is_filled_once(settings: Settings, database: Connection) -> None:
    done: list[tuple[int, int]] = []
    first = fill(settings, ACCOUNTS, SEED, lambda *counts: done.append(counts))
    assert done == [(50, ACCOUNTS), (100, ACCOUNTS), (ACCOUNTS, ACCOUNTS)]
    before = load_content(database, first.workspace_id)
    again = fill(settings, ACCOUNTS, SEED)
    assert load_content(database, first.workspace_id) == before
    for result in (first, again):
        assert load_key(settings, result.token) == (first.workspace_id, "admin")
    page = Importer(settings, first.workspace_id, settings.home).page("accounts")
    created = [row for row in before if row[0] == "account.created"]
    assert len(created) == ACCOUNTS
    topics = Counter(row[0] for row in before)
    remaining = ACCOUNTS - topics["account.deleted"] + topics["account.restored"]
    assert page["pagination"]["totalItems"] == remaining


def test_interrupted_fill_is_completed(settings: Settings, database: Connection) -> None:
    seed = SEED + 2
    first = fill(settings, BATCH_ACCOUNTS + 7, seed)
    started = load_content(database, first.workspace_id)
    fill(settings, ACCOUNTS, seed)
    completed = load_content(database, first.workspace_id)
    assert {row[:3] for row in started} < {row[:3] for row in completed}
    assert Counter(row[0] for row in completed)["account.created"] == ACCOUNTS


def test_log_holds_the_generated_events(settings: Settings, database: Connection) -> None:
    seed = SEED + 3
    result = fill(settings, 5, seed)
    recorded = {(row[0], row[1], row[2]) for row in load_content(database, result.workspace_id)}
    owner = demo_data.demo_members(seed)[0]
    entities = [each for n in range(5) for each in demo_data.generate_account(seed, n, owner)]
    expected = {
        (topic(event), str(event.originator_id), event.originator_version)
        for each in [*demo_data.create_workspace_and_members(seed), *entities]
        for event in each.pending_events
    }
    assert recorded == expected


def test_empty_workspace_has_an_admin_key(settings: Settings) -> None:
    token = bootstrap(settings)
    workspace, role = load_key(settings, token)
    assert role == "admin"
    assert Importer(settings, workspace, settings.home).page("accounts")["items"] == []
