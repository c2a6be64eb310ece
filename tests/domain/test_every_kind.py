"""The life that every kind of entity shares: created, changed, deleted, restored."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

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
    created,
    deleted,
    given,
    restored,
    updated,
    when_created,
)

every_kind = pytest.mark.parametrize("an", EXAMPLES, ids=lambda example: example.kind.KIND)
MORTAL = [example for example in EXAMPLES if example.kind is not ApiKey]
every_restorable_kind = pytest.mark.parametrize("an", MORTAL, ids=lambda example: example.kind.KIND)


def changed(example: Example) -> dict[str, Any]:
    return {**example.values, example.field: example.value}


def test_each_kind_has_an_example() -> None:
    assert {example.kind for example in EXAMPLES} == set(KINDS.values())


@every_kind
def test_creating_one_records_its_fields(an: Example) -> None:
    when_created(an.kind, an.values).then(created(an.kind, an.values))


@every_kind
def test_a_new_one_knows_its_workspace_its_account_and_when_it_came_to_be(an: Example) -> None:
    entity = when_created(an.kind, an.values).entity
    assert entity.id == ID
    assert entity.workspace_id == WORKSPACE
    assert entity.account_id == (ACCOUNT if an.kind.BELONGS_TO_ACCOUNT else None)
    assert (entity.created_on, entity.modified_on, entity.version) == (NOON, NOON, 1)


@every_kind
def test_what_hangs_on_an_account_cannot_be_created_without_one(an: Example) -> None:
    outcome = when_created(an.kind, an.values, account_id=None)
    if an.kind.ACCOUNT_REQUIRED:
        outcome.then(AccountUnavailable(UUID(int=0)))
    else:
        outcome.then(created(an.kind, an.values))


@every_kind
def test_a_change_records_before_and_after_of_what_changed_and_of_nothing_else(
    an: Example,
) -> None:
    given(an.kind, created(an.kind, an.values)).when(
        lambda entity: entity.revise(changed(an), at=NOON)
    ).then(updated(an.kind, **{an.field: (an.values[an.field], an.value)}))


@every_kind
def test_making_the_same_change_twice_records_it_once(an: Example) -> None:
    def twice(entity: Entity) -> None:
        entity.revise(changed(an), at=NOON)
        entity.revise(changed(an), at=NOON + MINUTE)

    given(an.kind, created(an.kind, an.values)).when(twice).then(
        updated(an.kind, **{an.field: (an.values[an.field], an.value)})
    )


@every_kind
def test_a_field_that_was_not_set_has_nothing_before(an: Example) -> None:
    given(an.kind, created(an.kind, an.values)).when(
        lambda entity: entity.revise({**entity.values, "assignedTo": ADA}, at=NOON)
    ).then(updated(an.kind, assignedTo=(None, ADA)))


@every_kind
def test_a_field_that_is_taken_away_has_nothing_after(an: Example) -> None:
    outcome = given(an.kind, created(an.kind, {**an.values, "assignedTo": ADA})).when(
        lambda entity: entity.revise({**entity.values, "assignedTo": None}, at=NOON)
    )
    outcome.then(updated(an.kind, assignedTo=(ADA, None)))
    assert "assignedTo" not in outcome.entity.values


@every_kind
def test_deleting_records_the_fields_that_it_had(an: Example) -> None:
    given(an.kind, created(an.kind, an.values)).when(lambda entity: entity.delete(at=NOON)).then(
        deleted(an.kind, an.values)
    )


@every_kind
def test_deleting_twice_records_it_once(an: Example) -> None:
    given(an.kind, created(an.kind, an.values), deleted(an.kind, an.values)).when(
        lambda entity: entity.delete(at=NOON)
    ).then_nothing()


@every_kind
def test_what_is_deleted_refuses_changes(an: Example) -> None:
    given(an.kind, created(an.kind, an.values), deleted(an.kind, an.values)).when(
        lambda entity: entity.revise(changed(an), at=NOON)
    ).then(IsDeleted(an.kind.KIND, ID))


@every_kind
def test_what_is_deleted_refuses_even_a_change_to_what_it_was(an: Example) -> None:
    given(an.kind, created(an.kind, an.values), deleted(an.kind, an.values)).when(
        lambda entity: entity.revise(an.values, at=NOON)
    ).then(IsDeleted(an.kind.KIND, ID))


@every_restorable_kind
def test_restoring_brings_back_the_fields_and_tells_when_it_was_created(an: Example) -> None:
    outcome = given(an.kind, created(an.kind, an.values), deleted(an.kind, an.values)).when(
        lambda entity: entity.restore(at=NOON)
    )
    outcome.then(restored(an.kind, an.values))
    assert outcome.entity.created_on == DAWN
    assert outcome.entity.modified_on == NOON
    assert not outcome.entity.is_deleted


@every_kind
def test_restoring_what_is_there_records_nothing(an: Example) -> None:
    given(an.kind, created(an.kind, an.values)).when(
        lambda entity: entity.restore(at=NOON)
    ).then_nothing()


@every_restorable_kind
def test_what_was_restored_can_be_changed_and_deleted_again(an: Example) -> None:
    def live_on(entity: Entity) -> None:
        entity.revise(changed(an), at=NOON)
        entity.delete(at=NOON)

    given(
        an.kind,
        created(an.kind, an.values),
        deleted(an.kind, an.values),
        restored(an.kind, an.values),
    ).when(live_on).then(
        updated(an.kind, **{an.field: (an.values[an.field], an.value)}),
        deleted(an.kind, changed(an)),
    )


@every_restorable_kind
def test_it_remembers_the_account_that_took_it_along_until_it_is_restored(an: Example) -> None:
    gone = given(
        an.kind, created(an.kind, an.values), deleted(an.kind, an.values, along_with=ACCOUNT)
    )
    assert gone.entity.deleted_with == ACCOUNT
    outcome = gone.when(lambda entity: entity.restore(at=NOON))
    assert outcome.entity.deleted_with is None


@every_kind
def test_nothing_can_have_occurred_before_what_is_already_recorded(an: Example) -> None:
    early = DAWN - MINUTE
    known = given(an.kind, created(an.kind, an.values))
    too_early = OccurredTooEarly(ID, early, DAWN)
    known.when(lambda entity: entity.revise(changed(an), at=early)).then(too_early)
    known.when(lambda entity: entity.delete(at=early)).then(too_early)


@every_kind
def test_things_may_occur_at_the_same_instant(an: Example) -> None:
    given(an.kind, created(an.kind, an.values)).when(lambda entity: entity.delete(at=DAWN)).then(
        deleted(an.kind, an.values)
    )


@every_kind
def test_every_fault_is_reported_at_once(an: Example) -> None:
    faults = {"assignedTo": "nobody", "customFields": {"a": [1], "b": None}, "colour": "red"}
    when_created(an.kind, {**an.values, **faults}).then_invalid(
        "assignedTo", "customFields.a", "customFields.b", "colour"
    )
    given(an.kind, created(an.kind, an.values)).when(
        lambda entity: entity.revise({**an.values, **faults}, at=NOON)
    ).then_invalid("assignedTo", "customFields.a", "customFields.b", "colour")


@every_kind
def test_a_rule_that_was_tightened_later_does_not_break_history(an: Example) -> None:
    unthinkable = {"colour": "red", an.field: "x" * 100_000, "customFields": {"": [None]}}
    entity = given(
        an.kind,
        created(an.kind, unthinkable),
        updated(an.kind, **{an.field: ("x" * 100_000, ""), "size": (None, {"a": 1})}),
        deleted(an.kind, unthinkable),
    ).entity
    assert entity.values == {**unthinkable, an.field: "", "size": {"a": 1}}
    assert (entity.version, entity.is_deleted) == (3, True)


@every_restorable_kind
def test_what_is_restored_is_what_the_event_says_and_not_what_is_allowed_today(
    an: Example,
) -> None:
    unthinkable = {"colour": "red"}
    history = [created(an.kind, an.values), deleted(an.kind, an.values)]
    assert given(an.kind, *history, restored(an.kind, unthinkable)).entity.values == unthinkable


@every_kind
def test_what_a_tightened_rule_refuses_can_still_be_deleted(an: Example) -> None:
    unthinkable = {"colour": "red"}
    given(an.kind, created(an.kind, unthinkable)).when(lambda entity: entity.delete(at=NOON)).then(
        deleted(an.kind, unthinkable)
    )


def test_custom_fields_change_one_by_one() -> None:
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


def test_the_last_custom_field_that_is_taken_away_leaves_no_empty_map() -> None:
    outcome = given(Account, created(Account, {**ACME, "customFields": {"sector": "food"}})).when(
        lambda account: account.revise({**ACME, "customFields": {}}, at=NOON)
    )
    outcome.then(updated(Account, customFields__sector=("food", None)))
    assert outcome.entity.values == ACME


def test_no_custom_fields_and_an_empty_map_are_the_same() -> None:
    given(Account, created(Account, ACME)).when(
        lambda account: account.revise({**ACME, "customFields": {}}, at=NOON)
    ).then_nothing()


@pytest.mark.parametrize(
    ("before", "after"), [(True, 1), (1, True), (False, 0), (1, 1.0), (1, "1"), ("", False)]
)
def test_custom_values_that_differ_in_json_differ(before: Any, after: Any) -> None:
    outcome = given(Account, created(Account, {**ACME, "customFields": {"x": before}})).when(
        lambda account: account.revise({**ACME, "customFields": {"x": after}}, at=NOON)
    )
    outcome.then(updated(Account, customFields__x=(before, after)))
    assert type(outcome.entity.values["customFields"]["x"]) is type(after)


def test_a_custom_field_may_be_called_like_any_other_field_and_contain_dots() -> None:
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
def test_a_custom_field_is_text_a_number_or_a_boolean(value: object) -> None:
    when_created(Account, {**ACME, "customFields": {"x": value}}).then_invalid("customFields.x")


def test_custom_fields_are_bounded() -> None:
    many = {f"field {number}": number for number in range(CUSTOM_FIELDS_MAX + 1)}
    when_created(Account, {**ACME, "customFields": many}).then_invalid("customFields")
