"""An admin who rebuilds, rolls back and retries projections over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg

from commands.entities import EntityCommands
from domain.account import Account
from domain.api_key import OPERATORS
from eventlog.connections import Connection, write_pool
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from tests.support.databases import Urls
from tests.support.keys import issue_first_key
from tests.support.processes import api_without_projector
from tests.support.waiting import wait_until, wait_until_projected

ENDED = {"done", "failed", "cancelled"}


@dataclass
class ProjectionAdmin:
    """An admin's client of the API, and commands in the admin's workspace."""

    urls: Urls
    client: httpx.Client
    commands: EntityCommands
    scope: Scope
    database: Connection

    def key_headers(self, role: str, workspace_id: UUID | None = None) -> dict[str, str]:
        """Return headers with a new key of this role, of this workspace or another one."""
        workspace_id = OPERATORS if role == "operator" else workspace_id or self.scope.workspace_id
        key = issue_first_key(self.urls.owner, workspace_id, {"name": role, "role": role})
        self.wait_until_projected(key.outcome.position)
        return {"Authorization": f"Bearer {key.token}"}

    def wait_until_projected(self, position: int) -> None:
        """Wait until all projections have reached the position."""
        wait_until_projected(self.database, position)

    def write(self, company: str) -> Any:
        """Create an account."""
        return self.commands.create(self.scope, Account, {"company": company, "type": "customer"})

    def wait_for_state(self, location: str, *states: str) -> dict[str, Any]:
        """Wait until the projection job is in one of these states; return the job."""
        found: dict[str, Any] = {}

        def has_state() -> bool:
            found.update(self.client.get(location).json())
            return found["state"] in states

        wait_until(has_state, f"the projection job is {' or '.join(states)}")
        return found

    def ended(self, location: str) -> dict[str, Any]:
        """Wait until the projection job has ended; return it."""
        return self.wait_for_state(location, *sorted(ENDED))

    def ask(self, action: str, name: str = "accounts", **body: Any) -> httpx.Response:
        """Request an action on a projection."""
        given = body if action == "rebuild" else None
        return self.client.post(f"/api/projections/{name}/{action}", json=given)


@contextmanager
def open_projection_admin(urls: Urls) -> Iterator[ProjectionAdmin]:
    """Provide an admin while the block lasts. A projector must be running on the database."""
    with (
        api_without_projector(urls) as client,
        write_pool(urls.app) as pool,
        psycopg.connect(urls.superuser, autocommit=True) as database,
    ):
        commands = EntityCommands(EventLog(pool), clock=lambda: datetime.now(UTC), new_id=uuid4)
        admin = ProjectionAdmin(urls, client, commands, Scope(uuid4()), database)
        client.headers.update(admin.key_headers("operator"))
        yield admin
