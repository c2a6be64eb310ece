"""From a confirmed appointment to a message, and from a delivered message to a contacted lead."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from commands.process import Command, command_id
from commands.processes.booking import PROCESS, MessageRequested
from commands.sms import day_and_time
from domain.appointment import Appointment
from domain.lead import Lead
from domain.member import Member
from domain.sms import SmsStatus
from runtime.composition import sms_limits
from runtime.settings import Settings
from tests.commands.test_processes import event
from tests.conftest import Urls
from tests.server.test_sender import sender
from tests.support.api_server import free_port, running_api
from tests.support.processes import until
from tests.support.sms_house import SmsHouse, gateway_to
from tests.support.twilio_server import FakeTwilio

STARTS_AT = "2026-01-31T10:00:00+00:00"


# The commands that are issued for given events


CONFIRMED = event("appointment.confirmed", {"changes": {}, "notify": True})
SMS_ID = command_id("booking", CONFIRMED)


def told(status: str, sms: UUID = SMS_ID) -> Any:
    return event("sms.status_changed", {"before": "pending", "after": status}, sms)


def test_a_confirmation_that_is_to_be_told_is_told() -> None:
    message = Command("tellConfirmed", {"appointmentId": CONFIRMED.stream_id})
    assert PROCESS.react(None, CONFIRMED) == (MessageRequested(), (message,))


def test_a_confirmation_that_is_not_to_be_told_is_not() -> None:
    quiet = replace(CONFIRMED, data={"changes": {}, "notify": False})
    assert PROCESS.react(None, quiet) == (None, ())


def test_what_becomes_of_the_message_is_remembered_with_the_confirmation() -> None:
    assert PROCESS.key(CONFIRMED) == PROCESS.key(told("sent")) == str(SMS_ID)


@pytest.mark.parametrize("status", ["sent", "failed", "undelivered"])
def test_as_long_as_it_is_not_delivered_nothing_follows(status: str) -> None:
    assert PROCESS.react(MessageRequested(), told(status)) == (MessageRequested(), ())


def test_when_it_is_delivered_the_lead_is_contacted_and_all_is_forgotten() -> None:
    contact = Command("contactLead", {"smsId": str(SMS_ID)})
    assert PROCESS.react(MessageRequested(), told("delivered")) == (None, (contact,))


def test_messages_of_others_are_none_of_its_business() -> None:
    assert PROCESS.react(None, told("delivered", uuid4())) == (None, ())


# Step by step


def an_appointment(house: SmsHouse, lead: UUID | None, *, notify: bool = True) -> UUID:
    """A confirmed appointment."""
    member = house.entities.create(house.scope, Member, {"name": "Grace"}).entity.id
    fields = {
        "title": "First call",
        "memberId": str(member),
        "startsAt": STARTS_AT,
        "durationMinutes": 30,
        "leadId": str(lead) if lead else None,
        "allowOverlap": True,
    }
    made = house.entities.create(house.scope, Appointment, fields).entity.id
    with house.log.transaction(house.scope):
        appointment = house.log.load(Appointment, made)
        appointment.confirm("Grace", at=datetime.now(UTC), notify=notify)
        house.log.append(appointment)
    return made


def deliver(house: SmsHouse, twilio: FakeTwilio) -> None:
    """All messages arrive."""
    for token in twilio.messages:
        house.sms.record_status(house.scope, UUID(token), SmsStatus.DELIVERED)
    house.react()


def test_a_new_lead_is_contacted_by_the_message_that_reached_it(
    house: SmsHouse, twilio: FakeTwilio
) -> None:
    lead = house.lead()
    an_appointment(house, lead)
    house.send_all(gateway_to(twilio))
    (message,) = twilio.messages.values()
    assert message.form["Body"] == (
        "Hello Ada Lovelace, your appointment on 31 January 2026 at 10:00 UTC is confirmed."
    )
    assert house.lead_facts(lead)["status"] == "new", "it was sent, and not delivered yet"
    deliver(house, twilio)
    assert house.lead_facts(lead)["status"] == "contacted"
    assert [row[:2] for row in house.commands()] == [
        ("tellConfirmed", "done"),
        ("sendSms", "done"),
        ("contactLead", "done"),
    ]
    left = house.database.execute("SELECT count(*) FROM process_states").fetchone()
    assert left == (0,)


def test_each_event_names_what_it_came_from(house: SmsHouse, twilio: FakeTwilio) -> None:
    house.scope = replace(house.scope, command_id="confirm-1")
    an_appointment(house, house.lead())
    house.send_all(gateway_to(twilio))
    deliver(house, twilio)
    rows = house.database.execute(
        """SELECT topic, metadata->>'correlationId', metadata->>'causationId' FROM events
            WHERE topic LIKE 'sms.%' OR topic = 'lead.status_changed' ORDER BY position"""
    ).fetchall()
    assert {row[1] for row in rows} == {"confirm-1"}, "one story from the confirmation on"
    assert rows[0] == ("sms.created", "confirm-1", "confirm-1")
    assert rows[-1][0] == "lead.status_changed"


@pytest.mark.parametrize("status", ["qualified", "won", "lost"])
def test_a_lead_that_is_further_stays_where_it_is(
    house: SmsHouse, twilio: FakeTwilio, status: str
) -> None:
    lead = house.lead(status=status)
    an_appointment(house, lead)
    house.send_all(gateway_to(twilio))
    deliver(house, twilio)
    assert len(twilio.messages) == 1
    assert house.lead_facts(lead)["status"] == status


def test_who_cannot_be_told_is_not_and_that_is_said(house: SmsHouse, twilio: FakeTwilio) -> None:
    an_appointment(house, None)
    an_appointment(house, house.lead(smsOptOut=True))
    an_appointment(house, house.lead(phone=None))
    an_appointment(house, house.lead(), notify=False)
    gone = an_appointment(house, house.lead())
    with house.log.transaction(house.scope):
        appointment = house.log.load(Appointment, gone)
        appointment.cancel(at=datetime.now(UTC))
        house.log.append(appointment)
    house.send_all(gateway_to(twilio))
    assert twilio.messages == {}
    assert [row[:2] for row in house.commands()] == [("tellConfirmed", "refused")] * 4
    assert sorted(row[3] for row in house.commands()) == [
        "LeadHasNoPhone",
        "LeadOptedOut",
        "NobodyToTell",
        "NobodyToTell",
    ]


def test_undoing_the_confirmation_takes_no_message_back(
    house: SmsHouse, twilio: FakeTwilio
) -> None:
    lead = house.lead()
    an_appointment(house, lead)
    house.send_all(gateway_to(twilio))
    house.entities.delete(house.scope, Lead, lead)
    deliver(house, twilio)
    assert house.commands()[-1] == ("contactLead", "refused", 0, "IsDeleted")


def test_times_are_told_in_the_zone_of_the_setting() -> None:
    limits = sms_limits(Settings(sms_timezone="Europe/London"))
    summer = datetime(2026, 7, 1, 10, tzinfo=UTC).astimezone(limits.zone)
    assert limits.zone == ZoneInfo("Europe/London")
    assert day_and_time(summer) == {"date": "1 July 2026", "time": "11:00 BST"}
    with pytest.raises(ValueError, match="no time zone"):
        Settings(sms_timezone="Europe/Atlantis")


# Over real processes


def test_from_the_confirmation_over_http_to_the_receipt(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio
) -> None:
    port = free_port()
    public = {"sms_public_url": f"http://127.0.0.1:{port}", "port": port}
    more = {**twilio.settings(), **public}
    with (
        running_api(urls.owner, urls.app, urls.projector, **more) as api,
        sender(urls, twilio, **public),
    ):
        office = api.office()
        client = office.client()
        member = office.make("members", name="Grace").json()["id"]
        lead = office.make("leads", name="Ada Lovelace", phone="+44 20 7946 0000").json()["id"]
        appointment = office.make(
            "appointments", title="First call", memberId=member, leadId=lead,
            startsAt=STARTS_AT, durationMinutes=30,
        ).json()["id"]  # fmt: skip
        body = {"appointmentId": appointment, "confirmedBy": "Grace", "notify": True}
        answer = client.post("/api/bookings/confirm", json=body)
        assert answer.status_code == 200, answer.text
        until(lambda: len(twilio.messages) == 1)
        (message,) = twilio.messages.values()
        until(lambda: twilio.receipt(message, "delivered").status_code == 204)
        until(lambda: client.get(f"/api/leads/{lead}").json()["status"] == "contacted")
        history = client.get(f"/api/leads/{lead}/sms-history").json()["sms_messages"]
        assert [(each["status"], each["templateId"]) for each in history] == [
            ("delivered", "appointment_confirmation")
        ]
        again = client.post("/api/bookings/confirm", json=body)
        assert again.status_code == 409
    assert len(twilio.messages) == 1
    assert twilio.refusals == []
