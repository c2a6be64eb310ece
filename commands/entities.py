"""Commands on entities of every kind: create, revise, delete and restore.

A command loads the entities that it decides on, has the aggregates decide, and appends. After a
concurrent write it decides again on the new state, unless the caller named an expected version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from eventsourcing.persistence import IntegrityError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from commands.links import require_account, require_links
from commands.loaded import LoadedEntities, event_time
from domain.account import Account
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.refusals import OpenOpportunities
from eventlog.scope import Scope
from eventlog.store.log import EventLog

E = TypeVar("E", bound=Entity)
R = TypeVar("R")

DECIDE_ATTEMPTS_MAX = 12
"""Maximum number of attempts of a command that meets concurrent writes."""
DECIDE_WAIT_S = 0.01
DECIDE_WAIT_MAX_S = 0.25
"""The pause before each attempt after the second is random. Its upper bound starts at the first of
these values and doubles up to the second."""
MERGES_FOLLOWED_MAX = 100
"""Maximum number of merges that are followed from an account to the one that remains."""


@dataclass(frozen=True)
class CommandOutcome:
    """The entity after the command, and a log position that includes the command's events."""

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
        """Create an entity.

        Raises `InvalidFields`, `AccountUnavailable`, `NotAMember`, `ReferenceUnavailable`,
        `TimeTaken`.
        """
        entity = kind.create(
            entity_id or self._new_id(),
            scope.workspace_id,
            fields,
            at=occurred_at or self._clock(),
            account_id=account_id,
        )
        # Without an account there is nothing to lock, and the append is one statement.
        block = self._log.scoped if account_id is None else self._log.transaction
        with block(scope):
            loaded = LoadedEntities(self._log)
            if account_id is not None:
                loaded.lock_accounts(shared=[account_id])
                require_account(loaded, account_id)
            require_links(loaded, kind, None, entity.values)
            return _append(loaded, entity)

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
        """Replace the fields by what `change` returns for the current ones.

        Raises `NotFound`, `IsDeleted`, `WasMerged`, `InvalidFields`, `TransitionRefused`,
        `NotAMember`, `ReferenceUnavailable`, `StaleVersion`, `OccurredTooEarly`, `TimeTaken`.
        """

        def decide(entity: Entity, now: datetime) -> None:
            entity.require_not_deleted()
            entity.revise(change(entity.values), at=occurred_at or now)

        return self.act(scope, kind, entity_id, decide, expected_version=expected_version)

    def act(
        self,
        scope: Scope,
        kind: type[E],
        entity_id: UUID,
        decide: Callable[[E, datetime], None],
        *,
        expected_version: int | None = None,
    ) -> CommandOutcome:
        """Call `decide` with the entity and the time, and record what the entity decided.

        Raises what `decide` raises, `NotFound`, `NotAMember`, `ReferenceUnavailable`,
        `StaleVersion`, `TimeTaken`.
        """

        def try_once() -> CommandOutcome:
            with self._log.scoped(scope):
                loaded = LoadedEntities(self._log)
                entity = loaded.get(kind, entity_id, expected_version)
                before = entity.values
                decide(entity, event_time(entity, self._clock()))
                require_links(loaded, kind, before, entity.values)
                return _append(loaded, entity)

        return retry_on_conflict(try_once)

    def delete(
        self,
        scope: Scope,
        kind: type[Entity],
        entity_id: UUID,
        *,
        expected_version: int | None = None,
    ) -> CommandOutcome:
        """Delete an entity; an account together with its children.

        Raises `NotFound`, `StaleVersion`, `OpenOpportunities`.
        """

        def decide() -> CommandOutcome:
            block = self._log.transaction if kind is Account else self._log.scoped
            with block(scope):
                loaded = LoadedEntities(self._log)
                if kind is Account:
                    loaded.lock_accounts(exclusive=[entity_id])
                entity = loaded.get(kind, entity_id, expected_version)
                loaded.stage(*delete_with_children(loaded, entity, self._clock()))
                return CommandOutcome(entity, loaded.append())

        return retry_on_conflict(decide)

    def restore(
        self,
        scope: Scope,
        kind: type[Entity],
        entity_id: UUID,
        *,
        expected_version: int | None = None,
    ) -> CommandOutcome:
        """Restore an entity; an account together with the children that were deleted with it.

        A child of an account that was merged into another is restored to the remaining account.
        Raises `NotFound`, `StaleVersion`, `AccountUnavailable`, `KeyRevoked`, `WasMerged`,
        `TimeTaken`.
        """

        def decide() -> CommandOutcome:
            with self._log.transaction(scope):
                loaded = LoadedEntities(self._log)
                if kind is Account:
                    loaded.lock_accounts(exclusive=[entity_id])
                entity = loaded.get(kind, entity_id, expected_version)
                account_id = entity.account_id and remaining_account(loaded, entity.account_id)
                if account_id is not None:
                    loaded.lock_accounts(shared=[account_id])
                    require_account(loaded, account_id)
                now = self._clock()
                return _append(loaded, *restore_with_children(loaded, entity, now, account_id))

        return retry_on_conflict(decide)


def delete_with_children(loaded: LoadedEntities, entity: Entity, now: datetime) -> list[Entity]:
    """Delete the entity; return what changed, children first, so that no child lacks its account.

    The caller has locked an account exclusively. Raises `OpenOpportunities`.
    """
    children: list[Entity] = []
    if isinstance(entity, Account) and not entity.is_deleted:
        children = [each for each in loaded.children_of(entity.id) if not each.is_deleted]
        is_open = [each.id for each in children if isinstance(each, Opportunity) and each.is_open]
        if is_open:
            raise OpenOpportunities(entity.id, is_open)
    for child in children:
        child.delete(at=event_time(child, now), deleted_with=entity.id)
    entity.delete(at=event_time(entity, now))
    return [*children, entity]


def restore_with_children(
    loaded: LoadedEntities, entity: Entity, now: datetime, account_id: UUID | None = None
) -> list[Entity]:
    """Restore the entity, to this account if one is given; return what changed, children last.

    The caller has locked an account exclusively. Raises `WasMerged`, `KeyRevoked`.
    """
    children: list[Entity] = []
    if isinstance(entity, Account) and entity.is_deleted:
        children = [each for each in loaded.children_of(entity.id) if each.deleted_with]
    entity.restore(at=event_time(entity, now), account_id=account_id)
    for child in children:
        child.restore(at=event_time(child, now))
    return [entity, *children]


def retry_on_conflict(decide: Callable[[], R]) -> R:
    """Retry the decision after a concurrent write, at most `DECIDE_ATTEMPTS_MAX` times in all.

    A decision that expects a version is refused on its second attempt. Raises `IntegrityError`.
    """
    # Most commands meet no other write. The library takes a tenth of a command's CPU, so it only
    # repeats; the second attempt follows the first one without a pause.
    with suppress(IntegrityError):
        return decide()
    return Retrying(
        retry=retry_if_exception_type(IntegrityError),
        stop=stop_after_attempt(DECIDE_ATTEMPTS_MAX - 1),
        wait=wait_random_exponential(DECIDE_WAIT_S, DECIDE_WAIT_MAX_S),
        reraise=True,
    )(decide)


def remaining_account(loaded: LoadedEntities, account_id: UUID) -> UUID:
    """Follow merges from this account to the one that remains. Raises `NotFound`."""
    for _ in range(MERGES_FOLLOWED_MAX):
        account = loaded.get(Account, account_id)
        if account.merged_into is None:
            break
        account_id = account.merged_into
    return account_id


def _append(loaded: LoadedEntities, entity: Entity, *others: Entity) -> CommandOutcome:
    loaded.stage(entity, *others)
    return CommandOutcome(entity, loaded.append())
