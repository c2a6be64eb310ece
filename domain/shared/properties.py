"""Typed, read-only attributes of an entity, each over one of its values.

They convert recorded values and do not validate them: a value that is no longer valid can still be
read. A status is therefore a `str`, which compares equal to a member of the kind's `StrEnum`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar, overload

from pydantic.alias_generators import to_camel

from domain.shared.fields import FieldValues

T = TypeVar("T")


class HasValues(Protocol):
    """The part of an entity that its properties read."""

    values: FieldValues


class FieldProperty(Generic[T]):
    """A field of an entity; the wire name is the attribute's name in camel case."""

    def __init__(self, read: Callable[[FieldValues, str], T]) -> None:
        self._read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self._wire_name = to_camel(name)

    @overload
    def __get__(self, entity: None, owner: type) -> Self: ...
    @overload
    def __get__(self, entity: HasValues, owner: type) -> T: ...
    def __get__(self, entity: HasValues | None, owner: type) -> Self | T:
        return self if entity is None else self._read(entity.values, self._wire_name)

    def __set__(self, entity: HasValues, value: NoReturn) -> NoReturn:
        raise AttributeError(f"{self._wire_name} is read-only; events change it")


def required(convert: Callable[[Any], T]) -> FieldProperty[T]:
    """A field that has a value in every entity of the kind."""
    return FieldProperty(lambda values, name: convert(values[name]))


@overload
def optional(convert: Callable[[Any], T]) -> FieldProperty[T | None]: ...
@overload
def optional(convert: Callable[[Any], T], default: T) -> FieldProperty[T]: ...
def optional(convert: Callable[[Any], T], default: T | None = None) -> FieldProperty[Any]:
    """A field that may have no value; then the property is `default`."""
    return FieldProperty(lambda values, name: convert(values[name]) if name in values else default)
