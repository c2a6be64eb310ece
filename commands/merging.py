"""Merge: of two accounts or two contacts one stays, with what hung on the other.

See docs/adr/0013-merge.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from commands.entities import CommandOutcome, retry_on_conflict
from commands.links import MEMBER_FIELDS, is_member, require_members
from domain.account import Account
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.merging import Choice, MergeableEntity, merge_values
from domain.shared.refusals import MergeRefused, StaleVersion, TooMuchToMerge
from eventlog.scope import AS_ONE, Scope
from eventlog.store.log import EventLog

E = TypeVar("E", bound=Entity)

MERGE_MOVED_MAX = 2_000
"""Most things that a merge takes from one to the other; each is an event or two, and all of it is
one transaction."""


@dataclass(frozen=True)
class MergeOutcome:
    """The one that stayed, and how much came to it, by kind."""

    outcome: CommandOutcome
    moved: Mapping[str, int]


class MergeCommands:
    """Handles merges. Thread-safe; the clock is passed in."""

    def __init__(self, log: EventLog, *, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._clock = clock

    def merge(
        self,
        scope: Scope,
        kind: type[MergeableEntity],
        entity_id: UUID,
        other_id: UUID,
        choices: Mapping[str, Choice],
        *,
        expected_version: int | None = None,
        other_version: int | None = None,
    ) -> MergeOutcome:
        """Merge the other one into this one, with the fields that were chosen.

        Nothing is recorded where the other was merged into this one before. Raises `NotFound`,
        `IsDeleted`, `WasMerged`, `MergeRefused`, `TooMuchToMerge`, `StaleVersion`, `InvalidFields`,
        `TransitionRefused`, `NotAMember`.
        """
        if entity_id == other_id:
            raise MergeRefused(kind.KIND, entity_id, other_id, "it is the same one")

        def decide() -> MergeOutcome:
            with self._log.transaction(atomic_scope(scope)):
                if kind is Account:
                    self._log.hold_accounts((entity_id, other_id), alone=True)
                entity = self._load(kind, entity_id, expected_version)
                other = self._load(kind, other_id, other_version)
                if other.merged_into == entity_id:
                    return MergeOutcome(CommandOutcome(entity, self._log.taken_position()), {})
                return self._merge(entity, other, choices)

        return retry_on_conflict(decide)

    def _merge(
        self, entity: MergeableEntity, other: MergeableEntity, choices: Mapping[str, Choice]
    ) -> MergeOutcome:
        now = self._clock()
        moving = self._on(other.id) if isinstance(other, Account) else []
        naming = self._naming(other)
        if len(moving) + len(naming) > MERGE_MOVED_MAX:
            raise TooMuchToMerge(other.id, len(moving) + len(naming), MERGE_MOVED_MAX)
        before = entity.values
        fields = self._without_leavers(before, merge_values(entity, other, choices), choices)
        moved = dict(sorted(Counter(each.KIND for each in [*moving, *naming]).items()))
        entity.merge(other, fields, at=max(now, entity.modified_on), moved=moved)
        require_members(self._log, before, entity.values)
        for each in moving:
            at = max(now, each.modified_on)
            each.begin_move(entity.id, at=at)
            each.complete_move(entity.id, at=at)
        for each in naming:
            renamed = dict.fromkeys(_names(each, other.id), str(entity.id))
            each.revise({**each.values, **renamed}, at=max(now, each.modified_on))
        # What hangs on the other goes before it does: no row is ever without its account.
        position = self._log.append(*moving, *naming, other, entity)
        return MergeOutcome(CommandOutcome(entity, position or self._log.taken_position()), moved)

    def _on(self, account_id: UUID) -> list[Entity]:
        """What hangs on the account and is there."""
        hanging = self._log.children_of([account_id])[account_id]
        return [each for each in hanging if not each.is_deleted]

    def _naming(self, other: Entity) -> list[Entity]:
        """What names the other one in its fields, of what hangs on the other's account."""
        if other.account_id is None:
            return []
        return [each for each in self._on(other.account_id) if _names(each, other.id)]

    def _without_leavers(
        self, before: FieldValues, after: FieldValues, choices: Mapping[str, Choice]
    ) -> FieldValues:
        """Without people who have left since the other one was assigned to them, and whom nobody
        asked for."""
        return {
            name: value
            for name, value in after.items()
            if name not in MEMBER_FIELDS
            or name in choices
            or name in before
            or is_member(self._log, UUID(value))
        }

    def _load(self, kind: type[E], entity_id: UUID, expected_version: int | None) -> E:
        entity = self._log.load(kind, entity_id)
        if expected_version is not None and entity.version != expected_version:
            raise StaleVersion(entity_id, expected_version, entity.version)
        return entity


def _names(entity: Entity, other_id: UUID) -> list[str]:
    """The fields in which the entity names the other one."""
    return [name for name in entity.REFERENCES if entity.values.get(name) == str(other_id)]


def atomic_scope(scope: Scope) -> Scope:
    """The scope of a command of which no part is undone without the rest."""
    return replace(scope, extra={**scope.extra, AS_ONE: "true"})
