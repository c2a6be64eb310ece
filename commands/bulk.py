"""Bulk: the same change to many entities, each with an outcome of its own.

All of them are loaded in one statement, decided, and what was decided is appended in one: followers
of the log wait from the first event of a transaction to its end, so that is kept short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache, partial
from typing import Any
from uuid import UUID

from eventsourcing.domain import CanMutateAggregate
from eventsourcing.persistence import IntegrityError

from commands.entities import retry_on_conflict
from commands.jobs.work import CannotContinue, JobContext, JobWork
from commands.links import is_member, require_links
from domain.account import Account
from domain.job import JobStep
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.refusals import (
    AccountUnavailable,
    NotFound,
    OpenOpportunities,
    Refusal,
    TimeTaken,
)
from eventlog.scope import Scope
from eventlog.store.log import EventLog

INLINE_ITEMS_MAX = 200
"""Items that are done while the client waits; more become a job."""
JOB_ITEMS_MAX = 100_000
"""Most items of one bulk operation."""
ATOMIC_ITEMS_MAX = 1_000
"""Most items of which all or none are changed: that is one transaction."""
ACCOUNTS_MAX = 100
"""Accounts that come or go in one step: all that hangs on them comes and goes along."""

Revise = Callable[[FieldValues], Mapping[str, Any]]


class BulkAction(StrEnum):
    SET = "set"
    DELETE = "delete"
    RESTORE = "restore"


@dataclass(frozen=True)
class BulkChange:
    """What is to be done to each: fields set (status and assignee among them), or its life."""

    action: BulkAction
    revise: Revise | None = None
    """With `set`: the fields as they should be, made of those that there are."""


@dataclass(frozen=True)
class ItemOutcome:
    """One entity after the change, or why it was not changed."""

    entity_id: UUID
    entity: Entity | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class BulkOutcome:
    """What came of each, in the order asked for, and the position by which it is recorded."""

    items: list[ItemOutcome]
    position: int

    @property
    def failed(self) -> list[ItemOutcome]:
        """Those that were not changed."""
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
        """Change each of these; what is so already records nothing and counts as done.

        One event for each entity that changes, all in one transaction. What is refused for one
        entity is its outcome, and spoils nothing for the others; with `atomic` it is `BulkRefused`
        and nothing is recorded. Raises the library's errors where the database does not go along,
        of atomic ones `IntegrityError` where others keep changing the same entities, and
        `TimeTaken` where one would take time that another has.
        """

        def decide() -> BulkOutcome:
            return self._together(scope, kind, ids, change, atomic=atomic)

        try:
            return retry_on_conflict(decide)
        except TimeTaken:
            if atomic:
                raise
        except IntegrityError:
            if atomic or len(ids) == 1:
                raise
        return self._one_by_one(scope, kind, ids, change)

    def _together(
        self,
        scope: Scope,
        kind: type[Entity],
        ids: Sequence[UUID],
        change: BulkChange,
        *,
        atomic: bool,
    ) -> BulkOutcome:
        with self._log.transaction(scope):
            batch = _Batch(self._log, kind, change, self._clock())
            outcome = BulkOutcome(batch.decide(ids), 0)
            if atomic and outcome.failed:
                raise BulkRefused(outcome.failed)
            position = self._log.record(batch.events)
            return BulkOutcome(outcome.items, position or self._log.taken_position())

    def _one_by_one(
        self, scope: Scope, kind: type[Entity], ids: Sequence[UUID], change: BulkChange
    ) -> BulkOutcome:
        items, position = [], 0
        with self._log.transaction(scope):
            for entity_id in ids:
                alone = partial(self._together, scope, kind, [entity_id], change, atomic=False)
                try:
                    done = retry_on_conflict(alone)
                except (IntegrityError, TimeTaken) as error:
                    items.append(ItemOutcome(entity_id, error=error))
                else:
                    items += done.items
                    position = max(position, done.position)
        return BulkOutcome(items, position)


@dataclass
class _Batch:
    """Decides on some entities of one kind, within a transaction."""

    log: EventLog
    kind: type[Entity]
    change: BulkChange
    now: datetime
    events: list[CanMutateAggregate[UUID]] = field(default_factory=list)
    """What was decided, in order."""
    _known: Callable[[UUID], bool] = field(init=False)
    """Who is a member, asked once for each."""
    _accounts: dict[UUID, Account] = field(default_factory=dict)
    _children: dict[UUID, list[Entity]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known = cache(partial(is_member, self.log))

    def decide(self, ids: Iterable[UUID]) -> list[ItemOutcome]:
        """The outcome of each."""
        ids = list(ids)
        if self.kind is Account and self.change.action is not BulkAction.SET:
            self.log.hold_accounts(ids, alone=True)
            self._children = self.log.children_of(ids)
        entities = self.log.load_many(self.kind, ids)
        if self.change.action is BulkAction.RESTORE:
            self._hold_accounts(entities.values())
        return [self._decide(entity_id, entities.get(entity_id)) for entity_id in ids]

    def _decide(self, entity_id: UUID, entity: Entity | None) -> ItemOutcome:
        if entity is None:
            return ItemOutcome(entity_id, error=NotFound(self.kind.KIND, entity_id))
        act = {
            BulkAction.SET: self._set,
            BulkAction.DELETE: self._delete,
            BulkAction.RESTORE: self._restore,
        }[self.change.action]
        try:
            changed = act(entity)
        except Refusal as refusal:
            return ItemOutcome(entity_id, error=refusal)
        self.events += [event for each in changed for event in each.collect_events()]
        return ItemOutcome(entity_id, entity)

    def _set(self, entity: Entity) -> list[Entity]:
        assert self.change.revise is not None
        entity.require_not_deleted()
        before = entity.values
        entity.revise(self.change.revise(before), at=self._time(entity))
        require_links(self.log, self.kind, before, entity.values, known=self._known)
        return [entity]

    def _delete(self, entity: Entity) -> list[Entity]:
        if entity.is_deleted or not isinstance(entity, Account):
            entity.delete(at=self._time(entity))
            return [entity]
        children = [each for each in self._children[entity.id] if not each.is_deleted]
        is_open = [each.id for each in children if isinstance(each, Opportunity) and each.is_open]
        if is_open:
            raise OpenOpportunities(entity.id, is_open)
        for child in children:
            child.delete(at=self._time(child), deleted_with=entity.id)
        entity.delete(at=self._time(entity))
        return [*children, entity]

    def _restore(self, entity: Entity) -> list[Entity]:
        if entity.account_id is not None:
            account = self._accounts.get(entity.account_id)
            if account is None or account.is_deleted:
                into = account.merged_into if account else None
                raise AccountUnavailable(entity.account_id, into)
        children: list[Entity] = []
        if isinstance(entity, Account) and entity.is_deleted:
            children = [each for each in self._children[entity.id] if each.deleted_with]
        entity.restore(at=self._time(entity))
        for child in children:
            child.restore(at=self._time(child))
        return [entity, *children]

    def _hold_accounts(self, entities: Iterable[Entity]) -> None:
        wanted = {each.account_id for each in entities if each.account_id is not None}
        if wanted:
            self.log.hold_accounts(wanted)
            self._accounts = self.log.load_many(Account, wanted)

    def _time(self, entity: Entity) -> datetime:
        return max(self.now, entity.modified_on)


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
        """The next ids."""
        done = int(cursor or 0)
        if self._kind is Account and self._change.action is not BulkAction.SET:
            limit = min(limit, ACCOUNTS_MAX)
        ids = [UUID(each) for each in self.context.items(done, limit)]
        total = self.context.total or 0
        if not ids and done < total:
            raise CannotContinue(f"{total - done} ids are not there")
        outcome = self._bulk.apply(self.context.scope, self._kind, ids, self._change)
        errors = [
            self.context.item_error(row, each.error, id=str(each.entity_id))
            for row, each in enumerate(outcome.items, done + 1)
            if each.error is not None
        ]
        done += len(ids)
        return JobStep(done, len(ids) - len(errors), len(errors), errors, done=done >= total)
