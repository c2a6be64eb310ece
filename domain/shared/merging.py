"""Merging two entities of a kind: the decision, its event, and the values of the result."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Self
from uuid import UUID

from domain.shared.changes import find_changes, flatten, is_custom, unflatten
from domain.shared.entity import Entity, EntityUpdated
from domain.shared.fields import CUSTOM, FieldValues
from domain.shared.refusals import FieldError, InvalidFields, MergeRefused

THIS = "this"
OTHER = "other"
VALUE = "value"

Choice = str | Mapping[str, Any]
"""`this`, `other`, or `{"value": …}`."""


class EntityMerged(EntityUpdated):
    """Another entity was merged into this one: its id, and the number of moved entities by kind.

    The changes are those of this entity's values. The other one's deletion names this one.
    """

    ACTION = "merge"

    other: UUID
    moved: dict[str, int]


class MergeableEntity(Entity):
    """Base of the kinds of which two entities can be merged."""

    Merged: ClassVar[type[EntityMerged]]

    def merge(
        self, other: Self, fields: Mapping[str, Any], *, at: datetime, moved: dict[str, int]
    ) -> None:
        """Merge the other entity into this one, which gets these fields; the other is deleted.

        `moved` is the number of entities, by kind, that move from the other to this one. Raises
        `IsDeleted`, `WasMerged`, `MergeRefused`, `InvalidFields`, `TransitionRefused`,
        `OccurredTooEarly`.
        """
        self.require_not_deleted()
        other.require_not_deleted()
        self._require_mergeable(other)
        changes = find_changes(self.values, self.FIELDS.validated(fields))
        self._require_allowed_status(changes)
        status = self._pop_status(changes)
        other.delete(at=max(at, other.modified_on), merged_into=self.id)
        self._record(self.Merged, at, changes=changes, other=other.id, moved=moved)
        if status:
            self._record_status_changed(status, at)

    def _require_mergeable(self, other: Self) -> None:
        if other.id == self.id:
            raise MergeRefused(self.KIND, self.id, other.id, "it is the same one")


def merge_values(this: Entity, other: Entity, choices: Mapping[str, Choice]) -> FieldValues:
    """The values of the merged entity, not validated yet.

    Without a choice, a field has the value of this entity, or of the other one if this one has
    none. A choice is for a wire name, for `customFields.<key>`, or for `customFields`, which means
    all custom fields. Raises `InvalidFields` for a malformed choice or an unknown field.
    """
    _require_choices(type(this), choices)
    mine, theirs = flatten(this.values), flatten(other.values)
    merged = {**theirs, **mine}
    # Sorted, the choice for all custom fields comes before those for single ones.
    for name, choice in sorted(choices.items()):
        if name == CUSTOM:
            merged = {field: value for field, value in merged.items() if not is_custom(field)}
            merged |= _all_custom(choice, this, other)
        else:
            merged[name] = _chosen(name, choice, mine, theirs)
    return unflatten({name: value for name, value in merged.items() if value is not None})


def _require_choices(kind: type[Entity], choices: Mapping[str, Choice]) -> None:
    names = kind.FIELDS.wire_names()
    errors = []
    for name, choice in choices.items():
        if name not in names and not (is_custom(name) and name != f"{CUSTOM}."):
            errors.append(FieldError(f"fields.{name}", "extra_forbidden", "There is no such field"))
        elif choice not in (THIS, OTHER) and not _is_value(choice):
            message = f"must be {THIS}, {OTHER} or an object with a {VALUE}"
            errors.append(FieldError(f"fields.{name}", "literal_error", message))
    if errors:
        raise InvalidFields(errors)


def _is_value(choice: Choice) -> bool:
    return isinstance(choice, Mapping) and choice.keys() == {VALUE}


def _chosen(name: str, choice: Choice, mine: FieldValues, theirs: FieldValues) -> Any:
    if isinstance(choice, Mapping):
        return choice[VALUE]
    return (mine if choice == THIS else theirs).get(name)


def _all_custom(choice: Choice, this: Entity, other: Entity) -> FieldValues:
    chosen = _chosen(CUSTOM, choice, this.values, other.values)
    if not isinstance(chosen, Mapping | None):
        raise InvalidFields([FieldError(f"fields.{CUSTOM}", "dict_type", "must be an object")])
    return flatten({CUSTOM: chosen or {}})
