"""The demo's data: the same for the same seed, true to the rules, and made once."""

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
    """One database for all of these tests: each has a workspace of its own."""
    made = prepare_database(cluster, "demos", template=template)
    return Urls(made.owner, made.app, made.projector, cluster.url("postgres", "demos"))


@pytest.fixture
def settings(urls: Urls, tmp_path: Path) -> Settings:
    return settings_for(urls, tmp_path)


def content(database: Connection, workspace: UUID) -> list[Any]:
    return database.execute(CONTENT, (workspace,)).fetchall()


def stories(seed: int, count: int) -> list[Entity]:
    owner = demo_data.demo_members(seed)[0]
    return [each for n in range(count) for each in demo_data.generate_account(seed, n, owner)]


def as_text(entities: list[Entity]) -> str:
    events = [vars(event) for each in entities for event in each.pending_events]
    return json.dumps(events, default=str)


def topic(event: Any) -> str:
    name: str = event.TOPIC
    return name


def opened_by(settings: Settings, token: str) -> tuple[UUID, str]:
    """Workspace and role of the key."""
    parsed = parse_token(token)
    assert parsed is not None
    key_id, secret = parsed
    row = with_reader(settings, lambda connection: find_key(connection, key_id))
    assert row is not None
    assert matches(secret, row.secret_sha256)
    return row.workspace_id, row.role


def test_the_same_seed_tells_the_same_stories() -> None:
    assert as_text(stories(SEED, 20)) == as_text(stories(SEED, 20))
    assert as_text(stories(SEED, 20)) != as_text(stories(SEED + 1, 20))


def test_an_account_is_the_same_however_many_there_are() -> None:
    assert as_text(stories(SEED, 40)).startswith(as_text(stories(SEED, 20)).rstrip("]"))


def test_no_two_companies_have_one_name() -> None:
    names = {demo_data.company_name(number, SEED) for number in range(50_000)}
    assert len(names) == 50_000


def test_everything_occurred_within_the_eighteen_months() -> None:
    for entity in stories(SEED, 100):
        times = [vars(event)["timestamp"] for event in entity.pending_events]
        assert times == sorted(times)
        assert times[0] >= demo_data.STARTS_AT
        assert times[-1] <= demo_data.ENDS_AT


def test_there_is_history_worth_replaying() -> None:
    topics = Counter(topic(event) for each in stories(SEED, 300) for event in each.pending_events)
    for kind in ("account", "contact", "task", "meeting", "note", "opportunity"):
        assert topics[f"{kind}.created"] > 100
    for happened in (
        "account.updated", "account.status_changed", "account.deleted", "account.restored",
        "contact.deleted", "task.status_changed", "meeting.status_changed",
        "lead.created", "lead.status_changed", "lead.converted", "appointment.created",
        "appointment.confirmed", "appointment.completed", "appointment.missed",
        "appointment.cancelled", "proposal.created", "proposal.sent", "proposal.accepted",
        "proposal.declined",
    ):  # fmt: skip
        assert topics[happened] > 0
    assert topics["opportunity.stage_changed"] > topics["opportunity.created"]


def test_the_demo_is_filled_once(settings: Settings, database: Connection) -> None:
    done: list[tuple[int, int]] = []
    first = fill(settings, ACCOUNTS, SEED, lambda *counts: done.append(counts))
    assert done == [(50, ACCOUNTS), (100, ACCOUNTS), (ACCOUNTS, ACCOUNTS)]
    before = content(database, first.workspace_id)
    again = fill(settings, ACCOUNTS, SEED)
    assert content(database, first.workspace_id) == before
    for result in (first, again):
        assert opened_by(settings, result.token) == (first.workspace_id, "admin")
    page = Importer(settings, first.workspace_id, settings.home).page("accounts")
    there = [row for row in before if row[0] == "account.created"]
    assert len(there) == ACCOUNTS
    gone = Counter(row[0] for row in before)
    left = ACCOUNTS - gone["account.deleted"] + gone["account.restored"]
    assert page["pagination"]["totalItems"] == left


def test_what_was_cut_off_is_completed(settings: Settings, database: Connection) -> None:
    seed = SEED + 2
    first = fill(settings, BATCH_ACCOUNTS + 7, seed)
    started = content(database, first.workspace_id)
    fill(settings, ACCOUNTS, seed)
    completed = content(database, first.workspace_id)
    assert {row[:3] for row in started} < {row[:3] for row in completed}
    assert Counter(row[0] for row in completed)["account.created"] == ACCOUNTS


def test_the_log_holds_what_was_generated(settings: Settings, database: Connection) -> None:
    seed = SEED + 3
    result = fill(settings, 5, seed)
    recorded = {(row[0], row[1], row[2]) for row in content(database, result.workspace_id)}
    owner = demo_data.demo_members(seed)[0]
    told = [each for n in range(5) for each in demo_data.generate_account(seed, n, owner)]
    expected = {
        (topic(event), str(event.originator_id), event.originator_version)
        for each in [*demo_data.create_workspace_and_members(seed), *told]
        for event in each.pending_events
    }
    assert recorded == expected


def test_an_empty_workspace_has_a_key(settings: Settings) -> None:
    token = bootstrap(settings)
    workspace, role = opened_by(settings, token)
    assert role == "admin"
    assert Importer(settings, workspace, settings.home).page("accounts")["items"] == []
