"""POST /api/undo over HTTP, while another writer is in a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from uuid import uuid4

import httpx
import psycopg
import pytest

from eventlog.connections import Connection
from tests.support.api_server import ApiWorkspace
from tests.support.waiting import wait_until

RELEASED_AFTER_S = 0.4


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


def test_acknowledged_command_is_undone_once_the_other_writer_has_ended(
    api_workspace: ApiWorkspace,
) -> None:
    api_workspace.client()
    with open_writer(api_workspace) as writer:
        command_id = updated(api_workspace).headers["Annals-Command"]
        release = Timer(RELEASED_AFTER_S, writer.rollback)
        release.start()
        undone = undo(api_workspace, commandId=command_id)
        release.join()
    assert undone.status_code == 200, undone.text
    assert [each["action"] for each in undone.json()["changes"]] == ["update"]


def test_command_behind_a_writer_that_stays_is_retried_and_not_unknown(
    api_workspace: ApiWorkspace,
) -> None:
    api_workspace.client()
    with open_writer(api_workspace):
        command_id = updated(api_workspace).headers["Annals-Command"]
        refused = undo(api_workspace, commandId=command_id)
        assert (refused.status_code, refused.json()["code"]) == (503, "E3003")
        assert refused.headers["Retry-After"]
    wait_until(
        lambda: undo(api_workspace, commandId=command_id).status_code in (200, 409),
        "the command can be undone",
    )


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
