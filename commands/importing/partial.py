"""Some fields of a kind, checked and in canonical form each by itself, required ones left out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from domain.shared.entity import Entity
from domain.shared.fields import FieldValues


def canonical(kind: type[Entity], fields: Mapping[str, Any]) -> FieldValues:
    """These fields as they would be recorded. They have been found valid before."""
    adapters = _adapters(kind)
    return {
        name: adapters[name].dump_python(adapters[name].validate_python(value), mode="json")
        for name, value in fields.items()
    }


@cache
def _adapters(kind: type[Entity]) -> Mapping[str, TypeAdapter[Any]]:
    return {str(info.alias): _adapter(info) for info in kind.FIELDS.model_fields.values()}


def _adapter(info: FieldInfo) -> TypeAdapter[Any]:
    annotated: Any = Annotated
    type_: Any = info.annotation
    return TypeAdapter(annotated[(type_, *info.metadata)] if info.metadata else type_)
