"""As-of readings of lists and entities, and the history of an entity."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from psycopg import AsyncConnection

from commands.entities import EntityCommands
from domain.account import Account
from domain.api_key import ApiKey
from domain.appointment import Appointment
from domain.contact import Contact
from domain.lead import Lead
from domain.meeting import Meeting
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from eventlog.connections import raw_json, write_pool
from eventlog.reading.positions import POSITION_MAX
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from readmodels.audit import AuditQuery, audit_page
from readmodels.lists import LISTS
from replay.as_of import AsOfQuery, entity_as_of, list_as_of
from replay.history import entity_history
from server.postgres.embedded import Cluster
from tests.support.databases import Urls
from tests.support.keys import credential, issue_first_key
from tests.support.kinds import DESCRIBED_KINDS
from tests.support.list_pages import Pages
from tests.support.oracle import (
    LINKED_TO_ACCOUNT,
    WITH_STATUS_DATE,
    EntityState,
    Row,
    entity_states,
    exact,
    recorded_events,
)
from tests.support.populated_workspaces import (
    SEARCHES,
    START,
    PopulatedDatabase,
    populated_database,
)
from tests.support.reference_lists import (
    FILTERS,
    SORTS,
    ListRequest,
    ReferenceLists,
    column,
    comparable,
)

SEED = 31
REQUESTS_PER_LIST = 25
HOURS = [timedelta(hours=hours) for hours in (-1, 0, 3, 10, 21, 30, 41, 1_000_000)]
YEAR_2026 = datetime(2026, 1, 1, tzinfo=UTC)
ACME = {"company": "Acme", "type": "customer"}

KINDS_COMPARED: list[type[Entity]] = [Account, Appointment, Contact, Lead, Opportunity, Meeting]
KINDS_COMPARED += [each.kind for each in DESCRIBED_KINDS]

every_list = pytest.mark.parametrize("plural", sorted(LISTS))


@pytest.fixture(scope="module")
def populated(cluster: Cluster, template: str) -> Iterator[PopulatedDatabase]:
    """Fill two workspaces whose entities were created and changed within two days of 2024."""
    with populated_database(cluster, template, SEED) as made:
        yield made


@pytest.fixture(scope="module")
def events(populated: PopulatedDatabase) -> list[Row]:
    """Return all events of both workspaces."""
    with psycopg.connect(populated.urls.superuser) as connection:
        return recorded_events(connection)


@every_list
def test_list_as_of_time_matches_reference_of_events_up_to_then(
    plural: str, populated: PopulatedDatabase, events: list[Row]
) -> None:
    random = Random(SEED)
    with write_pool(populated.urls.app) as pool:
        for number in range(REQUESTS_PER_LIST):
            at = START + HOURS[number % len(HOURS)]
            reference = reference_as_of(populated, events, plural, at)
            request = random_request(random, plural, reference)
            page, size = random.randint(1, 3), random.choice([1, 5, 50])
            query = AsOfQuery(
                populated.workspaces[0],
                plural,
                at,
                filters=request.filters,
                search=request.search,
                sort_by=request.sort_by,
                descending=request.descending,
                page=page,
                page_size=size,
                include_contacts=request.include_contacts,
                include_stats=True,
            )
            answer = orjson.loads(list_as_of(pool, query))
            wanted = reference.items(request)
            items = [comparable(item) for item in answer["items"]]
            assert items == wanted[(page - 1) * size : page * size], (at, request)
            assert answer["pagination"]["totalItems"] == len(wanted)
            assert answer["pagination"]["totalPages"] == -(-len(wanted) // size)
            assert answer["aggregations"] == reference.aggregations(request)


def reference_as_of(
    populated: PopulatedDatabase, events: list[Row], plural: str, at: datetime
) -> ReferenceLists:
    """Return the reference lists as of a time, with the present names of members and accounts."""
    workspace_id = populated.workspaces[0]
    occurred = [event for event in events if event["occurred_at"] <= at]
    known = None if plural == "members" else populated.references[0]
    return ReferenceLists(occurred, workspace_id, names_from=known)


def random_request(random: Random, plural: str, reference: ReferenceLists) -> ListRequest:
    """Draw a request whose filter values occur in the list."""
    filters = {}
    for name in FILTERS[plural].split():
        values = {row[column(name)] for row in reference.rows(plural)} - {None}
        if values and random.random() < 0.3:
            filters[name] = str(random.choice(sorted(values)))
    return ListRequest(
        plural,
        filters=filters,
        search=random.choice([None, *random.sample(SEARCHES, 1)]),
        sort_by=random.choice(sorted(SORTS[plural])),
        descending=random.random() < 0.5,
        include_contacts=random.random() < 0.5,
    )


@every_list
def test_list_as_of_now_is_the_current_list(plural: str, populated: PopulatedDatabase) -> None:
    pages = Pages(populated.urls.app, populated.workspaces[0])
    with write_pool(populated.urls.app) as pool:
        for sort_by in LISTS[plural].sorts:
            current = pages.ask(
                ListRequest(plural, sort_by=sort_by), page_size=500, include_stats=True
            )
            query = AsOfQuery(
                populated.workspaces[0],
                plural,
                datetime.now(UTC),
                sort_by=sort_by,
                page_size=500,
                include_stats=True,
            )
            answer = orjson.loads(list_as_of(pool, query))
            assert [comparable(item) for item in answer["items"]] == [
                comparable(item) for item in current["items"]
            ]
            assert answer["pagination"] == current["pagination"]
            assert answer["aggregations"] == current["aggregations"]


def test_entity_as_of_version_matches_oracle(
    populated: PopulatedDatabase, events: list[Row]
) -> None:
    mine = [event for event in events if event["workspace_id"] == populated.workspaces[0]]
    kinds = {kind.KIND: kind for kind in KINDS_COMPARED}
    scope = Scope(populated.workspaces[0])
    compared = 0
    with write_pool(populated.urls.app) as pool:
        log = EventLog(pool)
        for event in mine:
            kind = kinds.get(event["topic"].split(".")[0])
            if kind is None or compared > 300:
                continue
            stream, version = event["stream_id"], event["stream_version"]
            (state,) = entity_states(
                e for e in mine if e["stream_id"] == stream and e["stream_version"] <= version
            )
            found = entity_as_of(log, scope, kind, stream, version=version)
            assert found == (None if state.is_deleted else shown(state))
            compared += 1


def shown(state: EntityState) -> dict[str, Any]:
    """Return the API's representation of the entity's own values."""
    return {
        "id": state.id,
        **({} if state.kind not in LINKED_TO_ACCOUNT else {"accountId": state.account_id}),
        **({"statusChangedAt": state.status_changed_at} if state.kind in WITH_STATUS_DATE else {}),
        **dict.fromkeys(FIELDS_OF[state.kind].split()),
        **state.fields,
        "customFields": state.custom,
        "createdAt": state.created_at,
        "updatedAt": state.updated_at,
        "version": state.version,
    }


FIELDS_OF = {
    "account": """company type status priority nextAction nextActionDate checkSize dealValue
                  opportunity assignedTo""",
    "appointment": """title memberId startsAt endsAt status leadId contactId location notes
                      allowOverlap confirmedAt confirmedBy confirmationNotes cancelReason
                      assignedTo""",
    "contact": "name email phone title assignedTo",
    "lead": """name status company email phone source value nextAction nextActionDate notes
               smsOptOut assignedTo convertedAccountId convertedContactId
               convertedOpportunityId""",
    "meeting": "title status startsAt endsAt location agenda assignedTo",
    "opportunity": "name stage value engagedOn expectedCloseOn closedOn assignedTo",
    **{each.kind.KIND: f"{each.columns} assignedTo" for each in DESCRIBED_KINDS},
}


@pytest.fixture
def acme(commands: EntityCommands, scope: Scope) -> UUID:
    """Create an account on January 1st, rename it on the 2nd, set it active on the 3rd.

    It is deleted and restored now.
    """
    account = commands.create(scope, Account, ACME, occurred_at=YEAR_2026).entity.id
    for day, change in ((2, {"company": "Acme Corp"}), (3, {"status": "active"})):
        commands.revise(
            scope,
            Account,
            account,
            lambda values, change=change: {**values, **change},  # type: ignore[misc]
            occurred_at=YEAR_2026 + timedelta(days=day - 1),
        )
    commands.delete(scope, Account, account)
    commands.restore(scope, Account, account)
    return account


@pytest.mark.parametrize(
    ("version", "company", "status"),
    [
        (0, None, None),
        (1, "Acme", "prospect"),
        (2, "Acme Corp", "prospect"),
        (3, "Acme Corp", "active"),
        (4, None, None),
        (5, "Acme Corp", "active"),
        (6, None, None),
    ],
)
def test_account_as_of_version(
    log: EventLog, scope: Scope, acme: UUID, version: int, company: str | None, status: str | None
) -> None:
    found = entity_as_of(log, scope, Account, acme, version=version)
    if company is None:
        assert found is None
    else:
        assert found is not None
        assert (found["company"], found["status"], found["version"]) == (company, status, version)


@pytest.mark.parametrize(
    ("day", "company"),
    [(0.999, None), (1, "Acme"), (1.999, "Acme"), (2, "Acme Corp"), (9_000, "Acme Corp")],
)
def test_account_as_of_time(
    log: EventLog, scope: Scope, acme: UUID, day: float, company: str | None
) -> None:
    at = YEAR_2026 + timedelta(days=day - 1)
    found = entity_as_of(log, scope, Account, acme, at=at)
    assert (found and found["company"]) == company


def test_as_of_another_kind_or_workspace_is_none(log: EventLog, scope: Scope, acme: UUID) -> None:
    assert entity_as_of(log, scope, Contact, acme, version=1) is None
    assert entity_as_of(log, Scope(uuid4()), Account, acme, version=1) is None


def history_of(
    urls: Urls,
    workspace_id: UUID,
    entity_id: UUID,
    kind: str = "account",
    *,
    after_version: int = 0,
    limit: int = 100,
) -> Any:
    """Return the history of an entity, parsed; None if the entity does not exist."""

    async def ask() -> bytes | None:
        async with await AsyncConnection.connect(urls.app) as connection:
            raw_json(connection)
            await connection.execute(
                "SELECT set_config('annals.workspace_id', %s, true)", [str(workspace_id)]
            )
            return await entity_history(
                connection,
                workspace_id,
                kind,
                entity_id,
                after=after_version,
                limit=limit,
                with_addresses=True,
            )

    answer = asyncio.run(ask())
    return answer and orjson.loads(answer)


def test_history_shows_actor_action_and_changes(
    urls: Urls, commands: EntityCommands, workspace: UUID
) -> None:
    ada = Scope(
        workspace,
        Actor("member", "ada", "Ada"),
        command="ReviseAccount",
        command_id="c-1",
        causation_id="e-1",
        request_id="r-1",
        ip="192.0.2.1",
        user_agent="curl",
    )
    fields = {**ACME, "customFields": {"sector": "food", "vip": True}}
    account = commands.create(ada, Account, fields, occurred_at=YEAR_2026).entity.id
    revised = {"company": "Acme Corp", "status": "active", "customFields": {"vip": 1}}
    commands.revise(ada, Account, account, lambda values: {**values, **revised})
    commands.delete(ada, Account, account)
    commands.restore(ada, Account, account)
    items = history_of(urls, workspace, account)["items"]
    assert [(item["version"], item["action"]) for item in items] == [
        (1, "create"),
        (2, "update"),
        (3, "status_change"),
        (4, "delete"),
        (5, "restore"),
    ]
    before = {**ACME, "status": "prospect", "priority": "medium"}
    whole = {**before, "customFields": {"sector": "food", "vip": True}}
    after = {**before, "company": "Acme Corp", "status": "active", "customFields": {"vip": 1}}
    assert changes(items[0]) == {name: (None, value) for name, value in whole.items()}
    assert changes(items[1]) == {
        "company": ("Acme", "Acme Corp"),
        "customFields.sector": ("food", None),
        "customFields.vip": (True, 1),
    }
    assert exact(changes(items[1])["customFields.vip"][0]) == exact(True)
    assert changes(items[2]) == {"status": ("prospect", "active")}
    assert changes(items[3]) == {name: (value, None) for name, value in after.items()}
    assert changes(items[4]) == {name: (None, value) for name, value in after.items()}
    for item in items:
        assert item["actor"] == {"type": "member", "id": "ada", "name": "Ada"}
        assert (item["command"], item["commandId"]) == ("ReviseAccount", "c-1")
        assert (item["causationId"], item["requestId"]) == ("e-1", "r-1")
        assert (item["ip"], item["userAgent"]) == ("192.0.2.1", "curl")
    assert datetime.fromisoformat(items[0]["occurredAt"]) == YEAR_2026
    assert datetime.fromisoformat(items[0]["recordedAt"]) > YEAR_2026


def changes(item: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {each["field"]: (each["before"], each["after"]) for each in item["changes"]}


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6])
def test_history_is_paged_by_version(urls: Urls, workspace: UUID, acme: UUID, limit: int) -> None:
    versions: list[int] = []
    after: int | None = 0
    while after is not None:
        page = history_of(urls, workspace, acme, after_version=after, limit=limit)
        versions += [item["version"] for item in page["items"]]
        after = page["nextCursor"]
    assert versions == [1, 2, 3, 4, 5]


def test_unknown_entity_has_no_history(urls: Urls, workspace: UUID, acme: UUID) -> None:
    assert history_of(urls, workspace, uuid4()) is None
    assert history_of(urls, uuid4(), acme) is None
    assert history_of(urls, workspace, acme, "contact") is None
    assert history_of(urls, workspace, acme, after_version=5) == {"items": [], "nextCursor": None}


def test_history_omits_secret_of_api_key(
    urls: Urls, commands: EntityCommands, scope: Scope, engine: ProjectionEngine
) -> None:
    issuer = credential(issue_first_key(urls.owner, scope.workspace_id))
    scope = replace(scope, credential=issuer)
    fields = {"name": "sync", "role": "member", "secretSha256": "0" * 64}
    key = commands.create(scope, ApiKey, fields).entity.id
    renewed = {"secretSha256": "1" * 64, "name": "Sync"}
    commands.revise(scope, ApiKey, key, lambda values: {**values, **renewed})
    commands.delete(scope, ApiKey, key)
    engine.catch_up()
    items = history_of(urls, scope.workspace_id, key, "api_key")["items"]

    async def audit(connection: Any) -> Any:
        query = AuditQuery(scope.workspace_id)
        return orjson.loads(await audit_page(connection, query, POSITION_MAX))["items"]

    trail = Pages(urls.app, scope.workspace_id).reading(audit)
    trail = [item for item in trail if item["entityId"] == str(key)]
    assert [changes(item) for item in trail] == [changes(item) for item in reversed(items)]
    for item in [*items, *trail]:
        assert "secretSha256" not in changes(item)
        assert "name" in changes(item)
