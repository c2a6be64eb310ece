"""Merging: which fields two things have when they have become one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domain.shared.entity import Entity, flat
from domain.shared.fields import CUSTOM, FieldValues
from domain.shared.refusals import FieldError, InvalidFields

THIS = "this"
OTHER = "other"
VALUE = "value"

Choice = str | Mapping[str, Any]
"""`this`, `other`, or `{"value": …}`."""


def merged_values(this: Entity, other: Entity, choices: Mapping[str, Choice]) -> FieldValues:
    """What this one has, and what it lacks of the other, unless a choice says otherwise.

    Choices go by wire name: custom fields by `customFields.<key>`, or all at once. The result is
    still to be validated. Raises `InvalidFields` where a choice is not one.
    """
    _require_choices(type(this), choices)
    mine, theirs = flat(this.values), flat(other.values)
    merged = {**theirs, **mine}
    for name, choice in sorted(
        choices.items()
    ):  # all custom fields at once come before single ones
        if name == CUSTOM:
            merged = {field: value for field, value in merged.items() if not _is_custom(field)}
            merged |= _all_custom(choice, this, other)
        else:
            merged[name] = _chosen(name, choice, mine, theirs)
    return _nested({name: value for name, value in merged.items() if value is not None})


def _require_choices(kind: type[Entity], choices: Mapping[str, Choice]) -> None:
    names = kind.FIELDS.wire_names()
    errors = []
    for name, choice in choices.items():
        if name not in names and not _is_custom(name):
            errors.append(FieldError(f"fields.{name}", "extra_forbidden", "There is no such field"))
        elif choice not in (THIS, OTHER) and not _is_value(choice):
            message = f"must be {THIS}, {OTHER} or an object with a {VALUE}"
            errors.append(FieldError(f"fields.{name}", "literal_error", message))
    if errors:
        raise InvalidFields(errors)


def _is_custom(name: str) -> bool:
    return name.startswith(CUSTOM + ".") and len(name) > len(CUSTOM) + 1


def _is_value(choice: Choice) -> bool:
    return isinstance(choice, Mapping) and choice.keys() == {VALUE}


def _chosen(name: str, choice: Choice, mine: FieldValues, theirs: FieldValues) -> Any:
    if isinstance(choice, Mapping):
        return choice[VALUE]
    return (mine if choice == THIS else theirs).get(name)


def _all_custom(choice: Choice, this: Entity, other: Entity) -> FieldValues:
    chosen = _chosen(CUSTOM, choice, this.values, other.values)
    if not isinstance(chosen, Mapping | None):
        message = "must be an object"
        raise InvalidFields([FieldError(f"fields.{CUSTOM}", "dict_type", message)])
    return {f"{CUSTOM}.{key}": value for key, value in (chosen or {}).items()}


def _nested(fields: FieldValues) -> FieldValues:
    nested = {name: value for name, value in fields.items() if not _is_custom(name)}
    custom = {name[len(CUSTOM) + 1 :]: value for name, value in fields.items() if _is_custom(name)}
    return {**nested, CUSTOM: custom} if custom else nested
