"""Typed properties: each field has one, it agrees with the field model, and it never validates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from domain.lead import Lead
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.kinds import KINDS
from domain.shared.properties import FieldProperty
from tests.support.examples import EXAMPLES, WALK_IN, Example
from tests.support.spec import created, given

SAMPLES = Path(__file__).parents[2] / "samples"

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def full_values(kind: type[Entity]) -> FieldValues:
    """The values in the recorded sample of the kind's first event: nearly every field has one."""
    sample = orjson.loads((SAMPLES / f"{kind.Created.TOPIC}.json").read_bytes())
    values: FieldValues = sample["expected"]["data"]["fields"]
    return values


@every_kind
def test_each_field_has_a_property(kind: type[Entity]) -> None:
    properties = {
        name
        for each in kind.__mro__
        for name, value in vars(each).items()
        if isinstance(value, FieldProperty)
    }
    assert properties == set(kind.FIELDS.model_fields)


@every_kind
def test_a_property_has_the_value_and_the_type_of_the_field(kind: type[Entity]) -> None:
    values = full_values(kind)
    entity = given(kind, created(kind, values)).entity
    fields = kind.FIELDS.model_validate(values)
    for name in kind.FIELDS.model_fields:
        actual, expected = getattr(entity, name), getattr(fields, name)
        assert actual == expected, name
        assert isinstance(expected, type(actual)), name


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.kind.KIND)
def test_the_property_of_an_absent_optional_field_is_empty(example: Example) -> None:
    kind = example.kind
    entity = given(kind, created(kind, example.values)).entity
    absent = [
        name
        for name, field in kind.FIELDS.model_fields.items()
        if field.alias not in example.values
    ]
    assert {name: getattr(entity, name) or None for name in absent} == dict.fromkeys(absent)


@pytest.mark.parametrize(("field", "value"), [("status", "asleep"), ("phone", "?"), ("name", "")])
def test_a_value_that_is_no_longer_valid_can_be_read(field: str, value: str) -> None:
    lead = given(Lead, created(Lead, {**WALK_IN, field: value})).entity
    assert getattr(lead, field) == value


def test_a_property_is_read_only() -> None:
    lead: Any = given(Lead, created(Lead, WALK_IN)).entity
    with pytest.raises(AttributeError, match="phone is read-only"):
        lead.phone = "112"
    assert lead.values == WALK_IN
