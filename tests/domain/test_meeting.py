"""Meeting: scheduled, then held or cancelled; a cancelled meeting can be scheduled again."""

from __future__ import annotations

from typing import Any

import pytest

from domain.meeting import Meeting
from tests.support.examples import KICK_OFF
from tests.support.spec import NOON, created, given, when_created
from tests.support.transitions import check_transition, every_transition

TRANSITIONS = {"scheduled": "held cancelled", "held": "", "cancelled": "scheduled"}
AT_TEN = {**KICK_OFF, "startsAt": "2026-02-01T10:00:00+00:00"}


@every_transition(TRANSITIONS)
def test_each_status_change_follows_the_table(before: str, after: str) -> None:
    check_transition(Meeting, KICK_OFF, before, after, TRANSITIONS)


def test_a_new_meeting_is_scheduled() -> None:
    when_created(Meeting, {"title": "Kick-off"}).then(created(Meeting, KICK_OFF))


def test_a_meeting_does_not_end_before_it_starts() -> None:
    when_created(Meeting, {**AT_TEN, "endsAt": "2026-02-01T09:59:59+00:00"}).then_invalid("endsAt")
    same = {**AT_TEN, "endsAt": AT_TEN["startsAt"]}
    when_created(Meeting, same).then(created(Meeting, same))


def test_times_in_different_zones_are_compared_as_instants() -> None:
    when_created(Meeting, {**AT_TEN, "endsAt": "2026-02-01T10:30:00+01:00"}).then_invalid("endsAt")


@pytest.mark.parametrize("time", ["2026-02-01T10:00:00", "2026", "1769940000", 1769940000, "ten"])
def test_a_time_without_a_zone_or_as_a_number_is_refused(time: Any) -> None:
    when_created(Meeting, {**KICK_OFF, "startsAt": time}).then_invalid("startsAt")


def test_times_are_recorded_in_utc() -> None:
    when_created(Meeting, {**KICK_OFF, "startsAt": "2026-02-01T12:00:00+02:00"}).then(
        created(Meeting, AT_TEN)
    )


def test_the_same_instant_in_another_zone_is_no_change() -> None:
    given(Meeting, created(Meeting, AT_TEN)).when(
        lambda meeting: meeting.revise({**AT_TEN, "startsAt": "2026-02-01T11:00:00+01:00"}, at=NOON)
    ).then_nothing()
