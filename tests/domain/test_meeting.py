"""Meeting: scheduled, then held or cancelled; a cancelled one can be scheduled again."""

from __future__ import annotations

from typing import Any

import pytest

from domain.meeting import Meeting
from tests.support.examples import KICK_OFF
from tests.support.spec import NOON, created, given, when_created
from tests.support.transitions import check_move, every_move

MAY_BECOME = {"scheduled": "held cancelled", "held": "", "cancelled": "scheduled"}
AT_TEN = {**KICK_OFF, "startsAt": "2026-02-01T10:00:00+00:00"}


@every_move(MAY_BECOME)
def test_statuses(before: str, after: str) -> None:
    check_move(Meeting, KICK_OFF, before, after, MAY_BECOME)


def test_a_new_meeting_is_scheduled() -> None:
    when_created(Meeting, {"title": "Kick-off"}).then(created(Meeting, KICK_OFF))


def test_a_meeting_does_not_end_before_it_starts() -> None:
    when_created(Meeting, {**AT_TEN, "endsAt": "2026-02-01T09:59:59+00:00"}).then_invalid("body")
    same = {**AT_TEN, "endsAt": AT_TEN["startsAt"]}
    when_created(Meeting, same).then(created(Meeting, same))


def test_which_of_two_zones_comes_first_is_told_by_the_instant() -> None:
    when_created(Meeting, {**AT_TEN, "endsAt": "2026-02-01T10:30:00+01:00"}).then_invalid("body")


@pytest.mark.parametrize("time", ["2026-02-01T10:00:00", "2026", "1769940000", 1769940000, "ten"])
def test_a_time_is_written_out_and_has_a_zone(time: Any) -> None:
    when_created(Meeting, {**KICK_OFF, "startsAt": time}).then_invalid("startsAt")


def test_times_are_recorded_in_utc() -> None:
    when_created(Meeting, {**KICK_OFF, "startsAt": "2026-02-01T12:00:00+02:00"}).then(
        created(Meeting, AT_TEN)
    )


def test_the_same_instant_in_another_zone_is_no_change() -> None:
    given(Meeting, created(Meeting, AT_TEN)).when(
        lambda meeting: meeting.revise({**AT_TEN, "startsAt": "2026-02-01T11:00:00+01:00"}, at=NOON)
    ).then_nothing()
