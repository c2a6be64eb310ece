"""Appointment: scheduled, confirmed, and then it takes place or does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from domain.appointment import DURATION_MAX_MINUTES, Appointment
from domain.shared.claims import TimeClaim
from domain.shared.entity import EntityEvent
from domain.shared.fields import FieldValues
from domain.shared.refusals import AlreadyConfirmed, IsDeleted, TransitionRefused
from tests.support.examples import FIRST_CALL
from tests.support.spec import (
    ADA,
    ID,
    NOON,
    Fact,
    created,
    deleted,
    fact,
    given,
    updated,
    when_created,
)

CONFIRMED: FieldValues = {
    **FIRST_CALL,
    "status": "confirmed",
    "confirmedAt": "2026-01-31T09:00:00+00:00",
    "confirmedBy": "Ada",
}
LATER = "2026-02-01T11:00:00+00:00"
MEMBER = UUID(FIRST_CALL["memberId"])


def step(event: type[EntityEvent], /, *, own: FieldValues | None = None, **changes: Any) -> Fact:
    """A step that changed fields, each from the first of the pair to the second."""
    told = {name: {"before": before, "after": after} for name, (before, after) in changes.items()}
    return fact(event, changes=told, **(own or {}))


def in_status(status: str) -> Fact:
    return created(Appointment, {**FIRST_CALL, "status": status})


MOVES: dict[str, Callable[[Appointment], None]] = {
    "confirmed": lambda one: one.confirm("Ada", at=NOON),
    "scheduled": lambda one: one.reschedule({"startsAt": LATER}, at=NOON),
    "cancelled": lambda one: one.cancel(at=NOON),
    "completed": lambda one: one.complete(at=NOON),
    "no_show": lambda one: one.miss(at=NOON),
}
MAY_BECOME = {
    "scheduled": "cancelled completed confirmed no_show",
    "confirmed": "cancelled completed no_show scheduled",
    "cancelled": "scheduled",
    "completed": "",
    "no_show": "",
}


@pytest.mark.parametrize("before", MAY_BECOME)
@pytest.mark.parametrize("after", MOVES)
def test_every_move_is_made_or_refused_by_name(before: str, after: str) -> None:
    facts = CONFIRMED if before == "confirmed" else {**FIRST_CALL, "status": before}
    outcome = given(Appointment, created(Appointment, facts)).when(lambda one: MOVES[after](one))
    allowed = MAY_BECOME[before].split()
    if before == after == "confirmed":
        outcome.then(AlreadyConfirmed(ID, CONFIRMED["confirmedAt"], "Ada"))
    elif before == after and before != "scheduled":
        outcome.then_nothing()
    elif before == after or after in allowed:
        assert outcome.entity.status == after
    else:
        outcome.then(TransitionRefused("appointment", ID, before, after, allowed))


@pytest.mark.parametrize("move", MOVES.values())
def test_a_deleted_one_goes_nowhere(move: Callable[[Appointment], None]) -> None:
    given(Appointment, in_status("scheduled"), deleted(Appointment, FIRST_CALL)).when(move).then(
        IsDeleted("appointment", ID)
    )


def test_a_confirmation_records_when_by_whom_and_whether_to_tell() -> None:
    given(Appointment, in_status("scheduled")).when(
        lambda one: one.confirm("Ada", at=NOON, notes="Gladly.", notify=True)
    ).then(
        step(
            Appointment.Confirmed,
            own={"notify": True},
            status=("scheduled", "confirmed"),
            confirmedAt=(None, NOON.isoformat()),
            confirmedBy=(None, "Ada"),
            confirmationNotes=(None, "Gladly."),
        )
    )


def test_one_that_is_rescheduled_keeps_its_length_and_has_to_be_confirmed_again() -> None:
    given(Appointment, created(Appointment, CONFIRMED)).when(
        lambda one: one.reschedule({"startsAt": LATER}, at=NOON)
    ).then(
        step(
            Appointment.Rescheduled,
            status=("confirmed", "scheduled"),
            startsAt=(FIRST_CALL["startsAt"], LATER),
            endsAt=(FIRST_CALL["endsAt"], "2026-02-01T11:30:00+00:00"),
            confirmedAt=(CONFIRMED["confirmedAt"], None),
            confirmedBy=("Ada", None),
        )
    )


def test_rescheduling_to_what_is_so_records_nothing() -> None:
    given(Appointment, created(Appointment, CONFIRMED)).when(
        lambda one: one.reschedule({"startsAt": "2026-02-01T11:00:00+01:00"}, at=NOON)
    ).then_nothing()


@pytest.mark.parametrize(
    ("fields", "ends_at"),
    [
        ({"startsAt": LATER, "durationMinutes": 15}, "2026-02-01T11:15:00+00:00"),
        ({"startsAt": LATER, "endsAt": "2026-02-01T12:00:00Z"}, "2026-02-01T12:00:00+00:00"),
    ],
)
def test_it_can_be_given_another_length(fields: FieldValues, ends_at: str) -> None:
    outcome = given(Appointment, in_status("cancelled")).when(
        lambda one: one.reschedule({**fields, "memberId": ADA}, at=NOON)
    )
    facts = outcome.entity.values
    assert (facts["endsAt"], facts["memberId"], facts["status"]) == (ends_at, ADA, "scheduled")
    assert "durationMinutes" not in facts


def test_a_reason_for_cancelling_is_kept_until_it_is_rescheduled() -> None:
    cancelled = step(
        Appointment.Cancelled, status=("scheduled", "cancelled"), cancelReason=(None, "Ill")
    )
    given(Appointment, in_status("scheduled")).when(
        lambda one: one.cancel(at=NOON, reason="Ill")
    ).then(cancelled)
    outcome = given(Appointment, in_status("scheduled"), cancelled).when(
        lambda one: one.reschedule({}, at=NOON)
    )
    outcome.then(
        step(
            Appointment.Rescheduled,
            status=("cancelled", "scheduled"),
            cancelReason=("Ill", None),
        )
    )


def test_a_duration_makes_the_end() -> None:
    fields = {name: value for name, value in FIRST_CALL.items() if name != "endsAt"}
    when_created(Appointment, {**fields, "durationMinutes": 30}).then(
        created(Appointment, FIRST_CALL)
    )


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"durationMinutes": 0}, "body"),
        ({"durationMinutes": True}, "body"),
        ({"durationMinutes": DURATION_MAX_MINUTES + 1}, "body"),
        ({"durationMinutes": 30, "startsAt": "tomorrow"}, "startsAt endsAt"),
        ({"endsAt": FIRST_CALL["startsAt"]}, "body"),
        ({"endsAt": "2026-02-08T10:00:01Z"}, "body"),
        ({"memberId": None}, "memberId"),
        ({"confirmedAt": LATER}, "confirmedAt"),
        ({"confirmedBy": "Ada"}, "confirmedBy"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: FieldValues, fault: str) -> None:
    outcome = when_created(Appointment, {**FIRST_CALL, **fields})
    outcome.then_invalid(*fault.split())


def test_the_status_is_moved_by_commands_and_not_by_hand() -> None:
    given(Appointment, in_status("scheduled")).when(
        lambda one: one.revise({**one.values, "status": "confirmed"}, at=NOON)
    ).then_invalid("status")
    given(Appointment, in_status("scheduled")).when(
        lambda one: one.revise({**one.values, "location": "Room 4"}, at=NOON)
    ).then(updated(Appointment, location=(None, "Room 4")))


@pytest.mark.parametrize("status", MAY_BECOME)
def test_it_takes_the_members_time_until_it_is_cancelled_or_missed(status: str) -> None:
    one = given(Appointment, in_status(status)).entity
    start = datetime(2026, 2, 1, 10, tzinfo=UTC)
    claim = TimeClaim(MEMBER, start, start.replace(minute=30), may_overlap=False)
    assert one.claim() == (None if status in {"cancelled", "no_show"} else claim)


def test_a_deleted_one_takes_no_time() -> None:
    one = given(Appointment, in_status("scheduled"), deleted(Appointment, FIRST_CALL)).entity
    assert one.claim() is None
