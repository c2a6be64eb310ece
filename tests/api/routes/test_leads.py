"""Leads over HTTP: status updates of one or many, conversion, and undoing either as one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from commands.leads import LEADS_AT_ONCE_MAX
from tests.support.api_server import ApiWorkspace, after

UPDATE = "/api/leads/update-status"


def create_lead(api_workspace: ApiWorkspace, **fields: Any) -> str:
    return str(api_workspace.make("leads", **{"name": "Ada Lovelace", **fields}).json()["id"])


def update(api_workspace: ApiWorkspace, **given: Any) -> httpx.Response:
    return api_workspace.client().post(UPDATE, json=given)


def read_entity(
    api_workspace: ApiWorkspace, plural: str, entity_id: str, write: httpx.Response
) -> dict[str, Any]:
    found = api_workspace.client().get(f"/api/{plural}/{entity_id}", headers=after(write))
    assert found.status_code == 200, found.text
    return dict(found.json())


def test_status_of_one_lead_is_updated(api_workspace: ApiWorkspace) -> None:
    one = create_lead(api_workspace)
    response = update(api_workspace, leadId=one, status="contacted")
    assert response.status_code == 200
    answer = response.json()
    assert answer.keys() == {"success", "lead"}
    assert answer["success"] is True
    assert answer["lead"].keys() == {"id", "status", "status_changed_at"}
    assert (answer["lead"]["id"], answer["lead"]["status"]) == (one, "contacted")
    seen = read_entity(api_workspace, "leads", one, response)
    assert seen["status"] == "contacted"
    shown, expected = seen["statusChangedAt"], answer["lead"]["status_changed_at"]
    assert datetime.fromisoformat(shown) == datetime.fromisoformat(expected)


def test_status_changed_at_is_kept_by_changes_deletion_and_restoration(
    api_workspace: ApiWorkspace,
) -> None:
    one = create_lead(api_workspace)
    moved = read_entity(
        api_workspace, "leads", one, update(api_workspace, leadId=one, status="contacted")
    )
    client = api_workspace.client()
    client.patch(f"/api/leads/{one}", json={"notes": "Kind."})
    client.delete(f"/api/leads/{one}")
    seen = read_entity(api_workspace, "leads", one, client.post(f"/api/leads/{one}/restore"))
    assert seen["statusChangedAt"] == moved["statusChangedAt"]
    as_of = client.get(f"/api/leads/{one}?asOf={seen['version']}").json()
    shown, expected = as_of["statusChangedAt"], moved["statusChangedAt"]
    assert datetime.fromisoformat(shown) == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    ("status", "code", "http"),
    [("new", "E5060", 409), ("asleep", "E2006", 422), (None, "E2006", 422)],
)
def test_failed_update_of_one_lead_is_a_problem_without_success(
    api_workspace: ApiWorkspace, status: str | None, code: str, http: int
) -> None:
    response = update(api_workspace, leadId=create_lead(api_workspace), status=status)
    assert (response.status_code, response.json()["code"]) == (http, code), response.text
    assert response.json()["success"] is False


def test_status_of_the_lead_that_the_path_names_is_updated(api_workspace: ApiWorkspace) -> None:
    path = f"/api/leads/{create_lead(api_workspace)}/update-status"
    updated = api_workspace.client().post(path, json={"status": "Qualified"})
    assert (updated.status_code, updated.json()["success"]) == (200, True), updated.text
    assert updated.json()["lead"]["status"] == "qualified"
    again = api_workspace.client().post(path, json={"status": "qualified"})
    assert (again.status_code, again.json()["code"]) == (409, "E5060")
    assert (again.json()["success"], again.json()["error"]) == (False, again.json()["detail"])
    assert (again.json()["status"], again.json()["currentStatus"]) == (409, "qualified")


def test_message_of_an_update_of_many_leads_names_status_or_reasons(
    api_workspace: ApiWorkspace,
) -> None:
    leads = [create_lead(api_workspace) for _ in range(3)]
    all_updated = update(api_workspace, leadIds=leads, status="qualified").json()
    assert all_updated["message"] == "3 leads updated to qualified"
    some = update(api_workspace, leadIds=[*leads[:2], str(uuid4())], status="negotiating").json()
    assert some["message"] == "2 leads updated, 1 failed (not found)"


def test_status_update_honours_if_match(api_workspace: ApiWorkspace) -> None:
    client, one = api_workspace.client(), create_lead(api_workspace)
    of_path, of_body = f"/api/leads/{one}/update-status", UPDATE
    version = '"1"'
    more: dict[str, str]
    for path, more in ((of_path, {}), (of_body, {"leadId": one})):
        status = "contacted" if path == of_path else "qualified"
        given = {"status": status, **more}
        stale = client.post(path, json=given, headers={"If-Match": '"7"'})
        assert (stale.status_code, stale.json()["code"]) == (412, "E5008"), stale.text
        assert (stale.json()["success"], stale.json()["error"]) == (False, stale.json()["detail"])
        malformed = client.post(path, json=given, headers={"If-Match": "7"})
        assert (malformed.status_code, malformed.json()["code"]) == (400, "E2033")
        updated = client.post(path, json=given, headers={"If-Match": f'"99", {version}'})
        assert updated.status_code == 200, updated.text
        assert read_entity(api_workspace, "leads", one, updated)["status"] == status
        again = client.post(path, json={**given, "status": "lost"}, headers={"If-Match": version})
        assert again.status_code == 412
        version = updated.headers["ETag"]


def test_update_of_many_leads_refuses_if_match(api_workspace: ApiWorkspace) -> None:
    one, client = create_lead(api_workspace), api_workspace.client()
    given = {"leadIds": [one], "status": "lost"}
    refused = client.post(UPDATE, json=given, headers={"If-Match": '"1"'})
    assert (refused.status_code, refused.json()["code"]) == (400, "E2033")
    change = {"kind": "lead", "ids": [one], "change": {"delete": True}}
    refused = client.post("/api/bulk", json=change, headers={"If-Match": '"1"'})
    assert (refused.status_code, refused.json()["code"]) == (400, "E2033")
    assert client.post(UPDATE, json=given, headers={"If-Match": "*"}).status_code == 200


def test_disallowed_status_change_is_409(api_workspace: ApiWorkspace) -> None:
    one = create_lead(api_workspace, status="won")
    refused = update(api_workspace, leadId=one, status="lost")
    assert (refused.status_code, refused.json()["code"]) == (409, "E5004")
    assert refused.json()["allowed"] == []
    unknown = update(api_workspace, leadId=str(uuid4()), status="lost")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "E5002")
    assert unknown.json()["success"] is False


def test_update_of_many_leads_reports_the_failed_ones(
    api_workspace: ApiWorkspace,
) -> None:
    new, contacted, won, unknown = (
        create_lead(api_workspace),
        create_lead(api_workspace),
        create_lead(api_workspace),
        str(uuid4()),
    )
    update(api_workspace, leadId=contacted, status="contacted")
    update(api_workspace, leadId=won, status="won")
    ids = [new, contacted, won, unknown, new]
    response = update(api_workspace, leadIds=ids, status="contacted")
    assert response.status_code == 200
    answer = response.json()
    assert (answer["success"], answer["updated"], answer["failed"]) == (False, 1, 3)
    assert answer["message"] == (
        "1 lead updated, 3 failed (same status, transition not allowed, not found)"
    )
    assert [each["id"] for each in answer["leads"]] == [new]
    assert {each["leadId"]: each["code"] for each in answer["errors"]} == {
        contacted: "E5060",
        won: "E5004",
        unknown: "E5002",
    }
    again = update(api_workspace, leadIds=[contacted, new], status="qualified").json()
    assert (again["success"], again["updated"], again["failed"]) == (True, 2, 0)


def test_atomic_update_with_a_failure_changes_nothing(api_workspace: ApiWorkspace) -> None:
    new, won = create_lead(api_workspace), create_lead(api_workspace, status="won")
    response = update(api_workspace, leadIds=[new, won], status="contacted", atomic=True)
    assert (response.status_code, response.json()["code"]) == (409, "E5062")
    answer = response.json()
    assert (answer["success"], answer["updated"], answer["failed"]) == (False, 0, 1)
    assert [each["leadId"] for each in answer["errors"]] == [won]
    history = api_workspace.client().get(f"/api/leads/{new}/history").json()["items"]
    assert [each["action"] for each in history] == ["create"]
    both = update(
        api_workspace, leadIds=[new, create_lead(api_workspace)], status="contacted", atomic=True
    )
    assert both.json()["updated"] == 2


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"status": "lost"}, "E2010"),
        ({"status": "lost", "leadId": str(uuid4()), "leadIds": [str(uuid4())]}, "E2010"),
        ({"status": "lost", "leadIds": []}, "E2010"),
        ({"leadIds": [str(uuid4())]}, "E2004"),
        ({"status": "lost", "leadIds": ["x"]}, "E2010"),
        ({"status": "lost", "leadId": str(uuid4()), "note": "x"}, "E2005"),
    ],
)
def test_invalid_update_is_422(
    api_workspace: ApiWorkspace, given: dict[str, Any], code: str
) -> None:
    response = update(api_workspace, **given)
    assert (response.status_code, response.json()["code"]) == (422, code), response.text
    assert response.json()["success"] is False


def test_update_of_many_leads_is_undone_as_one(api_workspace: ApiWorkspace) -> None:
    ids = [create_lead(api_workspace), create_lead(api_workspace)]
    response = update(api_workspace, leadIds=ids, status="contacted")
    undone = api_workspace.client().post(
        "/api/undo", json={"commandId": response.headers["Annals-Command"]}
    )
    assert undone.status_code == 200, undone.text
    assert {read_entity(api_workspace, "leads", each, undone)["status"] for each in ids} == {"new"}


def test_repeated_update_gets_the_first_answer(api_workspace: ApiWorkspace) -> None:
    given = {"leadId": create_lead(api_workspace), "status": "contacted"}
    headers = {"X-Idempotency-Key": str(uuid4())}
    first, second = (api_workspace.client().post(UPDATE, json=given, headers=headers) for _ in "12")
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"


def test_number_of_leads_per_update_is_limited(api_workspace: ApiWorkspace) -> None:
    from pydantic import ValidationError

    from api.routes.leads import LeadStatusUpdate

    ids = [str(uuid4()) for _ in range(LEADS_AT_ONCE_MAX + 1)]
    assert LeadStatusUpdate.model_validate({"leadIds": ids[1:], "status": "lost"}).lead_ids
    with pytest.raises(ValidationError, match="too_long"):
        LeadStatusUpdate.model_validate({"leadIds": ids, "status": "lost"})


def test_leads_are_filtered_searched_and_counted(api_workspace: ApiWorkspace) -> None:
    create_lead(api_workspace, company="Engines", source="fair", value="10")
    create_lead(
        api_workspace, name="Grace", email="grace@example.com", source="web", status="contacted"
    )
    last = api_workspace.make("leads", name="Alan")
    client, position = api_workspace.client(), after(last)

    def names(**query: Any) -> list[str]:
        found = client.get("/api/leads", params=query, headers=position)
        assert found.status_code == 200, found.text
        return [each["name"] for each in found.json()["items"]]

    assert names(sortBy="name", sortOrder="asc") == ["Ada Lovelace", "Alan", "Grace"]
    assert names(source="fair") == names(search="engin") == ["Ada Lovelace"]
    assert names(status="contacted") == names(search="grace@") == ["Grace"]
    stats = client.get("/api/leads?includeStats=true", headers=position).json()["aggregations"]
    assert stats == {"byStatus": {"new": 2, "contacted": 1}}


def convert(api_workspace: ApiWorkspace, lead_id: str, **wishes: Any) -> httpx.Response:
    return api_workspace.client().post(f"/api/leads/{lead_id}/convert", json=wishes)


def test_conversion_creates_an_account_a_contact_and_an_opportunity(
    api_workspace: ApiWorkspace,
) -> None:
    one = create_lead(
        api_workspace, company="Engines", email="ada@example.com", value="12.5", phone="112"
    )
    response = convert(api_workspace, one, opportunity={"name": "First engine"})
    assert response.status_code == 200, response.text
    converted = response.json()
    assert converted.keys() == {"lead", "account", "contact", "opportunity"}
    seen = read_entity(api_workspace, "leads", one, response)
    assert seen["status"] == "won"
    for kind, plural in (("account", "accounts"), ("contact", "contacts")):
        assert seen[f"converted{kind.capitalize()}Id"] == converted[kind]["id"]
        assert read_entity(api_workspace, plural, converted[kind]["id"], response)["version"] == 1
    account, contact = converted["account"], converted["contact"]
    assert (account["company"], account["type"], account["dealValue"]) == (
        "Engines",
        "customer",
        "12.50",
    )
    assert (contact["name"], contact["email"], contact["phone"], contact["accountId"]) == (
        "Ada Lovelace",
        "ada@example.com",
        "112",
        account["id"],
    )
    opportunity = read_entity(
        api_workspace, "opportunities", converted["opportunity"]["id"], response
    )
    assert (opportunity["name"], opportunity["value"]) == ("First engine", "12.50")
    assert opportunity["accountId"] == account["id"]
    history = api_workspace.client().get(f"/api/leads/{one}/history").json()["items"]
    assert [each["action"] for each in history] == ["create", "status_change"]


def test_second_conversion_is_409_with_the_created_entities(api_workspace: ApiWorkspace) -> None:
    one = create_lead(api_workspace)
    converted = convert(api_workspace, one).json()
    second = convert(api_workspace, one)
    assert (second.status_code, second.json()["code"]) == (409, "E5061")
    for kind in ("account", "contact", "opportunity"):
        assert second.json()[f"{kind}Id"] == converted[kind]["id"]


def test_one_of_many_concurrent_conversions_succeeds(api_workspace: ApiWorkspace) -> None:
    one = create_lead(api_workspace)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: convert(api_workspace, one), range(8)))
    assert sorted(each.status_code for each in answers) == [200, *[409] * 7]
    position = max(answers, key=lambda each: each.headers.get("Annals-Position", ""))
    for plural in ("accounts", "contacts", "opportunities"):
        page = api_workspace.client().get(f"/api/{plural}", headers=after(position)).json()
        assert page["pagination"]["totalItems"] == 1


def test_conversion_and_its_undo_are_each_undone_as_one(api_workspace: ApiWorkspace) -> None:
    one = create_lead(api_workspace)
    response = convert(api_workspace, one)
    converted, client = response.json(), api_workspace.client()
    undone = client.post("/api/undo", json={"commandId": response.headers["Annals-Command"]})
    assert undone.status_code == 200, undone.text
    seen = read_entity(api_workspace, "leads", one, undone)
    assert (seen["status"], seen["convertedAccountId"]) == ("new", None)
    for kind, plural in (("account", "accounts"), ("opportunity", "opportunities")):
        gone = client.get(f"/api/{plural}/{converted[kind]['id']}", headers=after(undone))
        assert gone.status_code == 404
    redone = client.post("/api/undo", json={"commandId": undone.headers["Annals-Command"]})
    assert redone.status_code == 200, redone.text
    seen = read_entity(api_workspace, "leads", one, redone)
    assert (seen["status"], seen["convertedAccountId"]) == ("won", converted["account"]["id"])
    assert (
        read_entity(api_workspace, "contacts", converted["contact"]["id"], redone)["name"]
        == "Ada Lovelace"
    )


def test_lead_is_converted_with_an_existing_account(api_workspace: ApiWorkspace) -> None:
    account = api_workspace.account()
    response = convert(api_workspace, create_lead(api_workspace), accountId=account)
    converted = response.json()
    assert converted["account"]["id"] == converted["contact"]["accountId"] == account
    assert converted["account"]["version"] == 1
    client = api_workspace.client()
    client.post("/api/undo", json={"commandId": response.headers["Annals-Command"]})
    assert client.get(f"/api/accounts/{account}/history").json()["items"][-1]["version"] == 1
    lost = convert(api_workspace, create_lead(api_workspace), accountId=str(uuid4()))
    assert (lost.status_code, lost.json()["code"]) == (422, "E5005")


def test_invalid_conversion_records_nothing(api_workspace: ApiWorkspace) -> None:
    one = create_lead(api_workspace)
    refused = convert(api_workspace, one, contact={"email": "ada"}, account={"type": "partner"})
    assert (refused.status_code, refused.json()["code"]) == (422, "E2002"), refused.text
    assert refused.json()["errors"][0]["field"] == "contact.email"
    stale = api_workspace.client().post(
        f"/api/leads/{one}/convert", json={}, headers={"If-Match": '"7"'}
    )
    assert stale.status_code == 412
    assert (
        convert(api_workspace, one, account={"type": "partner"}).json()["account"]["dealValue"]
        is None
    )


def test_converted_fields_cannot_be_changed(api_workspace: ApiWorkspace) -> None:
    refused = api_workspace.client().patch(
        f"/api/leads/{create_lead(api_workspace)}", json={"convertedAccountId": str(uuid4())}
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "E2095")


def test_read_only_role_cannot_convert_or_update(api_workspace: ApiWorkspace) -> None:
    one = create_lead(api_workspace)
    reader = api_workspace.client("read-only")
    assert reader.post(f"/api/leads/{one}/convert", json={}).status_code == 403
    refused = reader.post(UPDATE, json={"leadId": one, "status": "lost"})
    assert (refused.status_code, refused.json()["success"]) == (403, False)
