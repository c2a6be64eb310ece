"""Following changes: what is told over both transports, to whom, and from which place on."""

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
    **asked: str,
) -> Iterator[EventStream]:
    """A stream by this transport, for a key of this role."""
    api_workspace.client()  # the key of whoever writes is issued before, and not heard of
    if transport == "events":
        with open_stream(api_workspace.client(role), last, **asked) as stream:
            yield stream
        return
    if last is not None:
        asked["lastEventId"] = str(last)
    query = str(httpx.QueryParams(asked))
    with open_websocket(api_workspace.api, api_workspace.token(role), query) as socket:
        yield websocket_events(socket)


def refusal(
    api_workspace: ApiWorkspace, transport: str, role: str = "admin", **asked: str
) -> dict[str, Any]:
    """The problem document of a stream that is refused."""
    if transport == "events":
        response = api_workspace.client(role).get(REALTIME_PATH, params=asked)
        return dict(response.json())
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(api_workspace.api, api_workspace.token(role), str(httpx.QueryParams(asked)))
    problem = orjson.loads(refused.value.response.body or b"")
    assert problem["status"] == refused.value.response.status_code
    return dict(problem)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_change_is_told_as_it_happens(api_workspace: ApiWorkspace, transport: str) -> None:
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


def test_a_fact_is_what_the_audit_trail_shows(api_workspace: ApiWorkspace) -> None:
    with open_stream(api_workspace.client()) as stream:
        account = api_workspace.make("accounts", company="Acme", type="customer")
        fact = stream.next().data
    (entry,) = (
        api_workspace.client().get("/api/audit?pageSize=1", headers=after(account)).json()["items"]
    )
    assert (fact.pop("type"), fact.pop("kind")) == (entry.pop("topic"), entry.pop("entityType"))
    assert fact == entry


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nobody_hears_of_another_workspace(api_workspace: ApiWorkspace, transport: str) -> None:
    other = api_workspace.api.new_workspace()
    with subscribed(api_workspace, transport) as stream, subscribed(other, transport) as of_other:
        stream.next("open")
        of_other.next("open")
        theirs, ours = other.account(), api_workspace.account()
        assert stream.next().data["entityId"] == ours
        assert of_other.next().data["entityId"] == theirs
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
        """Change it in some way."""
        field = {"accounts": "nextAction", "contacts": "title"}[plural]
        path = f"/api/{plural}/{entity_id}"
        return self.api_workspace.client().patch(path, json={field: str(uuid4())})


@pytest.fixture
def story(api_workspace: ApiWorkspace) -> Story:
    """It has happened already."""
    account, another = api_workspace.account(), api_workspace.account()
    contact = api_workspace.make("contacts", accountId=account, name="Ada").json()["id"]
    received = Story(api_workspace, account, another, contact)
    received.change("accounts", account)
    received.change("contacts", contact)
    received.change("accounts", another)
    return received


CONTACT = ["contact.created", "contact.updated"]
ACCOUNT = ["account.created", "account.updated"]
FILTERS: dict[str, tuple[Callable[[Story], dict[str, str]], list[str]]] = {
    "kind": (lambda story: {"kinds": "contact"}, CONTACT),
    "kinds": (lambda story: {"kinds": "contact, note"}, CONTACT),
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
def test_filters_hold_for_history_and_for_what_comes(
    story: Story, transport: str, name: str
) -> None:
    asked, expected = FILTERS[name]
    with subscribed(story.api_workspace, transport, last=0, **asked(story)) as stream:
        assert [received.data["type"] for received in stream.take(len(expected))] == expected
        story.change("accounts", story.another)
        entity_id = story.account if name == "both" else story.contact
        change = story.change("accounts" if name == "both" else "contacts", entity_id)
        assert stream.next().id == int(change.headers["Annals-Position"])


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("asked", "code"),
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
def test_what_makes_no_sense_is_refused(
    api_workspace: ApiWorkspace, transport: str, asked: dict[str, str], code: str
) -> None:
    assert refusal(api_workspace, transport, **asked)["code"] == code


def test_a_place_in_the_future_is_told_with_where_the_log_ends(api_workspace: ApiWorkspace) -> None:
    position = int(
        api_workspace.make("accounts", company="A", type="customer").headers["Annals-Position"]
    )
    problem = refusal(api_workspace, "events", lastEventId=str(2**60))
    assert problem["lastEventId"] == 2**60
    assert problem["lastPosition"] >= position


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_without_a_key_nothing_is_told(api_workspace: ApiWorkspace, transport: str) -> None:
    if transport == "events":
        assert api_workspace.api.client().get(REALTIME_PATH).json()["code"] == "E1003"
        return
    for token, code in (("", 401), ("annals_x", 401)):
        with pytest.raises(InvalidStatus) as refused:
            open_websocket(api_workspace.api, token)
        assert refused.value.response.status_code == code


def test_a_browser_names_its_key_as_a_subprotocol(api_workspace: ApiWorkspace) -> None:
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
def test_keys_are_told_of_to_who_may_read_the_trail(
    api_workspace: ApiWorkspace, transport: str
) -> None:
    for role, hears in (("admin", True), ("auditor", True), ("member", False), ("analyst", False)):
        with subscribed(api_workspace, transport, role) as stream:
            stream.next("open")
            api_workspace.token("member", name="new")
            account = api_workspace.account()
            fact = stream.next().data
            assert (fact["kind"] == "api_key") == hears
            if hears:
                assert "secret" not in str(fact).lower()
                assert stream.next().data["entityId"] == account
    assert refusal(api_workspace, transport, "member", kinds="account,api_key")["code"] == "E1008"
    assert refusal(api_workspace, transport, "member", types="api_key.issued")["code"] == "E1008"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_role_sees_as_much_as_its_routes_show(
    api_workspace: ApiWorkspace, transport: str
) -> None:
    def fact(role: str) -> dict[str, Any]:
        with subscribed(api_workspace, transport, role, kinds="account") as stream:
            stream.next("open")
            api_workspace.account(company="Acme")
            return dict(stream.next().data)

    trail, history, notice = fact("auditor"), fact("member"), fact("read-only")
    assert trail["ip"] == "127.0.0.1"
    assert trail["userAgent"]
    assert history == {name: history[name] for name in trail if name not in ("ip", "userAgent")}
    assert {"field": "company", "before": None, "after": "Acme"} in history["changes"]
    assert "Acme" not in str(notice)
    assert "actor" not in notice
    assert {"field": "company"} in notice["changes"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_comes_back_hears_what_came_meanwhile_once(
    api_workspace: ApiWorkspace, transport: str
) -> None:
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


def test_who_heard_nothing_but_the_beginning_misses_nothing_either(
    api_workspace: ApiWorkspace,
) -> None:
    with open_stream(api_workspace.client()) as stream:
        opened = stream.next("open")
    account = api_workspace.account()
    with open_stream(api_workspace.client(), opened.id) as stream:
        assert stream.next().data["entityId"] == account


def test_the_header_counts_more_than_the_query(api_workspace: ApiWorkspace) -> None:
    api_workspace.account()
    with open_stream(api_workspace.client(), 0, kinds="account") as stream:
        first = stream.next().id
    account = api_workspace.account()
    with open_stream(api_workspace.client(), first, kinds="account", lastEventId="0") as stream:
        assert stream.next().data["entityId"] == account


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_long_history_is_read_in_pages(api_workspace: ApiWorkspace, transport: str) -> None:
    count = 2 * HISTORY_PAGE + 10
    made = append_notes(api_workspace, count)
    with subscribed(api_workspace, transport, last=0, kinds="note") as stream:
        assert [received.id for received in stream.take(count)] == made
        account = api_workspace.account()
        note = api_workspace.make("notes", accountId=account, body="the last one").json()["id"]
        assert stream.next().data["entityId"] == note
