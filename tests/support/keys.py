"""API keys that the owner's role issues, as the command line does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from commands.entities import EntityCommands
from commands.keys import IssuedKey, issue_key, parse_token
from domain.api_key import OPERATORS, Role
from eventlog.connections import write_pool
from eventlog.scope import Credential, Scope
from eventlog.store.log import EventLog

ADMIN = {"name": "admin key", "role": "admin"}


@contextmanager
def open_key_log(owner_url: str) -> Iterator[EventLog]:
    """The log in the owner's role, which may append events of keys and no others."""
    with write_pool(owner_url, max_size=1) as pool:
        yield EventLog(pool)


def issue_first_key(
    owner_url: str, workspace_id: UUID, fields: Mapping[str, Any] = ADMIN
) -> IssuedKey:
    """Issue a key in the owner's role, by default an admin key."""
    with open_key_log(owner_url) as log:
        commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)
        return issue_key(commands, Scope(workspace_id), fields)


def issue_operator_key(owner_url: str) -> IssuedKey:
    """Issue an operator key."""
    return issue_first_key(owner_url, OPERATORS, {"name": "operator", "role": Role.OPERATOR})


def credential(issued: IssuedKey) -> Credential:
    """Return what a scope needs to change the keys of the workspace."""
    parsed = parse_token(issued.token)
    assert parsed is not None
    return Credential(*parsed)
