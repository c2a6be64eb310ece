"""Merging: which fields come of two, and what each of them records."""

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
from tests.support.spec import ACCOUNT, ID, NOON, WORKSPACE, created, deleted, fact, given, moved

OTHER = UUID(int=77)
MINE: FieldValues = {"name": "Ada", "title": "CFO", "customFields": {"a": 1, "b": 2}}
THEIRS: FieldValues = {"name": "A.", "email": "ada@example.com", "customFields": {"b": 3, "c": 4}}


def contact(facts: FieldValues, entity_id: UUID = ID) -> Contact:
    return Contact.create(entity_id, WORKSPACE, facts, at=NOON, account_id=ACCOUNT)


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
def test_what_one_lacks_is_the_others_unless_chosen(
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
def test_a_choice_that_is_none(choices: dict[str, Any]) -> None:
    with pytest.raises(InvalidFields):
        merge_values(contact(MINE), contact(THEIRS, OTHER), choices)


def test_both_say_what_became_of_them() -> None:
    other = contact(THEIRS, OTHER)
    given(Contact, created(Contact, MINE)).when(
        lambda one: one.merge(other, {**MINE, "title": "CEO"}, at=NOON, moved={})
    ).then(
        fact(
            Contact.Merged,
            changes={"title": {"before": "CFO", "after": "CEO"}},
            other=OTHER,
            moved={},
        )
    )
    assert (other.is_deleted, other.merged_into) == (True, ID)


def test_a_status_is_told_apart() -> None:
    other = Account.create(OTHER, WORKSPACE, {**ACME, "status": "active"}, at=NOON)
    given(Account, created(Account, ACME)).when(
        lambda one: one.merge(other, {**ACME, "status": "active"}, at=NOON, moved={"note": 1})
    ).then(
        fact(Account.Merged, changes={}, other=OTHER, moved={"note": 1}),
        moved(Account, "prospect", "active"),
    )


def test_what_is_gone_is_not_merged() -> None:
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


def test_a_merged_one_is_not_restored() -> None:
    fields = fact(Contact.Deleted, fields=MINE, deleted_with=None, merged_into=OTHER)
    given(Contact, created(Contact, MINE), fields).when(lambda one: one.restore(at=NOON)).then(
        WasMerged("contact", ID, OTHER)
    )


def test_nothing_is_merged_with_itself_or_with_another_type() -> None:
    fund = Account.create(OTHER, WORKSPACE, {"company": "Fund", "type": "investor"}, at=NOON)
    for other in (fund, Account.create(ID, WORKSPACE, ACME, at=NOON)):
        account = Account.create(ID, WORKSPACE, ACME, at=NOON)
        with pytest.raises(MergeRefused):
            account.merge(other, ACME, at=NOON, moved={})


def test_what_leaves_arrives_as_it_was() -> None:
    note = Note.create(ID, WORKSPACE, {"body": "x"}, at=NOON, account_id=ACCOUNT)
    note.begin_move(OTHER, at=NOON)
    assert (note.is_deleted, note.account_id) == (True, ACCOUNT)
    note.complete_move(OTHER, at=NOON)
    assert (note.is_deleted, note.account_id, note.values) == (False, OTHER, {"body": "x"})
    _, gone, come = note.collect_events()
    assert (gone.account_id, gone.moved_to) == (ACCOUNT, OTHER)  # type: ignore[attr-defined]
    assert (come.account_id, come.moved_from) == (OTHER, ACCOUNT)  # type: ignore[attr-defined]
    note.complete_move(ACCOUNT, at=NOON)
    assert not note.pending_events
