"""The first workspace of a home: empty for `annals up`, generated for `annals demo`."""

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
from runtime.composition import new_id, open_key_writing, open_writing
from runtime.settings import Settings
from server.cli.local.database import catch_up
from server.cli.local.demo_data import (
    DemoMember,
    account_id,
    collect_events_in_order,
    create_workspace_and_members,
    demo_members,
    generate_account,
    workspace_id,
)

BATCH_ACCOUNTS = 50
"""Accounts in one transaction, about 750 events."""
IP = "192.0.2.1"  # RFC 5737: for documentation
USER_AGENT = "annals-demo"

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class DemoResult:
    """The token of a new admin key and the workspace of that key."""

    token: str
    workspace_id: UUID


def bootstrap(settings: Settings) -> str:
    """Create an empty workspace. Return the token of its first key, an admin key.

    `settings` are those of an open and migrated Database.
    """
    workspace = new_id()
    with open_writing(settings) as writing:
        scope = Scope(workspace, command="bootstrap")
        fields = {"name": "My workspace"}
        writing.commands.create(scope, Workspace, fields, entity_id=workspace)
    token = _issue_admin_key(settings, workspace, "first key")
    catch_up(settings)
    return token


def fill(
    settings: Settings,
    accounts: int,
    seed: int,
    progress: OnProgress = lambda done, total: None,
) -> DemoResult:
    """Fill the workspace of this seed, except for accounts that an earlier call recorded.

    `progress` is called with the number of accounts done and the total. `settings` are those of an
    open and migrated Database.
    """
    workspace = workspace_id(seed)
    members = demo_members(seed)
    with open_writing(settings) as writing:
        scope = Scope(workspace, command="demo")
        _record_once(writing.log, scope, Workspace, create_workspace_and_members(seed))
        for first in range(0, accounts, BATCH_ACCOUNTS):
            batch = range(first, min(first + BATCH_ACCOUNTS, accounts))
            owner = members[first // BATCH_ACCOUNTS % len(members)]
            _fill_batch(writing.log, seed, batch, owner)
            progress(batch.stop, accounts)
    token = _issue_admin_key(settings, workspace, "demo")
    catch_up(settings)
    return DemoResult(token, workspace)


def _fill_batch(log: EventLog, seed: int, batch: range, owner: DemoMember) -> None:
    scope = Scope(
        workspace_id(seed),
        Actor("member", str(owner.id), owner.name),
        command="demo",
        ip=IP,
        user_agent=USER_AGENT,
    )
    with log.scoped(scope):
        ends = [_exists(log, Account, account_id(seed, each)) for each in {batch[0], batch[-1]}]
    if all(ends):
        return
    accounts = [generate_account(seed, each, owner) for each in batch]
    if not any(ends):
        _record(log, scope, (entity for entities in accounts for entity in entities))
        return
    for entities in accounts:  # an earlier call was interrupted within this batch
        _record_once(log, scope, Account, entities)


def _record_once(log: EventLog, scope: Scope, kind: type[Entity], entities: list[Entity]) -> None:
    """Record the entities unless the first of them exists."""
    with log.scoped(scope):
        exists = _exists(log, kind, entities[0].id)
    if not exists:
        _record(log, scope, entities)


def _record(log: EventLog, scope: Scope, entities: Iterable[Entity]) -> None:
    """Append the pending events of the entities in one transaction."""
    with log.transaction(scope):
        log.record(collect_events_in_order(list(entities)))


def _exists(log: EventLog, kind: type[Entity], entity_id: UUID) -> bool:
    try:
        log.load(kind, entity_id)
    except NotFound:
        return False
    return True


def _issue_admin_key(settings: Settings, workspace: UUID, name: str) -> str:
    scope = Scope(workspace, command="issue_key")
    with open_key_writing(settings) as writing:
        return issue_key(writing.commands, scope, {"name": name, "role": Role.ADMIN}).token
