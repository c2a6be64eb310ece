"""Commands on entities of every kind: create, revise, delete and restore.

A command loads the entities that it decides on, has the aggregates decide, and appends. After a
concurrent write it decides again on the new state, unless the caller named an expected version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import chain
from typing import Any, TypeVar
from uuid import UUID

from commands.decisions import CommandOutcome, Decision, retry_on_conflict, run_decision
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

MERGES_FOLLOWED_MAX = 100
"""Maximum number of merges that are followed from an account to the one that remains."""


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
        decision = self.creating(
            scope.workspace_id,
            kind,
            fields,
            account_id=account_id,
            occurred_at=occurred_at,
            entity_id=entity_id,
        )
        return self.run(scope, decision)

    def creating(
        self,
        workspace_id: UUID,
        kind: type[Entity],
        fields: Mapping[str, Any],
        *,
        account_id: UUID | None = None,
        occurred_at: datetime | None = None,
        entity_id: UUID | None = None,
    ) -> Decision:
        """The decision of `create`. Raises `InvalidFields` and `AccountUnavailable` at once."""

        new_id = entity_id or self._new_id()

        def new() -> Entity:
            at = occurred_at or self._clock()
            return kind.create(new_id, workspace_id, fields, at=at, account_id=account_id)

        entities = chain([new()], iter(new, None))  # each is staged once

        def decide(loaded: LoadedEntities) -> Entity:
            if account_id is not None:
                require_account(loaded, account_id)
            entity = next(entities)
            require_links(loaded, kind, None, entity.values)
            loaded.stage(entity)
            return entity

        accounts = () if account_id is None else (account_id,)
        return Decision(
            decide, accounts, shared=accounts, is_retried=False, runs_alone=kind.CLAIMS_TIME
        )

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
        decision = self.revising(
            kind, entity_id, change, expected_version=expected_version, occurred_at=occurred_at
        )
        return self.run(scope, decision)

    def revising(
        self,
        kind: type[Entity],
        entity_id: UUID,
        change: Callable[[FieldValues], Mapping[str, Any]],
        *,
        expected_version: int | None = None,
        occurred_at: datetime | None = None,
    ) -> Decision:
        """The decision of `revise`."""

        def decide(entity: Entity, now: datetime) -> None:
            entity.require_not_deleted()
            entity.revise(change(entity.values), at=occurred_at or now)

        return self.acting(kind, entity_id, decide, expected_version=expected_version)

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
        decision = self.acting(kind, entity_id, decide, expected_version=expected_version)
        return self.run(scope, decision)

    def acting(
        self,
        kind: type[E],
        entity_id: UUID,
        decide: Callable[[E, datetime], None],
        *,
        expected_version: int | None = None,
    ) -> Decision:
        """The decision of `act`."""

        def decide_on(loaded: LoadedEntities) -> Entity:
            entity = loaded.get(kind, entity_id, expected_version)
            before = entity.values
            decide(entity, event_time(entity, self._clock()))
            require_links(loaded, kind, before, entity.values)
            loaded.stage(entity)
            return entity

        return Decision(decide_on, (entity_id,), runs_alone=kind.CLAIMS_TIME)

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
        decision = self.deleting(kind, entity_id, expected_version=expected_version)
        return self.run(scope, decision)

    def deleting(
        self, kind: type[Entity], entity_id: UUID, *, expected_version: int | None = None
    ) -> Decision:
        """The decision of `delete`."""

        def decide(loaded: LoadedEntities) -> Entity:
            entity = loaded.get(kind, entity_id, expected_version)
            loaded.stage(*delete_with_children(loaded, entity, self._clock()))
            return entity

        has_children = kind is Account
        return Decision(
            decide,
            (entity_id,),
            exclusive=(entity_id,) if has_children else (),
            runs_alone=has_children or kind.CLAIMS_TIME,
        )

    def run(self, scope: Scope, decision: Decision) -> CommandOutcome:
        """Run a decision by itself. Raises what the decision raises, and `TimeTaken`."""
        return run_decision(self._log, scope, decision)

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
