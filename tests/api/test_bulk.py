"""POST /api/bulk: each item its own outcome, all of them or none, or a job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from commands.bulk import ATOMIC_ITEMS_MAX, INLINE_ITEMS_MAX, JOB_ITEMS_MAX
from domain.account import Account
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from domain.task import Task
from eventlog.scope import Scope
from runtime.composition import now
from tests.support.api_server import Office, after
from tests.support.oracle import assert_tables_tell_history
from tests.support.processes import until

MANY = INLINE_ITEMS_MAX + 40
HIGH = {"set": {"priority": "high"}}


def accounts(office: Office, count: int, **fields: Any) -> list[str]:
    """The ids of many accounts, written at once and projected."""
    log = office.api.writing.log
    made: list[Entity] = []
    for number in range(count):
        given = {"company": f"Company {number:03}", "type": "customer", **fields}
        made.append(Account.create(uuid4(), office.workspace_id, given, at=now()))
    with log.scoped(Scope(office.workspace_id)):
        position = log.append(*made)
    assert position is not None
    office.api.until_projected(position)
    return [str(each.id) for each in made]


def ask(office: Office, *, role: str = "admin", key: str | None = None, **given: Any) -> Any:
    """The answer to POST /api/bulk."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return office.client(role).post("/api/bulk", json={"kind": "account", **given}, headers=headers)


def events_of(office: Office, command_id: str) -> list[tuple[UUID, str]]:
    """Entity and topic of every event of a command but those of its job."""
    with psycopg.connect(str(office.api.settings.projector_url)) as connection:
        return connection.execute(
            "SELECT stream_id, topic FROM events WHERE workspace_id = %s"
            " AND metadata->>'commandId' = %s AND topic NOT LIKE 'job.%%' ORDER BY position",
            (office.workspace_id, command_id),
        ).fetchall()


def ended(office: Office, location: str) -> dict[str, Any]:
    """The job once it has ended."""
    client = office.client()
    found: list[dict[str, Any]] = [{}]

    def has_ended() -> bool:
        response = client.get(location)
        found[0] = response.json()
        return response.status_code == 200 and found[0]["endedAt"] is not None

    until(has_ended)
    return found[0]


def test_each_item_has_an_outcome(office: Office) -> None:
    first, second = accounts(office, 2)
    gone = accounts(office, 1)[0]
    office.client().delete(f"/api/accounts/{gone}")
    unknown = str(uuid4())
    answer = ask(office, ids=[first, gone, unknown, second], change=HIGH)
    assert answer.status_code == 207
    told = answer.json()
    assert (told["total"], told["succeeded"], told["failed"]) == (4, 2, 2)
    outcomes = told["outcomes"]
    assert outcomes[0] == {"id": first, "status": 200, "version": 2}
    assert (outcomes[1]["status"], outcomes[1]["problem"]["code"]) == (409, "E5003")
    assert (outcomes[2]["status"], outcomes[2]["problem"]["code"]) == (404, "E5002")
    assert outcomes[3] == {"id": second, "status": 200, "version": 2}
    assert told["commandId"] == answer.headers["Annals-Command"]
    assert events_of(office, told["commandId"]) == [
        (UUID(first), "account.updated"),
        (UUID(second), "account.updated"),
    ]
    shown = office.client().get(f"/api/accounts/{first}", headers=after(answer)).json()
    assert shown["priority"] == "high"


def test_what_is_so_already_records_nothing_and_is_done(office: Office) -> None:
    ids = accounts(office, 3, priority="high")
    answer = ask(office, ids=[*ids, *ids], change=HIGH)
    assert answer.json()["succeeded"] == answer.json()["total"] == 3
    assert [each["version"] for each in answer.json()["outcomes"]] == [1, 1, 1]
    assert events_of(office, answer.json()["commandId"]) == []


def test_status_and_assignee_are_set_as_fields(office: Office) -> None:
    member = office.make("members", name="Ada").json()["id"]
    ids = accounts(office, 2)
    change = {"set": {"status": "active", "assignedTo": member, "nextAction": None}}
    answer = ask(office, ids=ids, change=change)
    assert answer.json()["failed"] == 0
    topics = [topic for _, topic in events_of(office, answer.json()["commandId"])]
    assert topics == ["account.updated", "account.status_changed"] * 2
    shown = office.client().get(f"/api/accounts/{ids[1]}", headers=after(answer)).json()
    assert (shown["status"], shown["assignedTo"], shown["assignedToName"]) == (
        "active",
        member,
        "Ada",
    )
    stranger = ask(office, ids=ids, change={"set": {"assignedTo": str(uuid4())}})
    codes = [each["problem"]["code"] for each in stranger.json()["outcomes"]]
    assert codes == ["E5006", "E5006"]


def test_an_account_with_open_opportunities_stays(office: Office) -> None:
    kept, gone = accounts(office, 2)
    office.make("opportunities", accountId=kept, name="Renewal")
    task = office.make("tasks", accountId=gone, title="Call").json()["id"]
    answer = ask(office, ids=[kept, gone], change={"delete": True})
    first, second = answer.json()["outcomes"]
    assert (first["status"], first["problem"]["code"]) == (409, "E5001")
    assert len(first["problem"]["opportunityIds"]) == 1
    assert second["status"] == 200
    recorded = events_of(office, answer.json()["commandId"])
    assert recorded == [(UUID(task), "task.deleted"), (UUID(gone), "account.deleted")]
    again = ask(office, ids=[gone], change={"restore": True})
    assert again.json()["succeeded"] == 1
    recorded = events_of(office, again.json()["commandId"])
    assert recorded == [(UUID(gone), "account.restored"), (UUID(task), "task.restored")]
    shown = office.client().get(f"/api/accounts/{gone}", headers=after(again)).json()
    assert shown["taskCount"] == 1


def test_what_hangs_on_a_deleted_account_does_not_come_back_alone(office: Office) -> None:
    account = office.account()
    task = office.make("tasks", accountId=account, title="Call").json()["id"]
    other = office.make("tasks", accountId=office.account(), title="Write").json()["id"]
    deleted = ask(office, kind="task", ids=[task, other], change={"delete": True})
    assert deleted.json()["succeeded"] == 2
    office.client().delete(f"/api/accounts/{account}")
    answer = ask(office, kind="task", ids=[task, other], change={"restore": True})
    first, second = answer.json()["outcomes"]
    assert (first["status"], first["problem"]["code"]) == (422, "E5005")
    assert second["status"] == 200


def test_atomic_is_all_or_nothing(office: Office) -> None:
    ids = accounts(office, INLINE_ITEMS_MAX + 2)
    unknown = str(uuid4())
    refused = ask(office, ids=[*ids, unknown], change=HIGH, atomic=True)
    assert (refused.status_code, refused.json()["code"]) == (409, "E5031")
    assert [each["id"] for each in refused.json()["outcomes"]] == [unknown]
    assert refused.json()["outcomes"][0]["problem"]["code"] == "E5002"
    done = ask(office, ids=ids, change=HIGH, atomic=True)
    assert (done.status_code, done.json()["succeeded"]) == (207, len(ids))
    assert {each["version"] for each in done.json()["outcomes"]} == {2}


def test_a_filter_is_that_of_the_list(office: Office) -> None:
    customers = accounts(office, 3)
    accounts(office, 2, type="partner")
    answer = ask(office, filter={"type": "customer", "search": "company 00"}, change=HIGH)
    assert {each["id"] for each in answer.json()["outcomes"]} == set(customers)
    everything = ask(office, filter={"type": "all"}, change=HIGH)
    assert everything.json()["total"] == 5
    none = ask(office, filter={"status": "active"}, change=HIGH)
    assert (none.status_code, none.json()["total"]) == (207, 0)


def test_a_filter_sees_what_was_just_written(office: Office) -> None:
    made = office.make("accounts", company="A", type="partner")
    answer = office.client().post(
        "/api/bulk",
        json={"kind": "account", "filter": {"type": "partner"}, "change": HIGH},
        headers=after(made),
    )
    assert answer.json()["succeeded"] == 1


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"change": HIGH}, "body"),
    ({"ids": [], "change": HIGH}, "ids"),
    ({"ids": ["x"], "change": HIGH}, "ids.0"),
    ({"ids": [str(UUID(int=1))], "filter": {}, "change": HIGH}, "body"),
    ({"ids": [str(UUID(int=1))]}, "change"),
    ({"ids": [str(UUID(int=1))], "change": {}}, "change"),
    ({"ids": [str(UUID(int=1))], "change": {"set": {}}}, "change.set"),
    ({"ids": [str(UUID(int=1))], "change": {**HIGH, "delete": True}}, "change"),
    ({"ids": [str(UUID(int=1))], "change": {"delete": False}}, "change.delete"),
    ({"ids": [str(UUID(int=1))], "change": {"set": {"colour": "red"}}}, "change.set.colour"),
    ({"filter": {"colour": "red"}, "change": HIGH}, "filter.colour"),
    ({"filter": {"type": "enemy"}, "change": HIGH}, "filter.type"),
    ({"filter": {}, "change": {"restore": True}}, "body"),
    ({"kind": "api_key", "ids": [str(UUID(int=1))], "change": {"delete": True}}, "kind"),
]


@pytest.mark.parametrize(("given", "field"), INVALID, ids=lambda each: str(each)[:60])
def test_what_cannot_be_meant_is_refused(office: Office, given: dict[str, Any], field: str) -> None:
    refused = ask(office, **given)
    assert refused.status_code == 422, refused.text
    assert [each["field"] for each in refused.json()["errors"]] == [field]


def test_it_takes_what_the_change_of_one_takes(office: Office) -> None:
    ids = accounts(office, 1)
    assert ask(office, role="member", ids=ids, change=HIGH).status_code == 207
    assert ask(office, role="analyst", ids=ids, change=HIGH).status_code == 403
    member = office.make("members", name="Ada").json()["id"]
    given: dict[str, Any] = {"kind": "member", "ids": [member], "change": {"set": {"title": "CEO"}}}
    refused = ask(office, role="member", **given)
    assert (refused.status_code, refused.json()["permission"]) == (403, "members")
    assert ask(office, **given).json()["succeeded"] == 1


def test_there_is_an_end_to_how_many(office: Office) -> None:
    ids = [str(UUID(int=number)) for number in range(JOB_ITEMS_MAX + 1)]
    refused = ask(office, ids=ids[: ATOMIC_ITEMS_MAX + 1], change=HIGH, atomic=True)
    assert (refused.status_code, refused.json()["code"]) == (422, "E2050")
    assert (refused.json()["found"], refused.json()["limit"]) == (1_001, ATOMIC_ITEMS_MAX)
    refused = ask(office, ids=ids, change=HIGH)
    assert (refused.status_code, refused.json()["limit"]) == (422, JOB_ITEMS_MAX)


def test_another_workspaces_things_are_not_there(office: Office) -> None:
    theirs = accounts(office.api.office(), 2)
    answer = ask(office, ids=theirs, change={"delete": True})
    assert [each["status"] for each in answer.json()["outcomes"]] == [404, 404]
    assert ask(office, filter={}, change={"delete": True}).json()["total"] == 0


# As a job


def test_many_become_a_job(office: Office) -> None:
    ids = accounts(office, MANY)
    gone = ids[17]
    deleted = office.client().delete(f"/api/accounts/{gone}")
    answer = ask(office, ids=ids, change=HIGH)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["kind"], told["status"], told["total"]) == ("bulk", "waiting", MANY)
    assert answer.headers["Location"] == f"/api/jobs/{told['id']}"
    job = ended(office, answer.headers["Location"])
    assert (job["status"], job["processed"], job["succeeded"], job["failed"]) == (
        "completed",
        MANY,
        MANY - 1,
        1,
    )
    (error,) = job["errors"]
    assert (error["row"], error["id"], error["code"]) == (18, gone, "E5003")
    assert job["parameters"] == {"kind": "account", "change": HIGH}
    assert job["requestedBy"]["type"] == "api_key"
    assert job["commandId"] == told["commandId"] == answer.headers["Annals-Command"]
    recorded = events_of(office, told["commandId"])
    assert recorded == [(UUID(each), "account.updated") for each in ids if each != gone]
    assert int(deleted.headers["Annals-Position"]) < int(answer.headers["Annals-Position"])


def test_a_filter_is_resolved_once_at_one_position(office: Office) -> None:
    ids = accounts(office, MANY)
    wanted = {"type": "customer", "priority": "medium"}
    answer = ask(office, filter=wanted, change={"set": {"priority": "low"}})
    assert answer.status_code == 202
    later = office.account(company="Later")
    job = ended(office, answer.headers["Location"])
    assert job["succeeded"] == MANY
    assert job["parameters"]["filter"] == wanted
    assert job["parameters"]["position"] > 0
    recorded = {stream for stream, _ in events_of(office, answer.json()["commandId"])}
    assert recorded == {UUID(each) for each in ids}
    assert UUID(later) not in recorded


def test_a_repeated_request_makes_one_job(office: Office) -> None:
    ids = accounts(office, MANY)
    key = str(uuid4())
    answers: list[httpx.Response] = []

    def repeat() -> None:
        answers.append(ask(office, key=key, ids=ids, change=HIGH))

    office.client()
    threads = [threading.Thread(target=repeat) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    final = ask(office, key=key, ids=ids, change=HIGH)
    assert final.headers["Idempotent-Replayed"] == "true"
    assert {each.status_code for each in answers} <= {202, 409}
    assert {each.content for each in answers if each.status_code == 202} == {final.content}
    job = ended(office, final.headers["Location"])
    assert job["succeeded"] == MANY
    jobs = office.client().get("/api/jobs").json()["items"]
    assert [each["id"] for each in jobs] == [job["id"]]
    assert len(events_of(office, job["commandId"])) == MANY


def test_deleting_accounts_in_bulk_takes_along_what_hangs_on_them(office: Office) -> None:
    ids = accounts(office, MANY)
    log = office.api.writing.log
    hanging: list[Entity] = [
        Task.create(uuid4(), office.workspace_id, {"title": "T"}, at=now(), account_id=UUID(each))
        for each in ids[:50]
    ]
    held = Opportunity.create(
        uuid4(), office.workspace_id, {"name": "O"}, at=now(), account_id=UUID(ids[-1])
    )
    with log.scoped(Scope(office.workspace_id)):
        log.append(*hanging, held)
    answer = ask(office, ids=ids, change={"delete": True})
    job = ended(office, answer.headers["Location"])
    assert (job["succeeded"], job["failed"]) == (MANY - 1, 1)
    assert job["errors"][0]["code"] == "E5001"
    topics = [topic for _, topic in events_of(office, job["commandId"])]
    assert topics.count("task.deleted") == 50
    assert topics.count("account.deleted") == MANY - 1


@pytest.mark.parametrize("count", [3, MANY])
def test_a_bulk_is_undone_by_its_command(office: Office, count: int) -> None:
    ids = accounts(office, count)
    answer = ask(office, ids=ids, change=HIGH)
    if answer.status_code == 202:
        ended(office, answer.headers["Location"])
    command = {"commandId": answer.json()["commandId"]}
    undone = office.client().post("/api/undo", json=command)
    assert undone.status_code == 200, undone.text
    assert len(undone.json()["changes"]) == count
    shown = office.client().get(f"/api/accounts/{ids[-1]}", headers=after(undone)).json()
    assert shown["priority"] == "medium"
    again = office.client().post("/api/undo", json={"commandId": undone.json()["commandId"]})
    shown = office.client().get(f"/api/accounts/{ids[-1]}", headers=after(again)).json()
    assert shown["priority"] == "high"


def test_how_far_a_job_is_cannot_be_undone_by_itself(office: Office) -> None:
    ids = accounts(office, MANY)
    answer = ask(office, ids=ids, change=HIGH)
    position = {"eventPosition": int(answer.headers["Annals-Position"])}
    refused = office.client().post("/api/undo", json=position)
    assert (refused.status_code, refused.json()["code"]) == (404, "E5017")
    ended(office, answer.headers["Location"])


def test_whoever_changes_the_same_things_meanwhile_loses_nothing(office: Office) -> None:
    ids = accounts(office, 40)
    stop = threading.Event()

    def change(act: Callable[[int], Any]) -> None:
        for number in range(8):
            act(number)
            if stop.is_set():
                return

    def one_by_one(number: int) -> None:
        for each in ids[:10]:
            response = client.patch(f"/api/accounts/{each}", json={"nextAction": f"Call {number}"})
            assert response.status_code == 200, response.text

    def together(number: int) -> None:
        wanted = ["low", "medium", "high"][number % 3]
        answer = ask(office, ids=ids, change={"set": {"priority": wanted}})
        assert answer.json()["failed"] == 0, answer.text

    client = office.client()
    other = threading.Thread(target=change, args=(one_by_one,))
    other.start()
    try:
        change(together)
    finally:
        stop.set()
        other.join()
    last = ask(office, ids=ids, change={"set": {"nextAction": "Call last"}})
    for each in ids[:10]:
        shown = client.get(f"/api/accounts/{each}", headers=after(last)).json()
        assert (shown["priority"], shown["nextAction"]) == ("medium", "Call last")


def test_deleting_restoring_and_changing_in_turn_comes_out_right(office: Office) -> None:
    ids = accounts(office, MANY)
    ask(office, ids=ids[:100], change={"delete": True})
    ask(office, ids=ids[50:100], change={"restore": True})
    answer = ask(office, ids=ids, change={"set": {"customFields": {"b": 2}}})
    job = ended(office, answer.headers["Location"])
    assert job["failed"] == job["errorsTotal"] == 50
    assert [each["row"] for each in job["errors"]] == list(range(1, 51))
    with psycopg.connect(str(office.api.settings.projector_url), autocommit=True) as connection:
        row = connection.execute("SELECT readable_position()").fetchone()
        assert row is not None
        office.api.until_projected(row[0])
        assert_tables_tell_history(connection, [office.workspace_id])
