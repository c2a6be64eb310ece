"""Commands on entities: create, change, delete and restore, for every kind alike.

Each loads what it decides on, lets the aggregate decide, and appends. Where somebody else was
faster, it decides again on what is there now, unless the caller said which version it meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from eventsourcing.persistence import IntegrityError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from commands.links import require_links
from domain.account import Account
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.refusals import (
    AccountUnavailable,
    NotFound,
    OpenOpportunities,
    StaleVersion,
)
from eventlog.scope import Scope
from eventlog.store.log import EventLog

E = TypeVar("E", bound=Entity)
R = TypeVar("R")

DECIDE_ATTEMPTS_MAX = 12
"""How often a command decides anew where somebody else was faster."""
DECIDE_WAIT_S = 0.01
DECIDE_WAIT_MAX_S = 0.25
"""It waits a random time before, up to the first and doubling up to the second."""
MERGES_FOLLOWED_MAX = 100
"""From an account that was merged into another, which was merged into a third …"""


@dataclass(frozen=True)
class CommandOutcome:
    """The entity after the command, and the log position by which all of it is recorded."""

    entity: Entity
    position: int


class EntityCommands:
    """Handles commands on entities. Thread-safe; clock and ids are passed in."""

    def __init__(
        self, log: EventLog, *, clock: Callable[[], datetime], new_id: Callable[[], UUID]
    ) -> None:
        self._log = log
        self._clock = clock
        self._new_id = new_id

    def create(
        self,
        scope: Scope,
        kind: type[Entity],
        fields: Mapping[str, Any],
        *,
        account_id: UUID | None = None,
        occurred_at: datetime | None = None,
        entity_id: UUID | None = None,
    ) -> CommandOutcome:
        """A new entity.

        Raises `InvalidFields`, `AccountUnavailable`, `NotAMember`, `ReferenceUnavailable`.
        """
        entity = kind.create(
            entity_id or self._new_id(),
            scope.workspace_id,
            fields,
            at=occurred_at or self._clock(),
            account_id=account_id,
        )
        if account_id is None:
            with self._log.scoped(scope):
                require_links(self._log, kind, None, entity.values)
                return self._append(entity)
        with self._log.transaction(scope):
            self.require_account(account_id)
            require_links(self._log, kind, None, entity.values)
            return self._append(entity)

    def revise(
        self,
        scope: Scope,
        kind: type[Entity],
        entity_id: UUID,
        change: Callable[[FieldValues], Mapping[str, Any]],
        *,
        expected_version: int | None = None,
        occurred_at: datetime | None = None,
    ) -> CommandOutcome:
        """Make the fields be what `change` makes of those that there are.

        Raises `NotFound`, `IsDeleted`, `WasMerged`, `InvalidFields`, `TransitionRefused`,
        `NotAMember`, `ReferenceUnavailable`, `StaleVersion`, `OccurredTooEarly`.
        """

        def decide() -> CommandOutcome:
            with self._log.scoped(scope):
                entity = self._load(kind, entity_id, expected_version)
                entity.require_not_deleted()
                before = entity.values
                entity.revise(change(before), at=self._time(entity, occurred_at))
                require_links(self._log, kind, before, entity.values)
                return self._append(entity)

        return retry_on_conflict(decide)

    def act(
        self,
        scope: Scope,
        kind: type[E],
        entity_id: UUID,
        decide: Callable[[E, datetime], None],
        *,
        expected_version: int | None = None,
    ) -> CommandOutcome:
        """Have it decide something of its own: `decide` is given the entity and the time.

        Raises what `decide` raises, `NotFound`, `NotAMember`, `ReferenceUnavailable`,
        `StaleVersion`.
        """

        def try_once() -> CommandOutcome:
            with self._log.scoped(scope):
                entity = self._load(kind, entity_id, expected_version)
                before = entity.values
                decide(entity, self._time(entity))
                require_links(self._log, kind, before, entity.values)
                return self._append(entity)

        return retry_on_conflict(try_once)

    def delete(
        self,
        scope: Scope,
        kind: type[Entity],
        entity_id: UUID,
        *,
        expected_version: int | None = None,
    ) -> CommandOutcome:
        """Delete it; an account with all that hangs on it.

        Raises `NotFound`, `StaleVersion`, `OpenOpportunities`.
        """

        def decide() -> CommandOutcome:
            if kind is Account:
                return self._delete_account(scope, entity_id, expected_version)
            with self._log.scoped(scope):
                entity = self._load(kind, entity_id, expected_version)
                entity.delete(at=self._time(entity))
                return self._append(entity)

        return retry_on_conflict(decide)

    def restore(
        self,
        scope: Scope,
        kind: type[Entity],
        entity_id: UUID,
        *,
        expected_version: int | None = None,
    ) -> CommandOutcome:
        """Bring it back; an account with all that was deleted with it.

        What hung on an account that was merged into another comes back on that one. Raises
        `NotFound`, `StaleVersion`, `AccountUnavailable`, `KeyRevoked`, `WasMerged`.
        """

        def decide() -> CommandOutcome:
            with self._log.transaction(scope):
                entity = self._load(kind, entity_id, expected_version)
                account_id = entity.account_id and self._survivor(entity.account_id)
                if account_id is not None:
                    self.require_account(account_id)
                children: list[Entity] = []
                if isinstance(entity, Account) and entity.is_deleted:
                    self._log.hold_account_alone(entity_id)
                    hanging = self._log.children_of([entity_id])[entity_id]
                    children = [each for each in hanging if each.deleted_with]
                entity.restore(at=self._time(entity), account_id=account_id)
                for child in children:
                    child.restore(at=self._time(child))
                return self._append(entity, *children)

        return retry_on_conflict(decide)

    def _delete_account(
        self, scope: Scope, account_id: UUID, expected_version: int | None
    ) -> CommandOutcome:
        with self._log.transaction(scope):
            self._log.hold_account_alone(account_id)
            account = self._load(Account, account_id, expected_version)
            hanging = self._log.children_of([account_id])[account_id]
            children = [each for each in hanging if not each.is_deleted]
            is_open = [
                each.id for each in children if isinstance(each, Opportunity) and each.is_open
            ]
            if is_open and not account.is_deleted:
                raise OpenOpportunities(account_id, is_open)
            for child in children:
                child.delete(at=self._time(child), deleted_with=account_id)
            account.delete(at=self._time(account))
            outcome = self._append(*children, account)
            return CommandOutcome(account, outcome.position)

    def _load(self, kind: type[E], entity_id: UUID, expected_version: int | None) -> E:
        entity = self._log.load(kind, entity_id)
        if expected_version is not None and entity.version != expected_version:
            raise StaleVersion(entity_id, expected_version, entity.version)
        return entity

    def require_account(self, account_id: UUID) -> None:
        """The account is there, and stays until this transaction ends.

        Raises `AccountUnavailable`.
        """
        self._log.hold_account(account_id)
        try:
            account = self._log.load(Account, account_id)
        except NotFound:
            raise AccountUnavailable(account_id) from None
        if account.is_deleted:
            raise AccountUnavailable(account_id, account.merged_into)

    def _survivor(self, account_id: UUID) -> UUID:
        """The account into which this one was merged, that one into another …; itself if it was
        not."""
        for _ in range(MERGES_FOLLOWED_MAX):
            account = self._log.load(Account, account_id)
            if account.merged_into is None:
                break
            account_id = account.merged_into
        return account_id

    def _append(self, *entities: Entity) -> CommandOutcome:
        position = self._log.append(*entities)
        return CommandOutcome(entities[0], position or self._log.taken_position())

    def _time(self, entity: Entity, occurred_at: datetime | None = None) -> datetime:
        """When it occurs: now, were it not for clocks that differ, never before what there is."""
        return occurred_at or max(self._clock(), entity.modified_on)


def retry_on_conflict(decide: Callable[[], R]) -> R:
    """Decide anew where somebody else was faster. Whoever asked for a version hears it then."""
    return Retrying(
        retry=retry_if_exception_type(IntegrityError),
        stop=stop_after_attempt(DECIDE_ATTEMPTS_MAX),
        wait=wait_random_exponential(DECIDE_WAIT_S, DECIDE_WAIT_MAX_S),
        reraise=True,
    )(decide)
