"""Lead: forward until it is won or lost; won is final, a lost lead can be reopened."""

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
    EventData,
    created,
    deleted,
    given,
    occurred,
    restored,
    status_changed,
    updated,
    when_created,
)
from tests.support.transitions import check_transition, every_transition

TRANSITIONS = {
    "new": "contacted qualified proposal_sent negotiating won lost",
    "contacted": "qualified proposal_sent negotiating won lost",
    "qualified": "proposal_sent negotiating won lost",
    "proposal_sent": "negotiating won lost",
    "negotiating": "won lost",
    "won": "",
    "lost": "new contacted qualified proposal_sent negotiating",
}
CONVERTED_TO = {"account_id": ACCOUNT, "contact_id": ID, "opportunity_id": WORKSPACE}


def converted(before: str | None = None) -> EventData:
    changes: dict[str, Any] = {}
    if before:
        changes["status"] = {"before": before, "after": "won"}
    for name, entity_id in (("Account", ACCOUNT), ("Contact", ID), ("Opportunity", WORKSPACE)):
        changes[f"converted{name}Id"] = {"before": None, "after": str(entity_id)}
    return occurred(Lead.Converted, changes=changes)


@every_transition(TRANSITIONS)
def test_each_status_change_follows_the_table(before: str, after: str) -> None:
    check_transition(Lead, WALK_IN, before, after, TRANSITIONS)


@pytest.mark.parametrize("status", TRANSITIONS)
def test_update_status_refuses_the_present_status(status: str) -> None:
    given(Lead, created(Lead, {**WALK_IN, "status": status})).when(
        lambda lead: lead.update_status(status, at=NOON)
    ).then(StatusUnchanged("lead", ID, status))


def test_update_status_changes_the_status_and_its_date() -> None:
    outcome = given(Lead, created(Lead, WALK_IN)).when(
        lambda lead: lead.update_status("contacted", at=NOON)
    )
    outcome.then(status_changed(Lead, "new", "contacted"))
    assert outcome.entity.status_changed_at == NOON


def test_update_status_follows_the_table() -> None:
    given(Lead, created(Lead, {**WALK_IN, "status": "won"})).when(
        lambda lead: lead.update_status("lost", at=NOON)
    ).then(TransitionRefused("lead", ID, "won", "lost", []))


def test_the_status_of_a_deleted_lead_cannot_be_updated() -> None:
    given(Lead, created(Lead, WALK_IN), deleted(Lead, WALK_IN)).when(
        lambda lead: lead.update_status("new", at=NOON)
    ).then(IsDeleted("lead", ID))


def test_only_a_status_change_sets_the_date_of_the_status() -> None:
    contacted = {**WALK_IN, "status": "contacted"}
    history = [
        created(Lead, WALK_IN),
        status_changed(Lead, "new", "contacted"),
        updated(Lead, name=("Ada Lovelace", "Ada King")),
        deleted(Lead, contacted),
    ]
    outcome = given(Lead, *history).when(lambda lead: lead.restore(at=NOON))
    assert outcome.entity.status_changed_at == DAWN + MINUTE
    event: Any = outcome.entity.pending_events[0]
    assert event.status_changed_at == (DAWN + MINUTE).isoformat()


@pytest.mark.parametrize("status", ["new", "contacted", "qualified", "proposal_sent"])
def test_a_converted_lead_is_won(status: str) -> None:
    outcome = given(Lead, created(Lead, {**WALK_IN, "status": status})).when(
        lambda lead: lead.convert(**CONVERTED_TO, at=NOON)
    )
    outcome.then(converted(before=status))
    assert (outcome.entity.status, outcome.entity.status_changed_at) == ("won", NOON)


def test_a_won_lead_can_be_converted_and_keeps_the_date_of_its_status() -> None:
    outcome = given(Lead, created(Lead, {**WALK_IN, "status": "won"})).when(
        lambda lead: lead.convert(**CONVERTED_TO, at=NOON)
    )
    outcome.then(converted())
    assert outcome.entity.status_changed_at == DAWN


def test_a_second_conversion_is_refused_with_the_results_of_the_first() -> None:
    given(Lead, created(Lead, WALK_IN), converted(before="new")).when(
        lambda lead: lead.convert(**CONVERTED_TO, at=NOON)
    ).then(AlreadyConverted(ID, ACCOUNT, ID, WORKSPACE))


def test_a_lost_lead_cannot_be_converted() -> None:
    given(Lead, created(Lead, {**WALK_IN, "status": "lost"})).when(
        lambda lead: lead.convert(**CONVERTED_TO, at=NOON)
    ).then(TransitionRefused("lead", ID, "lost", "won", sorted(TRANSITIONS["lost"].split())))


def test_the_results_of_a_conversion_are_read_only() -> None:
    converted_account = {"convertedAccountId": str(ACCOUNT)}
    when_created(Lead, {**WALK_IN, **converted_account}).then_invalid("convertedAccountId")
    given(Lead, created(Lead, WALK_IN)).when(
        lambda lead: lead.revise({**lead.values, **converted_account}, at=NOON)
    ).then_invalid("convertedAccountId")


def test_a_converted_lead_can_be_revised() -> None:
    given(Lead, created(Lead, WALK_IN), converted(before="new")).when(
        lambda lead: lead.revise({**lead.values, "notes": "Kind."}, at=NOON)
    ).then(updated(Lead, notes=(None, "Kind.")))


def test_a_conversion_can_be_reverted() -> None:
    before = dict.fromkeys(converted().data["changes"])
    given(Lead, created(Lead, WALK_IN), converted(before="new")).when(
        lambda lead: lead.revert({**before, "status": "new"}, at=NOON)
    ).then(
        updated(
            Lead,
            convertedAccountId=(str(ACCOUNT), None),
            convertedContactId=(str(ID), None),
            convertedOpportunityId=(str(WORKSPACE), None),
        ),
        status_changed(Lead, "won", "new"),
    )


def test_a_restored_lead_has_its_former_values() -> None:
    history = [created(Lead, WALK_IN), deleted(Lead, WALK_IN), restored(Lead, WALK_IN)]
    assert given(Lead, *history).entity.values == WALK_IN
