"""Following changes over both transports: content, permissions, filters and resumption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from api.routes.realtime import SUBPROTOCOL
from eventlog.scope import Scope
from replay.facts import HISTORY_PAGE
from tests.support.api_server import ApiWorkspace, after
from tests.support.realtime_client import (
    REALTIME_PATH,
    EventStream,
    append_notes,
    open_stream,
    open_websocket,
    websocket_events,
)

TRANSPORTS = ("events", "socket")


@contextmanager
def subscribed(
    api_workspace: ApiWorkspace,
    transport: str,
    role: str = "admin",
    last: int | None = None,
    **parameters: str,
) -> Iterator[EventStream]:
    """Open a stream over this transport with a key of this role."""
    api_workspace.client()  # issues the writer's key before the stream starts
    client, token = api_workspace.client(role), api_workspace.token(role)
    # The server's reader of the log may be behind: earlier events of the workspace can arrive, too.
    resumes = last is not None or "lastEventId" in parameters
    log = api_workspace.api.writing.log
    with log.scoped(Scope(api_workspace.workspace_id)):
        skip_to = 0 if resumes else log.taken_position()
    if transport == "events":
        with open_stream(client, last, skip_to=skip_to, **parameters) as stream:
            yield stream
        return
    if last is not None:
        parameters["lastEventId"] = str(last)
    query = str(httpx.QueryParams(parameters))
    with open_websocket(api_workspace.api, token, query) as socket:
        yield websocket_events(socket, skip_to=skip_to)


def refusal(
    api_workspace: ApiWorkspace, transport: str, role: str = "admin", **parameters: str
) -> dict[str, Any]:
    """Request a stream that is refused, and return the problem document."""
    if transport == "events":
        response = api_workspace.client(role).get(REALTIME_PATH, params=parameters)
        return dict(response.json())
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(
            api_workspace.api, api_workspace.token(role), str(httpx.QueryParams(parameters))
        )
    problem = orjson.loads(refused.value.response.body or b"")
    assert problem["status"] == refused.value.response.status_code
    return dict(problem)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_change_is_sent_when_it_is_recorded(api_workspace: ApiWorkspace, transport: str) -> None:
    with subscribed(api_workspace, transport) as stream:
        opened = stream.next("open")
        account = api_workspace.make("accounts", company="Acme", type="customer")
        fact = stream.next()
    assert fact.position == fact.id == int(account.headers["Annals-Position"]) > opened.position
    assert fact.data["type"] == "account.created"
    assert fact.data["kind"] == "account"
    assert fact.data["version"] == 1
    assert fact.data["action"] == "create"
    assert fact.data["entityId"] == account.json()["id"]
    assert fact.data["actor"]["name"] == "admin key"
    assert {"field": "company", "before": None, "after": "Acme"} in fact.data["changes"]


def test_fact_equals_the_audit_entry(api_workspace: ApiWorkspace) -> None:
    with open_stream(api_workspace.client()) as stream:
        account = api_workspace.make("accounts", company="Acme", type="customer")
        fact = stream.next().data
    (entry,) = (
        api_workspace.client().get("/api/audit?pageSize=1", headers=after(account)).json()["items"]
    )
    assert (fact.pop("type"), fact.pop("kind")) == (entry.pop("topic"), entry.pop("entityType"))
    assert fact == entry


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_stream_has_no_facts_of_another_workspace(
    api_workspace: ApiWorkspace, transport: str
) -> None:
    other = api_workspace.api.new_workspace()
    with (
        subscribed(api_workspace, transport) as stream,
        subscribed(other, transport) as other_stream,
    ):
        stream.next("open")
        other_stream.next("open")
        theirs, ours = other.account(), api_workspace.account()
        assert stream.next().data["entityId"] == ours
        assert other_stream.next().data["entityId"] == theirs
    with subscribed(api_workspace, transport, last=0) as stream:
        whole = {received.data["entityId"] for received in stream.take(3, "fact")}
    assert theirs not in whole


@dataclass
class Story:
    """An account with a contact, and another account; each changed once."""

    api_workspace: ApiWorkspace
    account: str
    another: str
    contact: str

    def change(self, plural: str, entity_id: str) -> httpx.Response:
        """Change one field of the entity."""
        field = {"accounts": "nextAction", "contacts": "title"}[plural]
        path = f"/api/{plural}/{entity_id}"
        return self.api_workspace.client().patch(path, json={field: str(uuid4())})


@pytest.fixture
def story(api_workspace: ApiWorkspace) -> Story:
    """A story whose events are recorded already."""
    account, another = api_workspace.account(), api_workspace.account()
    contact = api_workspace.make("contacts", accountId=account, name="Ada").json()["id"]
    story = Story(api_workspace, account, another, contact)
    story.change("accounts", account)
    story.change("contacts", contact)
    story.change("accounts", another)
    return story


CONTACT = ["contact.created", "contact.updated"]
ACCOUNT = ["account.created", "account.updated"]
FILTERS: dict[str, tuple[Callable[[Story], dict[str, str]], list[str]]] = {
    "kind": (lambda story: {"kinds": "contact"}, CONTACT),
    "kinds": (lambda story: {"kinds": "contacts, note"}, CONTACT),
    "types": (lambda story: {"types": "contact.updated"}, ["contact.updated"]),
    "entity": (lambda story: {"entityId": story.contact}, CONTACT),
    "account": (
        lambda story: {"accountId": story.account},
        ["account.created", "contact.created", "account.updated", "contact.updated"],
    ),
    "both": (lambda story: {"accountId": story.account, "kinds": "account"}, ACCOUNT),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", FILTERS)
def test_filters_apply_to_history_and_to_new_events(
    story: Story, transport: str, name: str
) -> None:
    build_query, expected = FILTERS[name]
    with subscribed(story.api_workspace, transport, last=0, **build_query(story)) as stream:
        assert [received.data["type"] for received in stream.take(len(expected))] == expected
        story.change("accounts", story.another)
        entity_id = story.account if name == "both" else story.contact
        change = story.change("accounts" if name == "both" else "contacts", entity_id)
        assert stream.next().id == int(change.headers["Annals-Position"])


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"kinds": "planet"}, "E2031"),
        ({"kinds": ""}, "E2031"),
        ({"types": "account.exploded"}, "E2031"),
        ({"entityId": "x"}, "E2031"),
        ({"follow": "nothing"}, "E2031"),
        ({"colour": "red"}, "E2030"),
        ({"lastEventId": "-1"}, "E2110"),
        ({"lastEventId": "1.5"}, "E2110"),
        ({"lastEventId": "9" * 30}, "E2110"),
        ({"lastEventId": str(2**60)}, "E2111"),
    ],
)
def test_invalid_parameters_are_refused(
    api_workspace: ApiWorkspace, transport: str, parameters: dict[str, str], code: str
) -> None:
    assert refusal(api_workspace, transport, **parameters)["code"] == code


def test_refusal_of_a_future_position_has_the_last_position(api_workspace: ApiWorkspace) -> None:
    position = int(
        api_workspace.make("accounts", company="A", type="customer").headers["Annals-Position"]
    )
    problem = refusal(api_workspace, "events", lastEventId=str(2**60))
    assert problem["lastEventId"] == 2**60
    assert problem["lastPosition"] >= position


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_stream_without_a_valid_key_is_401(api_workspace: ApiWorkspace, transport: str) -> None:
    if transport == "events":
        assert api_workspace.api.client().get(REALTIME_PATH).json()["code"] == "E1003"
        return
    for token, code in (("", 401), ("annals_x", 401)):
        with pytest.raises(InvalidStatus) as refused:
            open_websocket(api_workspace.api, token)
        assert refused.value.response.status_code == code


def test_browser_sends_its_key_as_a_subprotocol(api_workspace: ApiWorkspace) -> None:
    offered = [Subprotocol(SUBPROTOCOL), Subprotocol(api_workspace.token("member"))]
    with open_websocket(
        api_workspace.api, "", additional_headers={}, subprotocols=offered
    ) as socket:
        assert socket.subprotocol == SUBPROTOCOL
        stream = websocket_events(socket)
        stream.next("open")
        account = api_workspace.account()
        assert stream.next().data["entityId"] == account


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_facts_of_keys_need_the_permission_for_the_audit_trail(
    api_workspace: ApiWorkspace, transport: str
) -> None:
    for role, can_see in (
        ("admin", True),
        ("auditor", True),
        ("member", False),
        ("analyst", False),
    ):
        with subscribed(api_workspace, transport, role) as stream:
            stream.next("open")
            api_workspace.token("member", name="new")
            account = api_workspace.account()
            fact = stream.next().data
            assert (fact["kind"] == "api_key") == can_see
            if can_see:
                assert "secret" not in str(fact).lower()
                assert stream.next().data["entityId"] == account
    assert refusal(api_workspace, transport, "member", kinds="account,api_key")["code"] == "E1008"
    assert refusal(api_workspace, transport, "member", types="api_key.issued")["code"] == "E1008"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_visibility_of_facts_depends_on_the_role(
    api_workspace: ApiWorkspace, transport: str
) -> None:
    def receive_fact(role: str) -> dict[str, Any]:
        with subscribed(api_workspace, transport, role, kinds="account") as stream:
            stream.next("open")
            api_workspace.account(company="Acme")
            return dict(stream.next().data)

    trail, history, notice = (
        receive_fact("auditor"),
        receive_fact("member"),
        receive_fact("read-only"),
    )
    assert trail["ip"] == "127.0.0.1"
    assert trail["userAgent"]
    assert history == {name: history[name] for name in trail if name not in ("ip", "userAgent")}
    assert {"field": "company", "before": None, "after": "Acme"} in history["changes"]
    assert "Acme" not in str(notice)
    assert "actor" not in notice
    assert {"field": "company"} in notice["changes"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_resumed_stream_has_missed_facts_once(api_workspace: ApiWorkspace, transport: str) -> None:
    with subscribed(api_workspace, transport, kinds="account") as stream:
        stream.next("open")
        api_workspace.account()
        first = stream.next()
    missed = [api_workspace.account() for _ in range(3)]
    with subscribed(api_workspace, transport, last=first.id, kinds="account") as stream:
        assert stream.next("open").id == first.id
        assert [received.data["entityId"] for received in stream.take(3)] == missed
        account = api_workspace.account()
        assert stream.next().data["entityId"] == account


def test_stream_resumes_from_the_id_of_open(
    api_workspace: ApiWorkspace,
) -> None:
    with open_stream(api_workspace.client()) as stream:
        opened = stream.next("open")
    account = api_workspace.account()
    with open_stream(api_workspace.client(), opened.id) as stream:
        assert stream.next().data["entityId"] == account


def test_last_event_id_header_overrides_the_query(api_workspace: ApiWorkspace) -> None:
    api_workspace.account()
    with open_stream(api_workspace.client(), 0, kinds="account") as stream:
        first = stream.next().id
    account = api_workspace.account()
    with open_stream(api_workspace.client(), first, kinds="account", lastEventId="0") as stream:
        assert stream.next().data["entityId"] == account


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_long_history_is_read_in_pages(api_workspace: ApiWorkspace, transport: str) -> None:
    count = 2 * HISTORY_PAGE + 10
    made = append_notes(api_workspace, count)
    with subscribed(api_workspace, transport, last=0, kinds="note") as stream:
        assert [received.id for received in stream.take(count)] == made
        account = api_workspace.account()
        note = api_workspace.make("notes", accountId=account, body="the last one").json()["id"]
        assert stream.next().data["entityId"] == note
