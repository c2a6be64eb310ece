"""Changes of an entity's values: find them, apply them, and compare values as JSON does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domain.shared.fields import CUSTOM, FieldValues

FieldChange = dict[str, Any]
"""`{"before": …, "after": …}`; a side without a value is null."""

_CUSTOM_PREFIX = CUSTOM + "."


def find_changes(before: FieldValues, after: FieldValues) -> dict[str, FieldChange]:
    """Before and after of every field that differs; custom fields as `customFields.<key>`."""
    old, new = flatten(before), flatten(after)
    names = [*old, *(name for name in new if name not in old)]
    return {
        name: {"before": old.get(name), "after": new.get(name)}
        for name in names
        if not equal_as_json(old.get(name), new.get(name))
    }


def apply_changes(values: FieldValues, changes: Mapping[str, FieldChange]) -> FieldValues:
    """The values with the after side of each change; a null after removes the field."""
    result = {**values}
    custom = {**values.get(CUSTOM, {})}
    for name, change in changes.items():
        target, key = result, name
        if is_custom(name):
            target, key = custom, name.removeprefix(_CUSTOM_PREFIX)
        if change["after"] is None:
            target.pop(key, None)
        else:
            target[key] = change["after"]
    result.pop(CUSTOM, None)
    return {**result, CUSTOM: custom} if custom else result


def flatten(values: FieldValues) -> FieldValues:
    """The values with each custom field at the top level, as `customFields.<key>`."""
    result = {name: value for name, value in values.items() if name != CUSTOM}
    result.update((_CUSTOM_PREFIX + key, value) for key, value in values.get(CUSTOM, {}).items())
    return result


def unflatten(values: FieldValues) -> FieldValues:
    """The inverse of `flatten`. Without custom fields, there is no `customFields` either."""
    result = {name: value for name, value in values.items() if not is_custom(name)}
    custom = {
        name.removeprefix(_CUSTOM_PREFIX): value
        for name, value in values.items()
        if is_custom(name)
    }
    return {**result, CUSTOM: custom} if custom else result


def is_custom(name: str) -> bool:
    """Whether this name in flattened values stands for a custom field."""
    return name.startswith(_CUSTOM_PREFIX)


def equal_as_json(one: Any, other: Any) -> bool:
    """Whether two values are equal in JSON. In Python `True == 1`; in JSON they differ."""
    return type(one) is type(other) and one == other
