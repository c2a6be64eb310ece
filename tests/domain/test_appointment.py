"""Appointment: scheduled, confirmed, then completed, cancelled or missed."""

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
    EventData,
    changes_of,
    created,
    deleted,
    given,
    occurred,
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


def step(
    event: type[EntityEvent], /, *, own: FieldValues | None = None, **changes: Any
) -> EventData:
    """A step that changed fields, each from the first of the pair to the second."""
    return occurred(event, changes=changes_of(changes), **(own or {}))


def in_status(status: str) -> EventData:
    return created(Appointment, {**FIRST_CALL, "status": status})


STEPS: dict[str, Callable[[Appointment], None]] = {
    "confirmed": lambda one: one.confirm("Ada", at=NOON),
    "scheduled": lambda one: one.reschedule({"startsAt": LATER}, at=NOON),
    "cancelled": lambda one: one.cancel(at=NOON),
    "completed": lambda one: one.complete(at=NOON),
    "no_show": lambda one: one.miss(at=NOON),
}
TRANSITIONS = {
    "scheduled": "cancelled completed confirmed no_show",
    "confirmed": "cancelled completed no_show scheduled",
    "cancelled": "scheduled",
    "completed": "",
    "no_show": "",
}


@pytest.mark.parametrize("before", TRANSITIONS)
@pytest.mark.parametrize("after", STEPS)
def test_each_step_follows_the_table_or_is_refused(before: str, after: str) -> None:
    values = CONFIRMED if before == "confirmed" else {**FIRST_CALL, "status": before}
    outcome = given(Appointment, created(Appointment, values)).when(STEPS[after])
    allowed = TRANSITIONS[before].split()
    if before == after == "confirmed":
        outcome.then(AlreadyConfirmed(ID, datetime(2026, 1, 31, 9, tzinfo=UTC), "Ada"))
    elif before == after and before != "scheduled":
        outcome.then_nothing()
    elif before == after or after in allowed:
        assert outcome.entity.status == after
    else:
        outcome.then(TransitionRefused("appointment", ID, before, after, allowed))


def test_an_appointment_that_was_created_as_confirmed_cannot_be_confirmed() -> None:
    given(Appointment, in_status("confirmed")).when(STEPS["confirmed"]).then(
        AlreadyConfirmed(ID, None, None)
    )


@pytest.mark.parametrize("take", STEPS.values())
def test_a_deleted_appointment_refuses_each_step(take: Callable[[Appointment], None]) -> None:
    given(Appointment, in_status("scheduled"), deleted(Appointment, FIRST_CALL)).when(take).then(
        IsDeleted("appointment", ID)
    )


def test_a_confirmation_records_its_time_its_author_and_whether_to_notify() -> None:
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


def test_a_rescheduled_appointment_keeps_its_duration_and_loses_its_confirmation() -> None:
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


def test_rescheduling_to_the_same_time_records_nothing() -> None:
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
def test_rescheduling_can_change_the_duration(fields: FieldValues, ends_at: str) -> None:
    outcome = given(Appointment, in_status("cancelled")).when(
        lambda one: one.reschedule({**fields, "memberId": ADA}, at=NOON)
    )
    values = outcome.entity.values
    assert (values["endsAt"], values["memberId"], values["status"]) == (ends_at, ADA, "scheduled")
    assert "durationMinutes" not in values


def test_the_reason_of_a_cancellation_stays_until_the_appointment_is_rescheduled() -> None:
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


def test_the_end_is_calculated_from_a_duration() -> None:
    fields = {name: value for name, value in FIRST_CALL.items() if name != "endsAt"}
    when_created(Appointment, {**fields, "durationMinutes": 30}).then(
        created(Appointment, FIRST_CALL)
    )


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"durationMinutes": 0}, "durationMinutes"),
        ({"durationMinutes": True}, "durationMinutes"),
        ({"durationMinutes": DURATION_MAX_MINUTES + 1}, "durationMinutes"),
        ({"durationMinutes": 30, "startsAt": "tomorrow"}, "startsAt endsAt"),
        ({"endsAt": FIRST_CALL["startsAt"]}, "endsAt"),
        ({"endsAt": "2026-02-08T10:00:01Z"}, "endsAt"),
        ({"memberId": None}, "memberId"),
        ({"confirmedAt": LATER}, "confirmedAt"),
        ({"confirmedBy": "Ada"}, "confirmedBy"),
    ],
)
def test_invalid_fields_are_refused(fields: FieldValues, fault: str) -> None:
    outcome = when_created(Appointment, {**FIRST_CALL, **fields})
    outcome.then_invalid(*fault.split())


def test_the_status_can_only_be_changed_by_steps() -> None:
    given(Appointment, in_status("scheduled")).when(
        lambda one: one.revise({**one.values, "status": "confirmed"}, at=NOON)
    ).then_invalid("status")
    given(Appointment, in_status("scheduled")).when(
        lambda one: one.revise({**one.values, "location": "Room 4"}, at=NOON)
    ).then(updated(Appointment, location=(None, "Room 4")))


@pytest.mark.parametrize("status", TRANSITIONS)
def test_an_appointment_claims_time_unless_it_is_cancelled_or_missed(status: str) -> None:
    one = given(Appointment, in_status(status)).entity
    start = datetime(2026, 2, 1, 10, tzinfo=UTC)
    claim = TimeClaim(MEMBER, start, start.replace(minute=30), may_overlap=False)
    assert one.claim() == (None if status in {"cancelled", "no_show"} else claim)


def test_a_deleted_appointment_claims_no_time() -> None:
    one = given(Appointment, in_status("scheduled"), deleted(Appointment, FIRST_CALL)).entity
    assert one.claim() is None
