"""Proposal: a draft is sent, and then accepted or declined; what was sent stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from domain.proposal import Proposal
from domain.shared.entity import EntityEvent
from domain.shared.fields import FieldValues
from domain.shared.refusals import IsDeleted, TransitionRefused
from tests.support.spec import ADA, ID, NOON, Fact, created, deleted, fact, given, updated

OFFER: FieldValues = {"title": "Renewal", "status": "draft", "value": "1200.00"}
THEN = NOON.isoformat()
MOVES: dict[str, Callable[[Proposal], None]] = {
    "draft": lambda one: one.redraft({"value": "1100.00"}, at=NOON),
    "sent": lambda one: one.send("ada@example.com", at=NOON),
    "accepted": lambda one: one.accept(at=NOON),
    "declined": lambda one: one.decline(at=NOON, reason="Too dear"),
}
MAY_BECOME = {
    "draft": "draft sent",
    "sent": "accepted declined draft sent",
    "declined": "draft declined",
    "accepted": "accepted",
}


def step(event: type[EntityEvent], /, **changes: Any) -> Fact:
    told = {name: {"before": old, "after": new} for name, (old, new) in changes.items()}
    return fact(event, changes=told)


def in_status(status: str) -> Fact:
    return created(Proposal, {**OFFER, "status": status})


@pytest.mark.parametrize("before", MAY_BECOME)
@pytest.mark.parametrize("after", MOVES)
def test_every_move_is_made_or_refused_by_name(before: str, after: str) -> None:
    outcome = given(Proposal, in_status(before)).when(MOVES[after])
    if after in MAY_BECOME[before].split():
        assert outcome.entity.status == after
    else:
        allowed = sorted(set(MAY_BECOME[before].split()) - {before})
        outcome.then(TransitionRefused("proposal", ID, before, after, allowed))


@pytest.mark.parametrize("move", MOVES.values())
def test_a_deleted_one_goes_nowhere(move: Callable[[Proposal], None]) -> None:
    given(Proposal, in_status("sent"), deleted(Proposal, {**OFFER, "status": "sent"})).when(
        move
    ).then(IsDeleted("proposal", ID))


def test_sending_records_when_and_to_whom() -> None:
    given(Proposal, in_status("draft")).when(MOVES["sent"]).then(
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
        MOVES[status](one)
        MOVES[status](one)

    outcome = given(Proposal, in_status("sent")).when(twice)
    assert len(outcome.entity.pending_events) == 1


def test_a_revision_takes_back_what_was_answered() -> None:
    declined = step(
        Proposal.Declined,
        status=("sent", "declined"),
        answeredAt=(None, THEN),
        declineReason=(None, "Too dear"),
    )
    given(Proposal, in_status("sent"), declined).when(MOVES["draft"]).then(
        step(
            Proposal.Revised,
            status=("declined", "draft"),
            value=("1200.00", "1100.00"),
            answeredAt=(THEN, None),
            declineReason=("Too dear", None),
        )
    )


def test_a_draft_can_be_patched() -> None:
    given(Proposal, in_status("draft")).when(
        lambda one: one.revise({**one.values, "body": "So."}, at=NOON)
    ).then(updated(Proposal, body=(None, "So.")))


@pytest.mark.parametrize("status", ["sent", "accepted", "declined"])
def test_what_was_sent_is_kept_and_what_was_not_is_free(status: str) -> None:
    known = given(Proposal, in_status(status))
    known.when(
        lambda one: one.revise({**one.values, "body": "So.", "value": "1"}, at=NOON)
    ).then_invalid("body", "value")
    known.when(lambda one: one.revise({**one.values, "assignedTo": ADA}, at=NOON)).then(
        updated(Proposal, assignedTo=(None, ADA))
    )


def test_the_status_is_moved_by_steps_and_not_by_hand() -> None:
    given(Proposal, in_status("draft")).when(
        lambda one: one.revise({**one.values, "status": "sent"}, at=NOON)
    ).then_invalid("status")
