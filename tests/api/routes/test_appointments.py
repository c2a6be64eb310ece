"""Appointments over HTTP: their steps, and one appointment per member at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from commands.entities import EntityCommands
from commands.undo.commands import UndoCommands, UndoTarget
from domain.account import Account
from domain.appointment import Appointment
from domain.member import Member
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.refusals import TimeTaken
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from tests.support.api_server import ApiWorkspace, after
from tests.support.databases import Urls
from tests.support.oracle import assert_claims_match_log

TEN = "2026-02-01T10:00:00+00:00"
HALF_PAST = "2026-02-01T10:30:00+00:00"
ELEVEN = "2026-02-01T11:00:00+00:00"
NOON = "2026-02-01T12:00:00+00:00"
SCHEDULERS = 20


def create_member(api_workspace: ApiWorkspace) -> str:
    return str(api_workspace.make("members", name="Grace").json()["id"])


def schedule(api_workspace: ApiWorkspace, member_id: str, **fields: Any) -> httpx.Response:
    given = {
        "title": "First call",
        "memberId": member_id,
        "startsAt": TEN,
        "durationMinutes": 60,
        **fields,
    }
    return api_workspace.client().post("/api/appointments", json=given)


def create_appointment(api_workspace: ApiWorkspace, member_id: str, **fields: Any) -> str:
    response = schedule(api_workspace, member_id, **fields)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def step(api_workspace: ApiWorkspace, appointment: str, name: str, **given: Any) -> httpx.Response:
    url = f"/api/appointments/{appointment}/{name}"
    return (
        api_workspace.client().post(url, json=given) if given else api_workspace.client().post(url)
    )


def assert_taken(response: httpx.Response, by: str) -> None:
    assert (response.status_code, response.json()["code"]) == (409, "E5064"), response.text
    assert [each["entityId"] for each in response.json()["taken"]] == [by]


def test_appointment_goes_through_its_steps(api_workspace: ApiWorkspace) -> None:
    one = create_appointment(api_workspace, create_member(api_workspace))
    confirmed = step(api_workspace, one, "confirm", confirmedBy="Ada", notes="Gladly.", notify=True)
    assert confirmed.status_code == 200, confirmed.text
    assert confirmed.json()["confirmedBy"] == "Ada"
    assert confirmed.headers["ETag"].startswith('"2-')
    moved = step(api_workspace, one, "reschedule", startsAt="2026-02-01T12:00:00+02:00")
    assert moved.json()["status"] == "confirmed", "nothing moved"
    moved = step(api_workspace, one, "reschedule", startsAt=ELEVEN)
    assert (moved.json()["status"], moved.json()["endsAt"]) == (
        "scheduled",
        "2026-02-01T12:00:00+00:00",
    )
    assert step(api_workspace, one, "cancel", reason="Ill").json()["cancelReason"] == "Ill"
    assert step(api_workspace, one, "reschedule", startsAt=TEN).json()["cancelReason"] is None
    done = step(api_workspace, one, "complete")
    assert done.json()["status"] == "completed"
    refused = step(api_workspace, one, "no-show")
    assert (refused.status_code, refused.json()["code"]) == (409, "E5004")
    seen = api_workspace.client().get(f"/api/appointments/{one}", headers=after(done)).json()
    assert (seen["status"], seen["version"]) == ("completed", 6)
    history = api_workspace.client().get(f"/api/appointments/{one}/history").json()["items"]
    assert [each["topic"].split(".")[1] for each in history] == [
        *("created", "confirmed", "rescheduled", "cancelled", "rescheduled", "completed")
    ]
    assert {each["action"] for each in history[1:]} == {"status_change"}


def test_appointment_can_be_a_no_show(api_workspace: ApiWorkspace) -> None:
    assert (
        step(
            api_workspace,
            create_appointment(api_workspace, create_member(api_workspace)),
            "no-show",
        ).json()["status"]
        == "no_show"
    )


def test_second_confirmation_is_409(api_workspace: ApiWorkspace) -> None:
    one, client = (
        create_appointment(api_workspace, create_member(api_workspace)),
        api_workspace.client(),
    )
    given = {"appointmentId": one, "confirmedBy": "Ada", "notes": "Gladly."}
    response = client.post("/api/bookings/confirm", json=given)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer.keys() == {"success", "appointment"}
    assert answer["success"] is True
    appointment = answer["appointment"]
    assert appointment.keys() == {"id", "status", "confirmed_at", "confirmed_by"}
    assert (appointment["id"], appointment["status"]) == (one, "confirmed")
    assert appointment["confirmed_by"] == "Ada"
    again = client.post("/api/bookings/confirm", json=given)
    assert again.status_code == 409
    assert again.headers["Content-Type"] == "application/problem+json"
    problem = again.json()
    assert (problem["code"], problem["errorCode"], problem["success"]) == (
        "ALREADY_CONFIRMED",
        "E5065",
        False,
    )
    assert problem["confirmedAt"] == appointment["confirmed_at"]
    assert (
        step(api_workspace, one, "confirm", confirmedBy="Bob").json()["code"] == "ALREADY_CONFIRMED"
    )
    assert problem["error"] == problem["detail"]
    unknown = client.post("/api/bookings/confirm", json={**given, "appointmentId": str(uuid4())})
    assert (unknown.status_code, unknown.json()["success"]) == (404, False)


def test_refused_booking_has_the_same_error_when_it_is_retried(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    one = create_appointment(api_workspace, create_member(api_workspace))
    given = {"appointmentId": one, "confirmedBy": "Ada"}
    assert client.post("/api/bookings/confirm", json=given).status_code == 200
    headers = {"Idempotency-Key": str(uuid4())}
    first, second = (
        client.post("/api/bookings/confirm", json=given, headers=headers) for _ in range(2)
    )
    for refused in (first, second):
        problem = refused.json()
        assert (refused.status_code, problem["status"]) == (409, 409)
        assert (problem["code"], problem["errorCode"]) == ("ALREADY_CONFIRMED", "E5065")
        assert problem["error"] == "The appointment has already been confirmed."
        assert problem["success"] is False
        assert problem["confirmedBy"] == "Ada"


def test_booking_confirmation_honours_if_match(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    one = create_appointment(api_workspace, create_member(api_workspace))
    given = {"appointmentId": one, "confirmedBy": "Ada"}
    stale = client.post("/api/bookings/confirm", json=given, headers={"If-Match": '"7"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "E5008"), stale.text
    assert (stale.json()["success"], stale.json()["error"]) == (False, stale.json()["detail"])
    done = client.post("/api/bookings/confirm", json=given, headers={"If-Match": '"1"'})
    assert (done.status_code, done.headers["ETag"][:3]) == (200, '"2-')


def test_unknown_reference_is_422(api_workspace: ApiWorkspace) -> None:
    lead = api_workspace.make("leads", name="Ada").json()["id"]
    assert schedule(api_workspace, create_member(api_workspace), leadId=lead).status_code == 201
    for fields in ({"leadId": str(uuid4())}, {"contactId": lead}):
        refused = schedule(api_workspace, create_member(api_workspace), **fields)
        assert (refused.status_code, refused.json()["code"]) == (422, "E5063"), refused.text
    stranger = schedule(api_workspace, str(uuid4()))
    assert (stranger.status_code, stranger.json()["code"]) == (422, "E5006")


def test_overlapping_appointment_is_409(api_workspace: ApiWorkspace) -> None:
    grace = create_member(api_workspace)
    one = create_appointment(api_workspace, grace)
    for starts_at in (TEN, HALF_PAST, "2026-02-01T09:30:00Z"):
        assert_taken(schedule(api_workspace, grace, startsAt=starts_at), by=one)
    create_appointment(api_workspace, grace, startsAt=ELEVEN)
    create_appointment(api_workspace, grace, startsAt="2026-02-01T09:00:00Z")
    create_appointment(api_workspace, create_member(api_workspace))
    beside = create_appointment(
        api_workspace, grace, startsAt=HALF_PAST, durationMinutes=10, allowOverlap=True
    )
    refused = schedule(api_workspace, grace, startsAt=HALF_PAST, durationMinutes=5)
    assert {each["entityId"] for each in refused.json()["taken"]} == {one, beside}


def test_cancelled_or_deleted_appointment_frees_its_time(api_workspace: ApiWorkspace) -> None:
    grace, client = create_member(api_workspace), api_workspace.client()
    one = create_appointment(api_workspace, grace)
    step(api_workspace, one, "cancel")
    two = create_appointment(api_workspace, grace)
    assert_taken(step(api_workspace, one, "reschedule", startsAt=HALF_PAST), by=two)
    client.delete(f"/api/appointments/{two}")
    assert step(api_workspace, one, "reschedule", startsAt=HALF_PAST).status_code == 200
    assert_taken(client.post(f"/api/appointments/{two}/restore"), by=one)
    earlier = create_appointment(api_workspace, grace, durationMinutes=30)
    longer = client.patch(f"/api/appointments/{earlier}", json={"endsAt": ELEVEN})
    assert_taken(longer, by=one)


def test_overlapping_appointment_may_change_without_moving(api_workspace: ApiWorkspace) -> None:
    grace, client = create_member(api_workspace), api_workspace.client()
    one = create_appointment(api_workspace, grace)
    create_appointment(api_workspace, grace, allowOverlap=True)
    assert step(api_workspace, one, "confirm", confirmedBy="Ada").status_code == 200
    assert client.patch(f"/api/appointments/{one}", json={"notes": "x"}).status_code == 200
    shorter = client.patch(f"/api/appointments/{one}", json={"endsAt": HALF_PAST})
    assert shorter.status_code == 200
    longer = client.patch(f"/api/appointments/{one}", json={"endsAt": ELEVEN})
    assert longer.json()["code"] == "E5064"


def test_undo_that_would_overlap_is_refused(api_workspace: ApiWorkspace) -> None:
    grace, client = create_member(api_workspace), api_workspace.client()
    one = create_appointment(api_workspace, grace)
    moved = step(api_workspace, one, "reschedule", startsAt=ELEVEN)
    two = create_appointment(api_workspace, grace)
    command = {"commandId": moved.headers["Annals-Command"]}
    assert_taken(client.post("/api/undo", json=command), by=two)
    client.delete(f"/api/appointments/{two}")
    undone = client.post("/api/undo", json=command)
    assert undone.status_code == 200, undone.text
    seen = client.get(f"/api/appointments/{one}", headers=after(undone)).json()
    assert datetime.fromisoformat(seen["startsAt"]) == datetime.fromisoformat(TEN)
    assert_taken(schedule(api_workspace, grace), by=one)


def test_account_is_not_restored_if_its_appointment_would_overlap(
    api_workspace: ApiWorkspace,
) -> None:
    grace, client, account = (
        create_member(api_workspace),
        api_workspace.client(),
        api_workspace.account(),
    )
    create_appointment(api_workspace, grace, accountId=account)
    client.delete(f"/api/accounts/{account}")
    two = create_appointment(api_workspace, grace)
    assert_taken(client.post(f"/api/accounts/{account}/restore"), by=two)
    history = client.get(f"/api/accounts/{account}/history").json()["items"]
    assert history[-1]["action"] == "delete"
    step(api_workspace, two, "cancel")
    assert client.post(f"/api/accounts/{account}/restore").status_code == 200


def test_bulk_change_that_would_overlap_is_refused(api_workspace: ApiWorkspace) -> None:
    grace, client = create_member(api_workspace), api_workspace.client()
    one, two = (
        create_appointment(api_workspace, grace),
        create_appointment(api_workspace, grace, startsAt=ELEVEN),
    )
    other = create_appointment(api_workspace, create_member(api_workspace), startsAt=ELEVEN)
    change = {"kind": "appointment", "ids": [one, two, other], "change": {"set": {"endsAt": NOON}}}
    response = client.post("/api/bulk", json=change)
    assert response.status_code == 207, response.text
    outcomes = {each["id"]: each for each in response.json()["outcomes"]}
    assert outcomes[one]["problem"]["code"] == "E5064"
    assert outcomes[two]["status"] == outcomes[other]["status"] == 200
    assert_taken(client.post("/api/bulk", json={**change, "atomic": True}), by=two)
    lead = {**change, "change": {"set": {"leadId": one}}}
    refused = client.post("/api/bulk", json=lead).json()["outcomes"]
    assert {each["problem"]["code"] for each in refused} == {"E5063"}


def test_one_of_many_concurrent_appointments_is_scheduled(api_workspace: ApiWorkspace) -> None:
    grace = create_member(api_workspace)
    clients = [api_workspace.api.client(api_workspace.token("member")) for _ in range(SCHEDULERS)]

    def book(client: httpx.Client) -> int:
        given = {"title": "x", "memberId": grace, "startsAt": TEN, "durationMinutes": 30}
        return client.post("/api/appointments", json=given).status_code

    with ThreadPoolExecutor(SCHEDULERS) as pool:
        answers = list(pool.map(book, clients))
    assert sorted(answers) == [201, *[409] * (SCHEDULERS - 1)]


@pytest.fixture
def grace(commands: EntityCommands, scope: Scope) -> UUID:
    return commands.create(scope, Member, {"name": "Grace"}).entity.id


@pytest.fixture
def owner(urls: Urls) -> Iterator[Connection]:
    """A connection of the role that owns the log."""
    with psycopg.connect(urls.owner, autocommit=True) as connection:
        yield connection


def appointment_values(grace: UUID, starts_at: str = TEN, **fields: Any) -> FieldValues:
    return {
        "title": "x",
        "memberId": str(grace),
        "startsAt": starts_at,
        "durationMinutes": 30,
        **fields,
    }


def test_concurrent_moves_never_overlap(
    commands: EntityCommands, scope: Scope, grace: UUID, database: Connection
) -> None:
    ids = [
        commands.create(
            scope, Appointment, appointment_values(grace, f"2026-02-{day:02}T10:00:00Z")
        ).entity.id
        for day in range(1, SCHEDULERS + 1)
    ]
    hours = ["2026-03-01T10:00:00Z", "2026-03-01T10:15:00Z", "2026-03-01T10:45:00Z"]

    def move(number: int) -> None:
        def decide(one: Appointment, at: datetime) -> None:
            one.reschedule({"startsAt": hours[number % 3]}, at=at)

        with suppress(TimeTaken):
            commands.act(scope, Appointment, ids[number], decide)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(move, range(SCHEDULERS)))
    moved = database.execute(
        "SELECT starts_at, ends_at FROM claimed_times WHERE starts_at >= '2026-03-01' ORDER BY 1"
    ).fetchall()
    assert moved
    assert all(one[1] <= other[0] for one, other in pairwise(moved))
    assert_claims_match_log(database)


def test_refusal_within_a_transaction_keeps_the_other_claims(
    log: EventLog, commands: EntityCommands, scope: Scope, grace: UUID, database: Connection
) -> None:
    with log.transaction(scope):
        commands.create(scope, Appointment, appointment_values(grace))
        with pytest.raises(TimeTaken):
            commands.create(scope, Appointment, appointment_values(grace))
        commands.create(scope, Appointment, appointment_values(grace, ELEVEN))
    assert_claims_match_log(database)


def test_two_appointments_may_swap_times_in_one_append(
    log: EventLog, commands: EntityCommands, scope: Scope, grace: UUID, database: Connection
) -> None:
    one = commands.create(scope, Appointment, appointment_values(grace)).entity.id
    two = commands.create(scope, Appointment, appointment_values(grace, ELEVEN)).entity.id
    with log.transaction(scope):
        pair = [log.load(Appointment, each) for each in (one, two)]
        for each, starts_at in zip(pair, (ELEVEN, TEN), strict=True):
            each.reschedule({"startsAt": starts_at}, at=each.modified_on)
        log.append(*pair)
    assert_claims_match_log(database)


def test_overlapping_appointments_in_one_append_are_refused(
    log: EventLog, commands: EntityCommands, scope: Scope, grace: UUID, database: Connection
) -> None:
    at = commands.create(scope, Account, {"company": "x", "type": "customer"}).entity.created_on
    pair: list[Entity] = [
        Appointment.create(uuid4(), scope.workspace_id, appointment_values(grace), at=at)
        for _ in "12"
    ]
    with pytest.raises(TimeTaken), log.scoped(scope):
        log.append(*pair)
    assert database.execute("SELECT FROM claimed_times").fetchall() == []


def test_undo_keeps_claimed_times_equal_to_the_log(
    log: EventLog, commands: EntityCommands, scope: Scope, grace: UUID, database: Connection
) -> None:
    undo = UndoCommands(log, clock=lambda: datetime.now().astimezone())
    one = commands.create(scope, Appointment, appointment_values(grace))
    gone = commands.delete(scope, Appointment, one.entity.id)
    assert_claims_match_log(database)
    undone = undo.undo(scope, UndoTarget((gone.position,)))
    assert_claims_match_log(database)
    undo.undo(scope, UndoTarget((undone.position,)))
    assert_claims_match_log(database)
    assert database.execute("SELECT FROM claimed_times").fetchall() == []


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM claimed_times",
        "UPDATE claimed_times SET starts_at = starts_at - interval '1 day'",
        "UPDATE claimed_times SET may_overlap = NOT may_overlap",
    ],
)
def test_claimed_times_are_repaired_from_the_log(
    log: EventLog,
    commands: EntityCommands,
    scope: Scope,
    grace: UUID,
    database: Connection,
    owner: Connection,
    damage: str,
) -> None:
    made = [
        commands.create(scope, Appointment, appointment_values(grace, allowOverlap=True)).entity.id
        for _ in range(3)
    ]
    cancelled = commands.create(scope, Appointment, appointment_values(grace, ELEVEN)).entity.id
    commands.act(scope, Appointment, cancelled, lambda one, at: one.cancel(at=at))
    assert log.repair_claims(scope, owner) == []
    database.execute(damage.encode())
    assert sorted(log.repair_claims(scope, owner)) == sorted(made)
    assert_claims_match_log(database)
    database.execute(
        """INSERT INTO claimed_times
           VALUES (%s, %s, %s, now(), now() + interval '1 hour', false)""",
        (scope.workspace_id, cancelled, grace),
    )
    assert log.repair_claims(scope, owner) == [cancelled]


def test_claimed_times_of_another_workspace_are_invisible_and_no_obstacle(
    commands: EntityCommands, scope: Scope, grace: UUID, urls: Urls
) -> None:
    commands.create(scope, Appointment, appointment_values(grace))
    with psycopg.connect(urls.app, autocommit=True) as connection:
        assert connection.execute("SELECT FROM claimed_times").fetchall() == []
        connection.execute(
            "SELECT set_config('annals.workspace_id', %s, false)", (str(scope.workspace_id),)
        )
        assert len(connection.execute("SELECT FROM claimed_times").fetchall()) == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE claimed_times SET workspace_id = gen_random_uuid()")
    other = Scope(uuid4())
    member = commands.create(other, Member, {"name": "Grace"}, entity_id=None).entity.id
    commands.create(other, Appointment, appointment_values(member))
