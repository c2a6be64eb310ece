"""A workspace to start with: an empty one for `annals up`, a generated one for `annals demo`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from commands.keys import issue_key
from domain.account import Account
from domain.api_key import Role
from domain.shared.entity import Entity
from domain.shared.refusals import NotFound
from domain.workspace import Workspace
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from runtime.composition import Writing, new_id, open_writing
from runtime.settings import Settings
from server.cli.local.database import catch_up
from server.cli.local.demo_data import (
    Person,
    account_id,
    account_story,
    founding,
    in_order,
    people,
    workspace_id,
)

BATCH_ACCOUNTS = 50
"""Accounts in one transaction: some 750 events."""
IP = "192.0.2.1"  # RFC 5737: for documentation
USER_AGENT = "annals-demo"

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class DemoResult:
    """The token of a new admin key, and the workspace that it opens."""

    token: str
    workspace_id: UUID


def bootstrap(settings: Settings) -> str:
    """Make an empty workspace; returns the token of its first key, an admin's.

    `settings` are those of an open and migrated Database.
    """
    workspace = new_id()
    with open_writing(settings) as writing:
        scope = Scope(workspace, command="bootstrap")
        fields = {"name": "My workspace"}
        writing.commands.create(scope, Workspace, fields, entity_id=workspace)
        token = _issue(writing, workspace, "first key")
    catch_up(settings)
    return token


def fill(
    settings: Settings,
    accounts: int,
    seed: int,
    progress: OnProgress = lambda done, total: None,
) -> DemoResult:
    """Fill the workspace of this seed; what an earlier call recorded is left as it is.

    `progress` is called with the accounts that are there and all that there will be. `settings` are
    those of an open and migrated Database.
    """
    workspace = workspace_id(seed)
    members = people(seed)
    with open_writing(settings) as writing:
        _record(writing.log, Scope(workspace, command="demo"), Workspace, founding(seed))
        for first in range(0, accounts, BATCH_ACCOUNTS):
            batch = range(first, min(first + BATCH_ACCOUNTS, accounts))
            owner = members[first // BATCH_ACCOUNTS % len(members)]
            _fill_batch(writing.log, seed, batch, owner)
            progress(batch.stop, accounts)
        token = _issue(writing, workspace, "demo")
    catch_up(settings)
    return DemoResult(token, workspace)


def _fill_batch(log: EventLog, seed: int, batch: range, owner: Person) -> None:
    scope = Scope(
        workspace_id(seed),
        Actor("member", str(owner.id), owner.name),
        command="demo",
        ip=IP,
        user_agent=USER_AGENT,
    )
    with log.scoped(scope):
        ends = [_is_there(log, Account, account_id(seed, each)) for each in {batch[0], batch[-1]}]
    if all(ends):
        return
    stories = [account_story(seed, each, owner) for each in batch]
    if not any(ends):
        _put(log, scope, (entity for story in stories for entity in story))
        return
    for story in stories:  # an earlier call ended within this batch
        _record(log, scope, Account, story)


def _record(log: EventLog, scope: Scope, kind: type[Entity], entities: list[Entity]) -> None:
    """Record them unless the first of them is there already."""
    with log.scoped(scope):
        is_there = _is_there(log, kind, entities[0].id)
    if not is_there:
        _put(log, scope, entities)


def _put(log: EventLog, scope: Scope, entities: Iterable[Entity]) -> None:
    """Append everything that these decided, in the order in which it occurred."""
    with log.transaction(scope):
        log.record(in_order(list(entities)))


def _is_there(log: EventLog, kind: type[Entity], entity_id: UUID) -> bool:
    try:
        log.load(kind, entity_id)
    except NotFound:
        return False
    return True


def _issue(writing: Writing, workspace: UUID, name: str) -> str:
    scope = Scope(workspace, command="issue_key")
    return issue_key(writing.commands, scope, {"name": name, "role": Role.ADMIN}).token
