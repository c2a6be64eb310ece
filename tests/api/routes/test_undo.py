"""POST /api/undo over HTTP, while another writer is in a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import httpx
import psycopg
import pytest

from eventlog.connections import Connection
from tests.support.api_server import ApiWorkspace


@contextmanager
def open_writer(api_workspace: ApiWorkspace) -> Iterator[Connection]:
    """A writer of another workspace that has taken a position and has not committed."""
    with psycopg.connect(str(api_workspace.api.settings.app_url)) as connection:
        connection.execute(
            """SELECT append_events(%s, json_build_array(json_build_object(
                   'stream', %s::text, 'version', 1, 'topic', 'note.created',
                   'data', json_build_object('fields', json_build_object('body', 'x')),
                   'occurred', now())), '{"actor": {"type": "system", "id": "other"}}')""",
            (uuid4(), uuid4()),
        )
        yield connection
        connection.rollback()


def updated(api_workspace: ApiWorkspace) -> httpx.Response:
    """Change an account; return the response."""
    account = api_workspace.account()
    response = api_workspace.client().patch(
        f"/api/accounts/{account}",
        json={"priority": "high"},
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert response.status_code == 200
    return response


def undo(api_workspace: ApiWorkspace, **body: object) -> httpx.Response:
    """Ask for an undo; return the response."""
    return api_workspace.client().post("/api/undo", json=body)


def test_acknowledged_command_is_undone_while_another_writer_is_open(
    api_workspace: ApiWorkspace,
) -> None:
    api_workspace.client()
    with open_writer(api_workspace):
        command_id = updated(api_workspace).headers["Annals-Command"]
        undone = undo(api_workspace, commandId=command_id)
    assert undone.status_code == 200, undone.text
    assert [each["action"] for each in undone.json()["changes"]] == ["update"]


def test_audit_trail_shows_nothing_above_an_event_that_may_still_appear(
    api_workspace: ApiWorkspace,
) -> None:
    client = api_workspace.client()
    with open_writer(api_workspace):
        changed = updated(api_workspace)
        position = changed.headers["Annals-Position"]
        listed = client.get("/api/audit", params={"pageSize": 1}).json()["items"]
        assert [each for each in listed if each["position"] >= int(position)] == []
        refused = client.get("/api/audit", headers={"Annals-Min-Position": position})
        assert (refused.status_code, refused.json()["code"]) == (503, "E3003")
    shown = client.get("/api/audit?pageSize=1", headers={"Annals-Min-Position": position}).json()
    assert shown["items"][0]["position"] == int(position)


@pytest.mark.parametrize("command", ["update", "create"])
def test_event_is_undone_by_position_while_another_writer_is_open(
    command: str, api_workspace: ApiWorkspace
) -> None:
    api_workspace.client()
    with open_writer(api_workspace):
        response = (
            updated(api_workspace)
            if command == "update"
            else api_workspace.make("accounts", company="Beta", type="customer")
        )
        undone = undo(api_workspace, eventPosition=int(response.headers["Annals-Position"]))
    assert undone.status_code == 200, undone.text
