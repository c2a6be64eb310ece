"""Proposal: a draft is sent, then accepted or declined; sent content is read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from domain.proposal import Proposal
from domain.shared.entity import EntityEvent
from domain.shared.fields import FieldValues
from domain.shared.refusals import IsDeleted, TransitionRefused
from tests.support.spec import (
    ADA,
    ID,
    NOON,
    EventData,
    changes_of,
    created,
    deleted,
    given,
    occurred,
    updated,
)

OFFER: FieldValues = {"title": "Renewal", "status": "draft", "value": "1200.00"}
THEN = NOON.isoformat()
STEPS: dict[str, Callable[[Proposal], None]] = {
    "draft": lambda one: one.redraft({"value": "1100.00"}, at=NOON),
    "sent": lambda one: one.send("ada@example.com", at=NOON),
    "accepted": lambda one: one.accept(at=NOON),
    "declined": lambda one: one.decline(at=NOON, reason="Too dear"),
}
TRANSITIONS = {
    "draft": "draft sent",
    "sent": "accepted declined draft sent",
    "declined": "draft declined",
    "accepted": "accepted",
}


def step(event: type[EntityEvent], /, **changes: Any) -> EventData:
    return occurred(event, changes=changes_of(changes))


def in_status(status: str) -> EventData:
    return created(Proposal, {**OFFER, "status": status})


@pytest.mark.parametrize("before", TRANSITIONS)
@pytest.mark.parametrize("after", STEPS)
def test_each_step_follows_the_table_or_is_refused(before: str, after: str) -> None:
    outcome = given(Proposal, in_status(before)).when(STEPS[after])
    if after in TRANSITIONS[before].split():
        assert outcome.entity.status == after
    else:
        allowed = sorted(set(TRANSITIONS[before].split()) - {before})
        outcome.then(TransitionRefused("proposal", ID, before, after, allowed))


@pytest.mark.parametrize("status", TRANSITIONS)
@pytest.mark.parametrize("take", STEPS.values())
def test_a_deleted_proposal_refuses_each_step(
    take: Callable[[Proposal], None], status: str
) -> None:
    given(Proposal, in_status(status), deleted(Proposal, {**OFFER, "status": status})).when(
        take
    ).then(IsDeleted("proposal", ID))


def test_sending_records_the_time_and_the_address() -> None:
    given(Proposal, in_status("draft")).when(STEPS["sent"]).then(
        step(
            Proposal.Sent,
            status=("draft", "sent"),
            sentAt=(None, THEN),
            sentTo=(None, "ada@example.com"),
        )
    )


@pytest.mark.parametrize("status", ["accepted", "declined"])
def test_the_same_answer_twice_is_recorded_once(status: str) -> None:
    def twice(one: Proposal) -> None:
        STEPS[status](one)
        STEPS[status](one)

    outcome = given(Proposal, in_status("sent")).when(twice)
    assert len(outcome.entity.pending_events) == 1


def test_redrafting_removes_the_answer() -> None:
    declined = step(
        Proposal.Declined,
        status=("sent", "declined"),
        answeredAt=(None, THEN),
        declineReason=(None, "Too dear"),
    )
    given(Proposal, in_status("sent"), declined).when(STEPS["draft"]).then(
        step(
            Proposal.Revised,
            status=("declined", "draft"),
            value=("1200.00", "1100.00"),
            answeredAt=(THEN, None),
            declineReason=("Too dear", None),
        )
    )


def test_a_draft_can_be_revised() -> None:
    given(Proposal, in_status("draft")).when(
        lambda one: one.revise({**one.values, "body": "So."}, at=NOON)
    ).then(updated(Proposal, body=(None, "So.")))


@pytest.mark.parametrize("status", ["sent", "accepted", "declined"])
def test_the_content_is_read_only_after_sending(status: str) -> None:
    proposal = given(Proposal, in_status(status))
    proposal.when(
        lambda one: one.revise({**one.values, "body": "So.", "value": "1"}, at=NOON)
    ).then_invalid("body", "value")
    proposal.when(lambda one: one.revise({**one.values, "assignedTo": ADA}, at=NOON)).then(
        updated(Proposal, assignedTo=(None, ADA))
    )


def test_the_status_can_only_be_changed_by_steps() -> None:
    given(Proposal, in_status("draft")).when(
        lambda one: one.revise({**one.values, "status": "sent"}, at=NOON)
    ).then_invalid("status")
