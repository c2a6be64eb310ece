"""The lifecycle of every kind of entity: created, revised, deleted, restored."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from eventsourcing.domain import AggregateCreated

from domain.account import Account
from domain.api_key import ApiKey
from domain.shared.entity import Entity
from domain.shared.fields import CUSTOM_FIELDS_MAX
from domain.shared.kinds import KINDS
from domain.shared.refusals import AccountUnavailable, IsDeleted, OccurredTooEarly
from tests.support.examples import ACME, EXAMPLES, Example
from tests.support.spec import (
    ACCOUNT,
    ADA,
    DAWN,
    ID,
    MINUTE,
    NOON,
    WORKSPACE,
    EventData,
    Given,
    created,
    deleted,
    given,
    restored,
    updated,
    when_created,
)

every_kind = pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.kind.KIND)
RESTORABLE = [example for example in EXAMPLES if example.kind is not ApiKey]
every_restorable_kind = pytest.mark.parametrize(
    "example", RESTORABLE, ids=lambda each: each.kind.KIND
)


def given_created(example: Example) -> Given[Any]:
    return given(example.kind, created(example.kind, example.values))


def given_deleted(example: Example) -> Given[Any]:
    kind, values = example.kind, example.values
    return given(kind, created(kind, values), deleted(kind, values))


def changed(example: Example) -> dict[str, Any]:
    return {**example.values, example.field: example.value}


def change_of(example: Example) -> EventData:
    return updated(example.kind, **{example.field: (example.values[example.field], example.value)})


def test_each_kind_has_an_example() -> None:
    assert {example.kind for example in EXAMPLES} == set(KINDS.values())


@every_kind
def test_new_entity_equals_what_the_library_makes_of_its_event(example: Example) -> None:
    account_id = ACCOUNT if example.kind.BELONGS_TO_ACCOUNT else None
    entity = example.kind.create(ID, WORKSPACE, example.values, at=NOON, account_id=account_id)
    event: Any = entity.pending_events[0]
    made: Any = event.mutate(None)
    expected: Any = AggregateCreated.mutate(event, None)
    assert type(made) is type(expected) is example.kind
    assert vars(made) == vars(expected)


@every_kind
@pytest.mark.parametrize("value", ["7", 7, 7.5, True, 2**53, ""])
def test_custom_values_keep_their_type(value: object, example: Example) -> None:
    fields = example.kind.FIELDS.validated({**example.values, "customFields": {"own": value}})
    kept = fields["customFields"]["own"]
    assert (type(kept), kept) == (type(value), value)


@every_kind
def test_a_creation_records_the_fields(example: Example) -> None:
    when_created(example.kind, example.values).then(created(example.kind, example.values))


@every_kind
def test_a_new_entity_has_a_workspace_an_account_and_a_date_of_creation(example: Example) -> None:
    entity = when_created(example.kind, example.values).entity
    assert entity.id == ID
    assert entity.workspace_id == WORKSPACE
    assert entity.account_id == (ACCOUNT if example.kind.BELONGS_TO_ACCOUNT else None)
    assert (entity.created_on, entity.modified_on, entity.version) == (NOON, NOON, 1)


@every_kind
def test_a_kind_that_requires_an_account_cannot_be_created_without_one(example: Example) -> None:
    outcome = when_created(example.kind, example.values, account_id=None)
    if example.kind.ACCOUNT_REQUIRED:
        outcome.then(AccountUnavailable(UUID(int=0)))
    else:
        outcome.then(created(example.kind, example.values))


@every_kind
def test_a_revision_records_before_and_after_of_the_changed_fields_only(example: Example) -> None:
    given_created(example).when(lambda entity: entity.revise(changed(example), at=NOON)).then(
        change_of(example)
    )


@every_kind
def test_the_same_revision_twice_is_recorded_once(example: Example) -> None:
    def twice(entity: Entity) -> None:
        entity.revise(changed(example), at=NOON)
        entity.revise(changed(example), at=NOON + MINUTE)

    given_created(example).when(twice).then(change_of(example))


@every_kind
def test_a_new_value_is_recorded_without_a_value_before(example: Example) -> None:
    given_created(example).when(
        lambda entity: entity.revise({**entity.values, "assignedTo": ADA}, at=NOON)
    ).then(updated(example.kind, assignedTo=(None, ADA)))


@every_kind
def test_a_removed_value_is_recorded_without_a_value_after(example: Example) -> None:
    outcome = given(
        example.kind, created(example.kind, {**example.values, "assignedTo": ADA})
    ).when(lambda entity: entity.revise({**entity.values, "assignedTo": None}, at=NOON))
    outcome.then(updated(example.kind, assignedTo=(ADA, None)))
    assert "assignedTo" not in outcome.entity.values


@every_kind
def test_a_deletion_records_the_fields(example: Example) -> None:
    given_created(example).when(lambda entity: entity.delete(at=NOON)).then(
        deleted(example.kind, example.values)
    )


@every_kind
def test_a_second_deletion_records_nothing(example: Example) -> None:
    given_deleted(example).when(lambda entity: entity.delete(at=NOON)).then_nothing()


@every_kind
def test_a_deleted_entity_refuses_changes(example: Example) -> None:
    given_deleted(example).when(lambda entity: entity.revise(changed(example), at=NOON)).then(
        IsDeleted(example.kind.KIND, ID)
    )


@every_kind
def test_a_deleted_entity_refuses_a_revision_that_changes_nothing(example: Example) -> None:
    given_deleted(example).when(lambda entity: entity.revise(example.values, at=NOON)).then(
        IsDeleted(example.kind.KIND, ID)
    )


@every_restorable_kind
def test_a_restoration_records_the_fields_and_the_date_of_creation(example: Example) -> None:
    outcome = given_deleted(example).when(lambda entity: entity.restore(at=NOON))
    outcome.then(restored(example.kind, example.values))
    assert outcome.entity.created_on == DAWN
    assert outcome.entity.modified_on == NOON
    assert not outcome.entity.is_deleted


@every_kind
def test_restoring_an_entity_that_is_not_deleted_records_nothing(example: Example) -> None:
    given_created(example).when(lambda entity: entity.restore(at=NOON)).then_nothing()


@every_restorable_kind
def test_a_restored_entity_can_be_revised_and_deleted_again(example: Example) -> None:
    def revise_and_delete(entity: Entity) -> None:
        entity.revise(changed(example), at=NOON)
        entity.delete(at=NOON)

    given(
        example.kind,
        created(example.kind, example.values),
        deleted(example.kind, example.values),
        restored(example.kind, example.values),
    ).when(revise_and_delete).then(
        change_of(example),
        deleted(example.kind, changed(example)),
    )


@every_restorable_kind
def test_a_restored_entity_forgets_the_account_it_was_deleted_with(example: Example) -> None:
    child = given(
        example.kind,
        created(example.kind, example.values),
        deleted(example.kind, example.values, along_with=ACCOUNT),
    )
    assert child.entity.deleted_with == ACCOUNT
    outcome = child.when(lambda entity: entity.restore(at=NOON))
    assert outcome.entity.deleted_with is None


@every_kind
def test_a_decision_before_the_last_event_is_refused(example: Example) -> None:
    early = DAWN - MINUTE
    entity = given_created(example)
    too_early = OccurredTooEarly(ID, early, DAWN)
    entity.when(lambda entity: entity.revise(changed(example), at=early)).then(too_early)
    entity.when(lambda entity: entity.delete(at=early)).then(too_early)


@every_kind
def test_two_events_may_occur_at_the_same_instant(example: Example) -> None:
    given_created(example).when(lambda entity: entity.delete(at=DAWN)).then(
        deleted(example.kind, example.values)
    )


@every_kind
def test_all_faults_are_reported_together(example: Example) -> None:
    faults = {"assignedTo": "someone", "customFields": {"a": [1], "b": None}, "colour": "red"}
    when_created(example.kind, {**example.values, **faults}).then_invalid(
        "assignedTo", "customFields.a", "customFields.b", "colour"
    )
    given_created(example).when(
        lambda entity: entity.revise({**example.values, **faults}, at=NOON)
    ).then_invalid("assignedTo", "customFields.a", "customFields.b", "colour")


@every_kind
def test_history_that_is_no_longer_valid_can_be_read(example: Example) -> None:
    invalid = {"colour": "red", example.field: "x" * 100_000, "customFields": {"": [None]}}
    entity = given(
        example.kind,
        created(example.kind, invalid),
        updated(example.kind, **{example.field: ("x" * 100_000, ""), "size": (None, {"a": 1})}),
        deleted(example.kind, invalid),
    ).entity
    assert entity.values == {**invalid, example.field: "", "size": {"a": 1}}
    assert (entity.version, entity.is_deleted) == (3, True)


@every_restorable_kind
def test_restored_values_are_not_validated(example: Example) -> None:
    invalid = {"colour": "red"}
    history = [created(example.kind, example.values), deleted(example.kind, example.values)]
    assert given(example.kind, *history, restored(example.kind, invalid)).entity.values == invalid


@every_kind
def test_an_entity_that_is_no_longer_valid_can_be_deleted(example: Example) -> None:
    invalid = {"colour": "red"}
    given(example.kind, created(example.kind, invalid)).when(
        lambda entity: entity.delete(at=NOON)
    ).then(deleted(example.kind, invalid))


def test_custom_fields_are_recorded_one_by_one() -> None:
    before = {**ACME, "customFields": {"sector": "food", "seats": 5, "vip": True}}
    after = {**ACME, "customFields": {"sector": "food", "seats": 6, "size": "L"}}
    given(Account, created(Account, before)).when(
        lambda account: account.revise(after, at=NOON)
    ).then(
        updated(
            Account,
            customFields__seats=(5, 6),
            customFields__vip=(True, None),
            customFields__size=(None, "L"),
        )
    )


def test_no_empty_map_is_left_by_the_removal_of_the_last_custom_field() -> None:
    outcome = given(Account, created(Account, {**ACME, "customFields": {"sector": "food"}})).when(
        lambda account: account.revise({**ACME, "customFields": {}}, at=NOON)
    )
    outcome.then(updated(Account, customFields__sector=("food", None)))
    assert outcome.entity.values == ACME


def test_an_empty_map_of_custom_fields_is_no_change() -> None:
    given(Account, created(Account, ACME)).when(
        lambda account: account.revise({**ACME, "customFields": {}}, at=NOON)
    ).then_nothing()


@pytest.mark.parametrize(
    ("before", "after"), [(True, 1), (1, True), (False, 0), (1, 1.0), (1, "1"), ("", False)]
)
def test_custom_values_are_compared_as_json(before: Any, after: Any) -> None:
    outcome = given(Account, created(Account, {**ACME, "customFields": {"x": before}})).when(
        lambda account: account.revise({**ACME, "customFields": {"x": after}}, at=NOON)
    )
    outcome.then(updated(Account, customFields__x=(before, after)))
    assert type(outcome.entity.values["customFields"]["x"]) is type(after)


def test_a_custom_field_may_have_the_name_of_another_field_and_contain_dots() -> None:
    custom = {"company": "another", "a.b": 1, "customFields": "deep"}
    outcome = given(Account, created(Account, ACME)).when(
        lambda account: account.revise({**ACME, "customFields": custom}, at=NOON)
    )
    assert outcome.entity.values == {**ACME, "customFields": custom}
    outcome.then(
        updated(
            Account,
            **{
                "customFields.company": (None, "another"),
                "customFields.a.b": (None, 1),
                "customFields.customFields": (None, "deep"),
            },
        )
    )


@pytest.mark.parametrize("value", [None, [], {}, float("nan"), float("inf"), 2**53 + 1, "\0"])
def test_other_custom_values_than_text_numbers_and_booleans_are_refused(value: object) -> None:
    when_created(Account, {**ACME, "customFields": {"x": value}}).then_invalid("customFields.x")


def test_the_number_of_custom_fields_is_limited() -> None:
    many = {f"field {number}": number for number in range(CUSTOM_FIELDS_MAX + 1)}
    when_created(Account, {**ACME, "customFields": many}).then_invalid("customFields")
