"""POST /api/bulk: one outcome per item, all or nothing, or a job."""

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
from eventlog.clock import local_time
from eventlog.scope import Scope
from tests.support.api_server import ApiWorkspace, after
from tests.support.oracle import assert_tables_match_log
from tests.support.waiting import wait_until

MANY = INLINE_ITEMS_MAX + 40
HIGH = {"set": {"priority": "high"}}


def create_accounts(api_workspace: ApiWorkspace, count: int, **fields: Any) -> list[str]:
    """Append accounts at once, wait for the projections, and return the ids."""
    log = api_workspace.api.writing.log
    made: list[Entity] = []
    for number in range(count):
        given = {"company": f"Company {number:03}", "type": "customer", **fields}
        made.append(Account.create(uuid4(), api_workspace.workspace_id, given, at=local_time()))
    with log.scoped(Scope(api_workspace.workspace_id)):
        position = log.append(*made)
    assert position is not None
    api_workspace.api.wait_until_projected(position)
    return [str(each.id) for each in made]


def post_bulk(
    api_workspace: ApiWorkspace, *, role: str = "admin", key: str | None = None, **given: Any
) -> Any:
    """Send POST /api/bulk and return the answer."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return api_workspace.client(role).post(
        "/api/bulk", json={"kind": "account", **given}, headers=headers
    )


def events_of(api_workspace: ApiWorkspace, command_id: str) -> list[tuple[UUID, str]]:
    """Return entity and topic of every event of a command, except the events of its job."""
    with psycopg.connect(str(api_workspace.api.settings.projector_url)) as connection:
        return connection.execute(
            "SELECT stream_id, topic FROM events WHERE workspace_id = %s"
            " AND metadata->>'commandId' = %s AND topic NOT LIKE 'job.%%' ORDER BY position",
            (api_workspace.workspace_id, command_id),
        ).fetchall()


def wait_for_job(api_workspace: ApiWorkspace, location: str) -> dict[str, Any]:
    """Wait until the job has ended, and return it."""
    client = api_workspace.client()
    found: list[dict[str, Any]] = [{}]

    def has_ended() -> bool:
        response = client.get(location)
        found[0] = response.json()
        return response.status_code == 200 and found[0]["endedAt"] is not None

    wait_until(has_ended, "the job has ended")
    return found[0]


def test_each_item_has_an_outcome(api_workspace: ApiWorkspace) -> None:
    first, second = create_accounts(api_workspace, 2)
    gone = create_accounts(api_workspace, 1)[0]
    api_workspace.client().delete(f"/api/accounts/{gone}")
    unknown = str(uuid4())
    answer = post_bulk(api_workspace, ids=[first, gone, unknown, second], change=HIGH)
    assert answer.status_code == 207
    body = answer.json()
    assert (body["total"], body["succeeded"], body["failed"]) == (4, 2, 2)
    outcomes = body["outcomes"]
    assert outcomes[0] == {"id": first, "status": 200, "version": 2}
    assert (outcomes[1]["status"], outcomes[1]["problem"]["code"]) == (409, "E5003")
    assert (outcomes[2]["status"], outcomes[2]["problem"]["code"]) == (404, "E5002")
    assert outcomes[3] == {"id": second, "status": 200, "version": 2}
    assert body["commandId"] == answer.headers["Annals-Command"]
    assert events_of(api_workspace, body["commandId"]) == [
        (UUID(first), "account.updated"),
        (UUID(second), "account.updated"),
    ]
    shown = api_workspace.client().get(f"/api/accounts/{first}", headers=after(answer)).json()
    assert shown["priority"] == "high"


def test_item_without_a_change_succeeds_and_records_nothing(api_workspace: ApiWorkspace) -> None:
    ids = create_accounts(api_workspace, 3, priority="high")
    answer = post_bulk(api_workspace, ids=[*ids, *ids], change=HIGH)
    assert answer.json()["succeeded"] == answer.json()["total"] == 3
    assert [each["version"] for each in answer.json()["outcomes"]] == [1, 1, 1]
    assert events_of(api_workspace, answer.json()["commandId"]) == []


def test_status_and_assignee_are_set_as_fields(api_workspace: ApiWorkspace) -> None:
    member = api_workspace.make("members", name="Ada").json()["id"]
    ids = create_accounts(api_workspace, 2)
    change = {"set": {"status": "active", "assignedTo": member, "nextAction": None}}
    answer = post_bulk(api_workspace, ids=ids, change=change)
    assert answer.json()["failed"] == 0
    topics = [topic for _, topic in events_of(api_workspace, answer.json()["commandId"])]
    assert topics == ["account.updated", "account.status_changed"] * 2
    shown = api_workspace.client().get(f"/api/accounts/{ids[1]}", headers=after(answer)).json()
    assert (shown["status"], shown["assignedTo"], shown["assignedToName"]) == (
        "active",
        member,
        "Ada",
    )
    stranger = post_bulk(api_workspace, ids=ids, change={"set": {"assignedTo": str(uuid4())}})
    codes = [each["problem"]["code"] for each in stranger.json()["outcomes"]]
    assert codes == ["E5006", "E5006"]


def test_account_with_open_opportunities_is_not_deleted(api_workspace: ApiWorkspace) -> None:
    kept, gone = create_accounts(api_workspace, 2)
    api_workspace.make("opportunities", accountId=kept, name="Renewal")
    task = api_workspace.make("tasks", accountId=gone, title="Call").json()["id"]
    answer = post_bulk(api_workspace, ids=[kept, gone], change={"delete": True})
    first, second = answer.json()["outcomes"]
    assert (first["status"], first["problem"]["code"]) == (409, "E5001")
    assert len(first["problem"]["opportunityIds"]) == 1
    assert second["status"] == 200
    recorded = events_of(api_workspace, answer.json()["commandId"])
    assert recorded == [(UUID(task), "task.deleted"), (UUID(gone), "account.deleted")]
    again = post_bulk(api_workspace, ids=[gone], change={"restore": True})
    assert again.json()["succeeded"] == 1
    recorded = events_of(api_workspace, again.json()["commandId"])
    assert recorded == [(UUID(gone), "account.restored"), (UUID(task), "task.restored")]
    shown = api_workspace.client().get(f"/api/accounts/{gone}", headers=after(again)).json()
    assert shown["taskCount"] == 1


def test_child_of_a_deleted_account_is_not_restored(
    api_workspace: ApiWorkspace,
) -> None:
    account = api_workspace.account()
    task = api_workspace.make("tasks", accountId=account, title="Call").json()["id"]
    other = api_workspace.make("tasks", accountId=api_workspace.account(), title="Write").json()[
        "id"
    ]
    deleted = post_bulk(api_workspace, kind="task", ids=[task, other], change={"delete": True})
    assert deleted.json()["succeeded"] == 2
    api_workspace.client().delete(f"/api/accounts/{account}")
    answer = post_bulk(api_workspace, kind="task", ids=[task, other], change={"restore": True})
    first, second = answer.json()["outcomes"]
    assert (first["status"], first["problem"]["code"]) == (422, "E5005")
    assert second["status"] == 200


def test_atomic_is_all_or_nothing(api_workspace: ApiWorkspace) -> None:
    ids = create_accounts(api_workspace, INLINE_ITEMS_MAX + 2)
    unknown = str(uuid4())
    refused = post_bulk(api_workspace, ids=[*ids, unknown], change=HIGH, atomic=True)
    assert (refused.status_code, refused.json()["code"]) == (409, "E5031")
    assert [each["id"] for each in refused.json()["outcomes"]] == [unknown]
    assert refused.json()["outcomes"][0]["problem"]["code"] == "E5002"
    done = post_bulk(api_workspace, ids=ids, change=HIGH, atomic=True)
    assert (done.status_code, done.json()["succeeded"]) == (207, len(ids))
    assert {each["version"] for each in done.json()["outcomes"]} == {2}


def test_filter_selects_what_the_list_selects(api_workspace: ApiWorkspace) -> None:
    customers = create_accounts(api_workspace, 3)
    create_accounts(api_workspace, 2, type="partner")
    answer = post_bulk(
        api_workspace, filter={"type": "customer", "search": "company 00"}, change=HIGH
    )
    assert {each["id"] for each in answer.json()["outcomes"]} == set(customers)
    everything = post_bulk(api_workspace, filter={"type": "all"}, change=HIGH)
    assert everything.json()["total"] == 5
    none = post_bulk(api_workspace, filter={"status": "active"}, change=HIGH)
    assert (none.status_code, none.json()["total"]) == (207, 0)


def test_filter_sees_the_writes_before_it(api_workspace: ApiWorkspace) -> None:
    made = api_workspace.make("accounts", company="A", type="partner")
    answer = api_workspace.client().post(
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
def test_invalid_request_is_422(
    api_workspace: ApiWorkspace, given: dict[str, Any], field: str
) -> None:
    refused = post_bulk(api_workspace, **given)
    assert refused.status_code == 422, refused.text
    assert [each["field"] for each in refused.json()["errors"]] == [field]


def test_bulk_needs_the_permission_of_a_single_change(api_workspace: ApiWorkspace) -> None:
    ids = create_accounts(api_workspace, 1)
    assert post_bulk(api_workspace, role="member", ids=ids, change=HIGH).status_code == 207
    assert post_bulk(api_workspace, role="analyst", ids=ids, change=HIGH).status_code == 403
    member = api_workspace.make("members", name="Ada").json()["id"]
    given: dict[str, Any] = {"kind": "member", "ids": [member], "change": {"set": {"title": "CEO"}}}
    refused = post_bulk(api_workspace, role="member", **given)
    assert (refused.status_code, refused.json()["permission"]) == (403, "members")
    assert post_bulk(api_workspace, **given).json()["succeeded"] == 1


def test_number_of_items_is_limited(api_workspace: ApiWorkspace) -> None:
    ids = [str(UUID(int=number)) for number in range(JOB_ITEMS_MAX + 1)]
    refused = post_bulk(api_workspace, ids=ids[: ATOMIC_ITEMS_MAX + 1], change=HIGH, atomic=True)
    assert (refused.status_code, refused.json()["code"]) == (422, "E2050")
    assert (refused.json()["found"], refused.json()["limit"]) == (1_001, ATOMIC_ITEMS_MAX)
    refused = post_bulk(api_workspace, ids=ids, change=HIGH)
    assert (refused.status_code, refused.json()["limit"]) == (422, JOB_ITEMS_MAX)


def test_entities_of_another_workspace_are_404(api_workspace: ApiWorkspace) -> None:
    theirs = create_accounts(api_workspace.api.new_workspace(), 2)
    answer = post_bulk(api_workspace, ids=theirs, change={"delete": True})
    assert [each["status"] for each in answer.json()["outcomes"]] == [404, 404]
    assert post_bulk(api_workspace, filter={}, change={"delete": True}).json()["total"] == 0


# As a job


def test_large_bulk_becomes_a_job(api_workspace: ApiWorkspace) -> None:
    ids = create_accounts(api_workspace, MANY)
    gone = ids[17]
    deleted = api_workspace.client().delete(f"/api/accounts/{gone}")
    answer = post_bulk(api_workspace, ids=ids, change=HIGH)
    assert answer.status_code == 202
    body = answer.json()
    assert (body["kind"], body["status"], body["total"]) == ("bulk", "waiting", MANY)
    assert answer.headers["Location"] == f"/api/jobs/{body['id']}"
    job = wait_for_job(api_workspace, answer.headers["Location"])
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
    assert job["commandId"] == body["commandId"] == answer.headers["Annals-Command"]
    recorded = events_of(api_workspace, body["commandId"])
    assert recorded == [(UUID(each), "account.updated") for each in ids if each != gone]
    assert int(deleted.headers["Annals-Position"]) < int(answer.headers["Annals-Position"])


def test_filter_is_resolved_once_at_one_position(api_workspace: ApiWorkspace) -> None:
    ids = create_accounts(api_workspace, MANY)
    wanted = {"type": "customer", "priority": "medium"}
    answer = post_bulk(api_workspace, filter=wanted, change={"set": {"priority": "low"}})
    assert answer.status_code == 202
    later = api_workspace.account(company="Later")
    job = wait_for_job(api_workspace, answer.headers["Location"])
    assert job["succeeded"] == MANY
    assert job["parameters"]["filter"] == wanted
    assert job["parameters"]["position"] > 0
    recorded = {stream for stream, _ in events_of(api_workspace, answer.json()["commandId"])}
    assert recorded == {UUID(each) for each in ids}
    assert UUID(later) not in recorded


def test_repeated_request_creates_one_job(api_workspace: ApiWorkspace) -> None:
    ids = create_accounts(api_workspace, MANY)
    key = str(uuid4())
    answers: list[httpx.Response] = []

    def repeat() -> None:
        answers.append(post_bulk(api_workspace, key=key, ids=ids, change=HIGH))

    api_workspace.client()
    threads = [threading.Thread(target=repeat) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    final = post_bulk(api_workspace, key=key, ids=ids, change=HIGH)
    assert final.headers["Idempotent-Replayed"] == "true"
    assert {each.status_code for each in answers} <= {202, 409}
    assert {each.content for each in answers if each.status_code == 202} == {final.content}
    job = wait_for_job(api_workspace, final.headers["Location"])
    assert job["succeeded"] == MANY
    jobs = api_workspace.client().get("/api/jobs").json()["items"]
    assert [each["id"] for each in jobs] == [job["id"]]
    assert len(events_of(api_workspace, job["commandId"])) == MANY


def test_bulk_deletion_of_accounts_deletes_their_children(
    api_workspace: ApiWorkspace,
) -> None:
    ids = create_accounts(api_workspace, MANY)
    log = api_workspace.api.writing.log
    children: list[Entity] = [
        Task.create(
            uuid4(),
            api_workspace.workspace_id,
            {"title": "T"},
            at=local_time(),
            account_id=UUID(each),
        )
        for each in ids[:50]
    ]
    held = Opportunity.create(
        uuid4(),
        api_workspace.workspace_id,
        {"name": "O"},
        at=local_time(),
        account_id=UUID(ids[-1]),
    )
    with log.scoped(Scope(api_workspace.workspace_id)):
        log.append(*children, held)
    answer = post_bulk(api_workspace, ids=ids, change={"delete": True})
    job = wait_for_job(api_workspace, answer.headers["Location"])
    assert (job["succeeded"], job["failed"]) == (MANY - 1, 1)
    assert job["errors"][0]["code"] == "E5001"
    topics = [topic for _, topic in events_of(api_workspace, job["commandId"])]
    assert topics.count("task.deleted") == 50
    assert topics.count("account.deleted") == MANY - 1


@pytest.mark.parametrize("count", [3, MANY])
def test_bulk_is_undone_by_its_command(api_workspace: ApiWorkspace, count: int) -> None:
    ids = create_accounts(api_workspace, count)
    answer = post_bulk(api_workspace, ids=ids, change=HIGH)
    if answer.status_code == 202:
        wait_for_job(api_workspace, answer.headers["Location"])
    command = {"commandId": answer.json()["commandId"]}
    undone = api_workspace.client().post("/api/undo", json=command)
    assert undone.status_code == 200, undone.text
    assert len(undone.json()["changes"]) == count
    shown = api_workspace.client().get(f"/api/accounts/{ids[-1]}", headers=after(undone)).json()
    assert shown["priority"] == "medium"
    again = api_workspace.client().post("/api/undo", json={"commandId": undone.json()["commandId"]})
    shown = api_workspace.client().get(f"/api/accounts/{ids[-1]}", headers=after(again)).json()
    assert shown["priority"] == "high"


def test_event_of_a_job_cannot_be_undone(api_workspace: ApiWorkspace) -> None:
    ids = create_accounts(api_workspace, MANY)
    answer = post_bulk(api_workspace, ids=ids, change=HIGH)
    position = {"eventPosition": int(answer.headers["Annals-Position"])}
    refused = api_workspace.client().post("/api/undo", json=position)
    assert (refused.status_code, refused.json()["code"]) == (404, "E5017")
    wait_for_job(api_workspace, answer.headers["Location"])


def test_concurrent_single_changes_are_not_lost(
    api_workspace: ApiWorkspace,
) -> None:
    ids = create_accounts(api_workspace, 40)
    stop = threading.Event()

    def repeat(act: Callable[[int], Any]) -> None:
        for number in range(8):
            act(number)
            if stop.is_set():
                return

    def change_one_by_one(number: int) -> None:
        for each in ids[:10]:
            response = client.patch(f"/api/accounts/{each}", json={"nextAction": f"Call {number}"})
            assert response.status_code == 200, response.text

    def change_together(number: int) -> None:
        wanted = ["low", "medium", "high"][number % 3]
        answer = post_bulk(api_workspace, ids=ids, change={"set": {"priority": wanted}})
        assert answer.json()["failed"] == 0, answer.text

    client = api_workspace.client()
    other = threading.Thread(target=repeat, args=(change_one_by_one,))
    other.start()
    try:
        repeat(change_together)
    finally:
        stop.set()
        other.join()
    last = post_bulk(api_workspace, ids=ids, change={"set": {"nextAction": "Call last"}})
    for each in ids[:10]:
        shown = client.get(f"/api/accounts/{each}", headers=after(last)).json()
        assert (shown["priority"], shown["nextAction"]) == ("medium", "Call last")


def test_tables_match_the_log_after_deletions_restorations_and_changes(
    api_workspace: ApiWorkspace,
) -> None:
    ids = create_accounts(api_workspace, MANY)
    post_bulk(api_workspace, ids=ids[:100], change={"delete": True})
    post_bulk(api_workspace, ids=ids[50:100], change={"restore": True})
    answer = post_bulk(api_workspace, ids=ids, change={"set": {"customFields": {"b": 2}}})
    job = wait_for_job(api_workspace, answer.headers["Location"])
    assert job["failed"] == job["errorsTotal"] == 50
    assert [each["row"] for each in job["errors"]] == list(range(1, 51))
    with psycopg.connect(
        str(api_workspace.api.settings.projector_url), autocommit=True
    ) as connection:
        row = connection.execute("SELECT readable_position()").fetchone()
        assert row is not None
        api_workspace.api.wait_until_projected(row[0])
        assert_tables_match_log(connection, [api_workspace.workspace_id])
