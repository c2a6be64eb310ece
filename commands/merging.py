"""Merge two accounts or two contacts: one remains and takes over the children of the other.

See docs/adr/0013-merge.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from commands.decisions import CommandOutcome, retry_on_conflict
from commands.links import MEMBER_FIELDS, is_member, require_members
from commands.loaded import LoadedEntities, event_time
from domain.account import Account
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.merging import Choice, MergeableEntity, merge_values
from domain.shared.refusals import MergeRefused, TooMuchToMerge
from eventlog.scope import AS_ONE, Scope
from eventlog.store.log import EventLog

MERGE_MOVED_MAX = 2_000
"""Maximum number of entities that a merge moves or changes. Each gets one or two events, and all of
them are recorded in one transaction."""


@dataclass(frozen=True)
class MergeOutcome:
    """The entity that remains, and the number of entities that moved to it, by kind."""

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
        """Merge the other entity into this one; `choices` decides between differing values.

        Records nothing if that was done before. Raises `NotFound`,
        `IsDeleted`, `WasMerged`, `MergeRefused`, `TooMuchToMerge`, `StaleVersion`, `InvalidFields`,
        `TransitionRefused`, `NotAMember`.
        """
        if entity_id == other_id:
            raise MergeRefused(kind.KIND, entity_id, other_id, "it is the same one")

        def decide() -> MergeOutcome:
            with self._log.transaction(atomic_scope(scope)):
                loaded = LoadedEntities(self._log)
                if kind is Account:
                    loaded.lock_accounts(exclusive=(entity_id, other_id))
                loaded.load((entity_id, other_id))
                entity = loaded.get(kind, entity_id, expected_version)
                other = loaded.get(kind, other_id, other_version)
                if other.merged_into == entity_id:
                    return MergeOutcome(CommandOutcome(entity, loaded.append()), {})
                return _merge(loaded, entity, other, choices, self._clock())

        return retry_on_conflict(decide)


def _merge(
    loaded: LoadedEntities,
    entity: MergeableEntity,
    other: MergeableEntity,
    choices: Mapping[str, Choice],
    now: datetime,
) -> MergeOutcome:
    moving = _children(loaded, other.id) if isinstance(other, Account) else []
    referring = _entities_referring_to(loaded, other)
    if len(moving) + len(referring) > MERGE_MOVED_MAX:
        raise TooMuchToMerge(other.id, len(moving) + len(referring), MERGE_MOVED_MAX)
    before = entity.values
    merged = merge_values(entity, other, choices)
    fields = _without_former_members(loaded, before, merged, choices)
    moved = dict(sorted(Counter(each.KIND for each in [*moving, *referring]).items()))
    entity.merge(other, fields, at=event_time(entity, now), moved=moved)
    require_members(loaded, before, entity.values)
    for each in moving:
        at = event_time(each, now)
        each.begin_move(entity.id, at=at)
        each.complete_move(entity.id, at=at)
    for each in referring:
        redirected = dict.fromkeys(_fields_referring_to(each, other.id), str(entity.id))
        each.revise({**each.values, **redirected}, at=event_time(each, now))
    # Children before their former account, so that no row ever lacks its account.
    loaded.stage(*moving, *referring, other, entity)
    return MergeOutcome(CommandOutcome(entity, loaded.append()), moved)


def _children(loaded: LoadedEntities, account_id: UUID) -> list[Entity]:
    return [each for each in loaded.children_of(account_id) if not each.is_deleted]


def _entities_referring_to(loaded: LoadedEntities, other: Entity) -> list[Entity]:
    """The entities of the same account with a field that refers to the other entity."""
    if other.account_id is None:
        return []
    children = _children(loaded, other.account_id)
    return [each for each in children if _fields_referring_to(each, other.id)]


def _without_former_members(
    loaded: LoadedEntities,
    before: FieldValues,
    after: FieldValues,
    choices: Mapping[str, Choice],
) -> FieldValues:
    """Leave out members who left the workspace, unless the caller chose them or they were set."""
    return {
        name: value
        for name, value in after.items()
        if name not in MEMBER_FIELDS
        or name in choices
        or name in before
        or is_member(loaded, UUID(value))
    }


def _fields_referring_to(entity: Entity, other_id: UUID) -> list[str]:
    return [name for name in entity.REFERENCES if entity.values.get(name) == str(other_id)]


def atomic_scope(scope: Scope) -> Scope:
    """The scope of a command that can be undone only as a whole."""
    return replace(scope, extra={**scope.extra, AS_ONE: "true"})
