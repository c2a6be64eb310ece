"""Kinds with rules of their own are imported by the same means: leads, appointments, proposals."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.support.databases import Urls
from tests.support.import_desk import Desk, errors, settings_for


@pytest.fixture
def desk(urls: Urls, workspace: UUID, tmp_path: Path) -> Desk:
    return Desk(settings_for(urls, tmp_path), workspace, tmp_path)


def test_leads_are_imported_and_what_they_became_is_left_out(desk: Desk) -> None:
    table = f"name,status,smsOptOut,convertedAccountId\nAda,won,true,{uuid4()}\nBob,lost,,\n"
    result = desk.hand_in("leads", table)
    assert not result.failed, result.findings
    ada, bob = desk.items("leads")
    assert (ada["status"], ada["smsOptOut"], ada["convertedAccountId"]) == ("won", True, None)
    assert (bob["status"], bob["smsOptOut"], ada["customFields"]) == ("lost", False, {})


def test_appointments_go_by_the_name_of_the_member_and_take_nobodys_time(desk: Desk) -> None:
    desk.hand_in("members", "name\nGrace\n")
    desk.hand_in("leads", "name\nAda\n")
    lead = desk.items("leads")[0]["id"]
    rows = [
        f"first,Grace,2026-02-01T10:00:00Z,2026-02-01T11:00:00Z,{lead},confirmed",
        "beside,Grace,2026-02-01T10:30:00Z,2026-02-01T11:30:00Z,,",
        "after,Grace,2026-02-01T11:00:00Z,2026-02-01T12:00:00Z,,",
        f"of nobody,Grace,2026-02-02T11:00:00Z,2026-02-02T12:00:00Z,{uuid4()},",
        "no member,Nobody,2026-02-03T11:00:00Z,2026-02-03T12:00:00Z,,",
    ]
    table = "\n".join(["title,memberId,startsAt,endsAt,leadId,status", *rows, ""])
    result = desk.hand_in("appointments", table)
    made = {each["title"]: each for each in desk.items("appointments")}
    assert made.keys() == {"first", "after"}
    assert (made["first"]["memberName"], made["first"]["leadId"]) == ("Grace", lead)
    assert made["first"]["status"] == "confirmed"
    told = {row: code for row, _, _, code in errors(result)}
    assert told == {3: "not_recorded", 5: "reference_gone", 6: "missing_value"}
