"""Lead: forward until it is won or lost; won is final, a lost one can be reopened."""

from __future__ import annotations

from typing import Any

import pytest

from domain.lead import Lead
from domain.shared.refusals import AlreadyConverted, IsDeleted, StatusUnchanged, TransitionRefused
from tests.support.examples import WALK_IN
from tests.support.spec import (
    ACCOUNT,
    DAWN,
    ID,
    MINUTE,
    NOON,
    WORKSPACE,
    Fact,
    created,
    deleted,
    fact,
    given,
    moved,
    restored,
    updated,
    when_created,
)
from tests.support.transitions import check_move, every_move

MAY_BECOME = {
    "new": "contacted qualified proposal_sent negotiating won lost",
    "contacted": "qualified proposal_sent negotiating won lost",
    "qualified": "proposal_sent negotiating won lost",
    "proposal_sent": "negotiating won lost",
    "negotiating": "won lost",
    "won": "",
    "lost": "new contacted qualified proposal_sent negotiating",
}
BECAME = {"account_id": ACCOUNT, "contact_id": ID, "opportunity_id": WORKSPACE}


def converted(before: str | None = None) -> Fact:
    changes: dict[str, Any] = {}
    if before:
        changes["status"] = {"before": before, "after": "won"}
    for name, entity_id in (("Account", ACCOUNT), ("Contact", ID), ("Opportunity", WORKSPACE)):
        changes[f"converted{name}Id"] = {"before": None, "after": str(entity_id)}
    return fact(Lead.Converted, changes=changes)


@every_move(MAY_BECOME)
def test_statuses(before: str, after: str) -> None:
    check_move(Lead, WALK_IN, before, after, MAY_BECOME)


@pytest.mark.parametrize("status", MAY_BECOME)
def test_an_update_to_the_status_that_it_has_is_refused_by_name(status: str) -> None:
    given(Lead, created(Lead, {**WALK_IN, "status": status})).when(
        lambda lead: lead.update_status(status, at=NOON)
    ).then(StatusUnchanged("lead", ID, status))


def test_an_update_to_another_status_moves_it() -> None:
    outcome = given(Lead, created(Lead, WALK_IN)).when(
        lambda lead: lead.update_status("contacted", at=NOON)
    )
    outcome.then(moved(Lead, "new", "contacted"))
    assert outcome.entity.status_changed_at == NOON


def test_an_update_follows_the_table_of_moves() -> None:
    given(Lead, created(Lead, {**WALK_IN, "status": "won"})).when(
        lambda lead: lead.update_status("lost", at=NOON)
    ).then(TransitionRefused("lead", ID, "won", "lost", []))


def test_a_deleted_lead_is_not_moved() -> None:
    given(Lead, created(Lead, WALK_IN), deleted(Lead, WALK_IN)).when(
        lambda lead: lead.update_status("new", at=NOON)
    ).then(IsDeleted("lead", ID))


def test_the_status_is_as_old_as_its_last_move_whatever_else_happens() -> None:
    facts = {**WALK_IN, "status": "contacted"}
    history = [
        created(Lead, WALK_IN),
        moved(Lead, "new", "contacted"),
        updated(Lead, name=("Ada Lovelace", "Ada King")),
        deleted(Lead, facts),
    ]
    outcome = given(Lead, *history).when(lambda lead: lead.restore(at=NOON))
    assert outcome.entity.status_changed_at == DAWN + MINUTE
    event: Any = outcome.entity.pending_events[0]
    assert event.status_changed_at == (DAWN + MINUTE).isoformat()


@pytest.mark.parametrize("status", ["new", "contacted", "qualified", "proposal_sent"])
def test_a_lead_is_converted_and_won_by_that(status: str) -> None:
    outcome = given(Lead, created(Lead, {**WALK_IN, "status": status})).when(
        lambda lead: lead.convert(**BECAME, at=NOON)
    )
    outcome.then(converted(before=status))
    assert (outcome.entity.status, outcome.entity.status_changed_at) == ("won", NOON)


def test_one_that_was_won_before_can_be_converted_and_was_won_then() -> None:
    outcome = given(Lead, created(Lead, {**WALK_IN, "status": "won"})).when(
        lambda lead: lead.convert(**BECAME, at=NOON)
    )
    outcome.then(converted())
    assert outcome.entity.status_changed_at == DAWN


def test_a_second_conversion_is_refused_with_what_it_became() -> None:
    given(Lead, created(Lead, WALK_IN), converted(before="new")).when(
        lambda lead: lead.convert(**BECAME, at=NOON)
    ).then(AlreadyConverted(ID, ACCOUNT, ID, WORKSPACE))


def test_a_lost_lead_is_reopened_before_it_is_converted() -> None:
    given(Lead, created(Lead, {**WALK_IN, "status": "lost"})).when(
        lambda lead: lead.convert(**BECAME, at=NOON)
    ).then(TransitionRefused("lead", ID, "lost", "won", sorted(MAY_BECOME["lost"].split())))


def test_what_it_became_is_not_written_by_hand() -> None:
    by_hand = {"convertedAccountId": str(ACCOUNT)}
    when_created(Lead, {**WALK_IN, **by_hand}).then_invalid("convertedAccountId")
    given(Lead, created(Lead, WALK_IN)).when(
        lambda lead: lead.revise({**lead.values, **by_hand}, at=NOON)
    ).then_invalid("convertedAccountId")


def test_a_converted_lead_can_still_be_described() -> None:
    given(Lead, created(Lead, WALK_IN), converted(before="new")).when(
        lambda lead: lead.revise({**lead.values, "notes": "Kind."}, at=NOON)
    ).then(updated(Lead, notes=(None, "Kind.")))


def test_a_conversion_can_be_reverted() -> None:
    before = dict.fromkeys(converted().facts["changes"])
    given(Lead, created(Lead, WALK_IN), converted(before="new")).when(
        lambda lead: lead.revert({**before, "status": "new"}, at=NOON)
    ).then(
        updated(
            Lead,
            convertedAccountId=(str(ACCOUNT), None),
            convertedContactId=(str(ID), None),
            convertedOpportunityId=(str(WORKSPACE), None),
        ),
        moved(Lead, "won", "new"),
    )


def test_restored_it_is_as_it_was() -> None:
    history = [created(Lead, WALK_IN), deleted(Lead, WALK_IN), restored(Lead, WALK_IN)]
    assert given(Lead, *history).entity.values == WALK_IN
