"""Following changes: both transports, filters, what each role hears, resuming, being cut off."""

from __future__ import annotations

from tests.api_server import Office
from tests.followers import following, messages, socket_of


def test_a_change_is_told_as_it_happens(office: Office) -> None:
    with following(office.client()) as stream:
        opened = stream.next("open")
        account = office.make("accounts", company="Acme", type="customer")
        fact = stream.next()
    assert fact.position == fact.id == int(account.headers["Annals-Position"]) > opened.position
    assert fact.data["type"] == "account.created"
    assert fact.data["kind"] == "account"
    assert fact.data["entityId"] == account.json()["id"]
    assert fact.data["actor"]["name"] == "admin key"
    assert {"field": "company", "before": None, "after": "Acme"} in fact.data["changes"]


def test_the_same_is_told_over_a_websocket(office: Office) -> None:
    with socket_of(office.api, office.token("member")) as socket:
        stream = messages(socket)
        stream.next("open")
        account = office.account()
        fact = stream.next()
    assert fact.id == fact.position
    assert fact.data["entityId"] == account
