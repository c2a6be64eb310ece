"""Imports of kinds with rules for commands or time: leads and appointments."""

from __future__ import annotations

from uuid import uuid4

from tests.support.imports import Importer, errors


def test_fields_set_by_commands_are_left_out(importer: Importer) -> None:
    table = f"name,status,smsOptOut,convertedAccountId\nAda,won,true,{uuid4()}\nBob,lost,,\n"
    result = importer.run("leads", table)
    assert not result.failed, result.issues
    ada, bob = importer.items("leads")
    assert (ada["status"], ada["smsOptOut"], ada["convertedAccountId"]) == ("won", True, None)
    assert (bob["status"], bob["smsOptOut"], ada["customFields"]) == ("lost", False, {})


def test_appointments_find_members_by_name_and_cannot_overlap(importer: Importer) -> None:
    importer.run("members", "name\nGrace\n")
    importer.run("leads", "name\nAda\n")
    lead = importer.items("leads")[0]["id"]
    rows = [
        f"first,Grace,2026-02-01T10:00:00Z,2026-02-01T11:00:00Z,{lead},Completed",
        "beside,Grace,2026-02-01T10:30:00Z,2026-02-01T11:30:00Z,,",
        "after,Grace,2026-02-01T11:00:00Z,2026-02-01T12:00:00Z,,",
        f"no lead,Grace,2026-02-02T11:00:00Z,2026-02-02T12:00:00Z,{uuid4()},",
        "no member,Stranger,2026-02-03T11:00:00Z,2026-02-03T12:00:00Z,,",
    ]
    table = "\n".join(["title,memberId,startsAt,endsAt,leadId,status", *rows, ""])
    result = importer.run("appointments", table)
    made = {each["title"]: each for each in importer.items("appointments")}
    assert made.keys() == {"first", "after"}
    assert (made["first"]["memberName"], made["first"]["leadId"]) == ("Grace", lead)
    assert made["first"]["status"] == "completed"
    codes = {row: code for row, _, _, code in errors(result)}
    assert codes == {3: "not_recorded", 5: "reference_gone", 6: "missing_value"}
