"""Merging and moving: the values of the result, and the events of both entities."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from domain.account import Account
from domain.contact import Contact
from domain.note import Note
from domain.shared.fields import FieldValues
from domain.shared.merging import merge_values
from domain.shared.refusals import InvalidFields, IsDeleted, MergeRefused, WasMerged
from tests.support.examples import ACME
from tests.support.spec import (
    ACCOUNT,
    ID,
    NOON,
    WORKSPACE,
    created,
    deleted,
    given,
    occurred,
    status_changed,
)

OTHER = UUID(int=77)
MINE: FieldValues = {"name": "Ada", "title": "CFO", "customFields": {"a": 1, "b": 2}}
THEIRS: FieldValues = {"name": "A.", "email": "ada@example.com", "customFields": {"b": 3, "c": 4}}


def contact(values: FieldValues, entity_id: UUID = ID) -> Contact:
    return Contact.create(entity_id, WORKSPACE, values, at=NOON, account_id=ACCOUNT)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, {"name": "Ada", "title": "CFO", "email": "ada@example.com",
              "customFields": {"a": 1, "b": 2, "c": 4}}),
        ({"name": "other", "title": "other", "email": "this"},
         {"name": "A.", "customFields": {"a": 1, "b": 2, "c": 4}}),
        ({"customFields": "this"}, {**MINE, "email": "ada@example.com"}),
        ({"customFields": "other", "customFields.a": "this"},
         {"name": "Ada", "title": "CFO", "email": "ada@example.com",
          "customFields": {"a": 1, "b": 3, "c": 4}}),
        ({"name": {"value": "other"}, "customFields": {"value": {}}, "title": {"value": None}},
         {"name": "other", "email": "ada@example.com"}),
    ],
)  # fmt: skip
def test_missing_values_come_from_the_other_entity_unless_chosen(
    choices: dict[str, Any], expected: FieldValues
) -> None:
    assert merge_values(contact(MINE), contact(THEIRS, OTHER), choices) == expected


@pytest.mark.parametrize(
    "choices",
    [
        {"colour": "this"},
        {"customFields.": "this"},
        {"name": "mine"},
        {"name": {"values": "x"}},
        {"name": {"value": "x", "more": 1}},
        {"customFields": {"value": [1]}},
    ],
)
def test_an_invalid_choice_is_refused(choices: dict[str, Any]) -> None:
    with pytest.raises(InvalidFields):
        merge_values(contact(MINE), contact(THEIRS, OTHER), choices)


def test_a_merge_records_an_event_for_each_entity() -> None:
    other = contact(THEIRS, OTHER)
    given(Contact, created(Contact, MINE)).when(
        lambda one: one.merge(other, {**MINE, "title": "CEO"}, at=NOON, moved={})
    ).then(
        occurred(
            Contact.Merged,
            changes={"title": {"before": "CFO", "after": "CEO"}},
            other=OTHER,
            moved={},
        )
    )
    assert (other.is_deleted, other.merged_into) == (True, ID)


def test_a_merge_records_a_change_of_status_as_an_event() -> None:
    other = Account.create(OTHER, WORKSPACE, {**ACME, "status": "active"}, at=NOON)
    given(Account, created(Account, ACME)).when(
        lambda one: one.merge(other, {**ACME, "status": "active"}, at=NOON, moved={"note": 1})
    ).then(
        occurred(Account.Merged, changes={}, other=OTHER, moved={"note": 1}),
        status_changed(Account, "prospect", "active"),
    )


def test_a_deleted_entity_is_not_merged() -> None:
    gone, merged = contact(THEIRS, OTHER), contact(THEIRS, OTHER)
    gone.delete(at=NOON)
    merged.delete(at=NOON, merged_into=ACCOUNT)
    alone = given(Contact, created(Contact, MINE))
    alone.when(lambda one: one.merge(gone, MINE, at=NOON, moved={})).then(
        IsDeleted("contact", OTHER)
    )
    alone.when(lambda one: one.merge(merged, MINE, at=NOON, moved={})).then(
        WasMerged("contact", OTHER, ACCOUNT)
    )
    given(Contact, created(Contact, MINE), deleted(Contact, MINE)).when(
        lambda one: one.merge(contact(THEIRS, OTHER), MINE, at=NOON, moved={})
    ).then(IsDeleted("contact", ID))


def test_a_merged_entity_cannot_be_restored() -> None:
    merged = occurred(Contact.Deleted, fields=MINE, deleted_with=None, merged_into=OTHER)
    given(Contact, created(Contact, MINE), merged).when(lambda one: one.restore(at=NOON)).then(
        WasMerged("contact", ID, OTHER)
    )


def test_an_account_is_not_merged_with_itself_or_with_another_type() -> None:
    fund = Account.create(OTHER, WORKSPACE, {"company": "Fund", "type": "investor"}, at=NOON)
    for other in (fund, Account.create(ID, WORKSPACE, ACME, at=NOON)):
        account = Account.create(ID, WORKSPACE, ACME, at=NOON)
        with pytest.raises(MergeRefused):
            account.merge(other, ACME, at=NOON, moved={})


def test_a_moved_entity_keeps_its_values() -> None:
    note = Note.create(ID, WORKSPACE, {"body": "x"}, at=NOON, account_id=ACCOUNT)
    note.begin_move(OTHER, at=NOON)
    assert (note.is_deleted, note.account_id) == (True, ACCOUNT)
    note.complete_move(OTHER, at=NOON)
    assert (note.is_deleted, note.account_id, note.values) == (False, OTHER, {"body": "x"})
    events: list[Any] = list(note.collect_events())
    _, deletion, restoration = events
    assert (deletion.account_id, deletion.moved_to) == (ACCOUNT, OTHER)
    assert (restoration.account_id, restoration.moved_from) == (OTHER, ACCOUNT)
    note.complete_move(ACCOUNT, at=NOON)
    assert not note.pending_events
