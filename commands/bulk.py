"""Bulk: the same change to many entities, with an outcome for each of them.

All entities are loaded in one statement, and all events are appended in one. Followers of the log
wait from the first event of a transaction to its commit, so the append comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any
from uuid import UUID

from eventsourcing.persistence import IntegrityError

from commands.decisions import retry_on_conflict
from commands.entities import (
    delete_with_children,
    remaining_account,
    restore_with_children,
)
from commands.jobs.work import CannotContinue, JobContext, JobWork
from commands.links import require_account, require_links
from commands.loaded import LoadedEntities, event_time
from domain.account import Account
from domain.job import JobStep
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.refusals import Refusal, TimeTaken
from eventlog.scope import Scope
from eventlog.store.log import EventLog

INLINE_ITEMS_MAX = 200
"""Maximum number of items that are changed while the client waits; more take a job."""
JOB_ITEMS_MAX = 100_000
"""Maximum number of items of one bulk operation."""
ATOMIC_ITEMS_MAX = 1_000
"""Maximum number of items of an atomic operation, which is one transaction."""
ACCOUNTS_MAX = 100
"""Maximum number of accounts that one step deletes or restores together with their children."""

Revise = Callable[[FieldValues], Mapping[str, Any]]


class BulkAction(StrEnum):
    SET = "set"
    DELETE = "delete"
    RESTORE = "restore"


@dataclass(frozen=True)
class BulkChange:
    """The change to each entity: set fields (status and assignee included), delete or restore."""

    action: BulkAction
    revise: Revise | None = None
    """With `set`: returns the new fields for the current ones."""


@dataclass(frozen=True)
class ItemOutcome:
    """One entity after the change, or the reason why it was not changed."""

    entity_id: UUID
    entity: Entity | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class BulkOutcome:
    """The outcome of each item in the requested order, and a log position that includes them."""

    items: list[ItemOutcome]
    position: int

    @property
    def failed(self) -> list[ItemOutcome]:
        """The items that were not changed."""
        return [each for each in self.items if each.error is not None]


@dataclass
class TooManyItems(Refusal):
    """There are too many items for one bulk operation."""

    found: int
    limit: int


@dataclass
class BulkRefused(Refusal):
    """Some of the items cannot be changed, so none was."""

    outcomes: list[ItemOutcome]


def items_max(*, atomic: bool) -> int:
    """Return the maximum number of items of one bulk operation."""
    return ATOMIC_ITEMS_MAX if atomic else JOB_ITEMS_MAX


def require_item_count(count: int, *, atomic: bool) -> None:
    """Raise `TooManyItems` if one bulk operation cannot change this many items."""
    limit = items_max(atomic=atomic)
    if count > limit:
        raise TooManyItems(count, limit)


def needs_job(count: int, *, atomic: bool) -> bool:
    """Whether this many items are changed by a job, and not while the client waits."""
    return not atomic and count > INLINE_ITEMS_MAX


class BulkCommands:
    """Handles bulk changes. Thread-safe; the clock is passed in."""

    def __init__(self, log: EventLog, *, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._clock = clock

    def apply(
        self,
        scope: Scope,
        kind: type[Entity],
        ids: Sequence[UUID],
        change: BulkChange,
        *,
        atomic: bool = False,
    ) -> BulkOutcome:
        """Change each of these entities, all in one transaction.

        An entity that the change would leave as it is counts as changed and records nothing. A
        refusal is the outcome of its entity and does not affect the others; with `atomic` it raises
        `BulkRefused`, and nothing is recorded. Raises the library's errors for failures of the
        database. An atomic change also raises `IntegrityError` after too many concurrent writes (a
        change of a single entity does so too), and `TimeTaken` if a claimed time is taken.
        """

        def decide() -> BulkOutcome:
            return self._apply_to_all(scope, kind, ids, change, atomic=atomic)

        try:
            return retry_on_conflict(decide)
        except TimeTaken:
            if atomic:
                raise
        except IntegrityError:
            if atomic or len(ids) == 1:
                raise
        return self._apply_to_each(scope, kind, ids, change)

    def _apply_to_all(
        self,
        scope: Scope,
        kind: type[Entity],
        ids: Sequence[UUID],
        change: BulkChange,
        *,
        atomic: bool,
    ) -> BulkOutcome:
        with self._log.transaction(scope):
            decider = _BulkDecider(self._log, kind, change, self._clock())
            outcome = BulkOutcome(decider.decide(ids), 0)
            if atomic and outcome.failed:
                raise BulkRefused(outcome.failed)
            return BulkOutcome(outcome.items, decider.loaded.append())

    def _apply_to_each(
        self, scope: Scope, kind: type[Entity], ids: Sequence[UUID], change: BulkChange
    ) -> BulkOutcome:
        """Change the entities one by one, so that a failure does not affect the others."""
        items, position = [], 0
        with self._log.transaction(scope):
            for entity_id in ids:
                apply_one = partial(
                    self._apply_to_all, scope, kind, [entity_id], change, atomic=False
                )
                try:
                    done = retry_on_conflict(apply_one)
                except (IntegrityError, TimeTaken) as error:
                    items.append(ItemOutcome(entity_id, error=error))
                else:
                    items += done.items
                    position = max(position, done.position)
        return BulkOutcome(items, position)


class _BulkDecider:
    """Decides on entities of one kind, within a transaction."""

    def __init__(
        self, log: EventLog, kind: type[Entity], change: BulkChange, now: datetime
    ) -> None:
        self.loaded = LoadedEntities(log)
        self._kind = kind
        self._change = change
        self._now = now
        self._remaining: dict[UUID, UUID] = {}
        """With `restore`: by account, the one that remains after it was merged."""

    def decide(self, ids: Sequence[UUID]) -> list[ItemOutcome]:
        """Decide on each of these entities; the events of those that are changed are staged."""
        action = self._change.action
        if self._kind is Account and action is not BulkAction.SET:
            self.loaded.lock_accounts(exclusive=ids)
            self.loaded.load_children(ids)
        self.loaded.load(ids)
        if action is BulkAction.RESTORE:
            self._lock_accounts_of(ids)
        return [self._decide(entity_id) for entity_id in ids]

    def _decide(self, entity_id: UUID) -> ItemOutcome:
        decide = {
            BulkAction.SET: self._set,
            BulkAction.DELETE: self._delete,
            BulkAction.RESTORE: self._restore,
        }[self._change.action]
        try:
            entity = self.loaded.get(self._kind, entity_id)
            self.loaded.stage(*decide(entity))
        except Refusal as refusal:
            self.loaded.discard([entity_id])
            return ItemOutcome(entity_id, error=refusal)
        return ItemOutcome(entity_id, entity)

    def _set(self, entity: Entity) -> list[Entity]:
        assert self._change.revise is not None
        entity.require_not_deleted()
        before = entity.values
        entity.revise(self._change.revise(before), at=event_time(entity, self._now))
        require_links(self.loaded, self._kind, before, entity.values)
        return [entity]

    def _delete(self, entity: Entity) -> list[Entity]:
        return delete_with_children(self.loaded, entity, self._now)

    def _restore(self, entity: Entity) -> list[Entity]:
        account_id = None
        if entity.account_id is not None:
            account_id = self._remaining[entity.account_id]
            require_account(self.loaded, account_id)
        return restore_with_children(self.loaded, entity, self._now, account_id)

    def _lock_accounts_of(self, ids: Iterable[UUID]) -> None:
        entities = (self.loaded.find(self._kind, each) for each in ids)
        accounts = {each.account_id for each in entities if each and each.account_id}
        self.loaded.load(accounts)
        self._remaining = {each: remaining_account(self.loaded, each) for each in accounts}
        self.loaded.lock_accounts(shared=self._remaining.values())
        self.loaded.load(self._remaining.values())


class BulkWork(JobWork):
    """A bulk change as a job; its items are the ids."""

    def __init__(
        self, context: JobContext, bulk: BulkCommands, kind: type[Entity], change: BulkChange
    ) -> None:
        super().__init__(context)
        self._bulk = bulk
        self._kind = kind
        self._change = change

    def step(self, cursor: Any, limit: int) -> JobStep:
        """Change the entities with the next ids."""
        done = int(cursor or 0)
        if self._kind is Account and self._change.action is not BulkAction.SET:
            limit = min(limit, ACCOUNTS_MAX)
        ids = [UUID(each) for each in self.context.items(done, limit)]
        total = self.context.total or 0
        if not ids and done < total:
            raise CannotContinue(f"{total - done} ids are missing")
        outcome = self._bulk.apply(self.context.scope, self._kind, ids, self._change)
        errors = [
            self.context.item_error(row, each.error, id=str(each.entity_id))
            for row, each in enumerate(outcome.items, done + 1)
            if each.error is not None
        ]
        done += len(ids)
        return JobStep(done, len(ids) - len(errors), len(errors), errors, done=done >= total)
