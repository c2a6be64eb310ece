"""A confirmed appointment sends a message; a delivered message makes the lead contacted."""

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
from tests.support.api_server import free_port, running_api
from tests.support.databases import Urls
from tests.support.events import recorded_event
from tests.support.senders import running_sender
from tests.support.sms_harness import SmsHarness, gateway_to
from tests.support.twilio_server import FakeTwilio
from tests.support.waiting import wait_until

STARTS_AT = "2026-01-31T10:00:00+00:00"


# Commands issued for given events


CONFIRMED = recorded_event("appointment.confirmed", {"changes": {}, "notify": True})
SMS_ID = command_id("booking", CONFIRMED)


def status_changed(status: str, sms: UUID = SMS_ID) -> Any:
    return recorded_event("sms.status_changed", {"before": "pending", "after": status}, sms)


def test_confirmation_with_notify_requests_a_message() -> None:
    message = Command("tellConfirmed", {"appointmentId": CONFIRMED.stream_id})
    assert PROCESS.react(None, CONFIRMED) == (MessageRequested(), (message,))


def test_confirmation_without_notify_requests_no_message() -> None:
    quiet = replace(CONFIRMED, data={"changes": {}, "notify": False})
    assert PROCESS.react(None, quiet) == (None, ())


def test_message_has_the_process_key_of_its_confirmation() -> None:
    assert PROCESS.key(CONFIRMED) == PROCESS.key(status_changed("sent")) == str(SMS_ID)


@pytest.mark.parametrize("status", ["sent", "failed", "undelivered"])
def test_undelivered_message_issues_no_command(status: str) -> None:
    assert PROCESS.react(MessageRequested(), status_changed(status)) == (MessageRequested(), ())


def test_delivered_message_contacts_the_lead_and_ends_the_process() -> None:
    contact = Command("contactLead", {"smsId": str(SMS_ID)})
    assert PROCESS.react(MessageRequested(), status_changed("delivered")) == (None, (contact,))


def test_unrelated_message_is_ignored() -> None:
    assert PROCESS.react(None, status_changed("delivered", uuid4())) == (None, ())


# Step by step


def confirm_appointment(sms_harness: SmsHarness, lead: UUID | None, *, notify: bool = True) -> UUID:
    """Create and confirm an appointment; return its id."""
    member = sms_harness.entities.create(sms_harness.scope, Member, {"name": "Grace"}).entity.id
    fields = {
        "title": "First call",
        "memberId": str(member),
        "startsAt": STARTS_AT,
        "durationMinutes": 30,
        "leadId": str(lead) if lead else None,
        "allowOverlap": True,
    }
    made = sms_harness.entities.create(sms_harness.scope, Appointment, fields).entity.id
    with sms_harness.log.transaction(sms_harness.scope):
        appointment = sms_harness.log.load(Appointment, made)
        appointment.confirm("Grace", at=datetime.now(UTC), notify=notify)
        sms_harness.log.append(appointment)
    return made


def deliver(sms_harness: SmsHarness, twilio: FakeTwilio) -> None:
    """Record that all messages were delivered."""
    for token in twilio.messages:
        sms_harness.sms.record_status(sms_harness.scope, UUID(token), SmsStatus.DELIVERED)
    sms_harness.react()


def test_new_lead_is_contacted_once_its_message_is_delivered(
    sms_harness: SmsHarness, twilio: FakeTwilio
) -> None:
    lead = sms_harness.lead()
    confirm_appointment(sms_harness, lead)
    sms_harness.send_all(gateway_to(twilio))
    (message,) = twilio.messages.values()
    assert message.form["Body"] == (
        "Hello Ada Lovelace, your appointment on 31 January 2026 at 10:00 UTC is confirmed."
    )
    assert sms_harness.lead_values(lead)["status"] == "new", (
        "the message was sent but not delivered yet"
    )
    deliver(sms_harness, twilio)
    assert sms_harness.lead_values(lead)["status"] == "contacted"
    assert [row[:2] for row in sms_harness.commands()] == [
        ("tellConfirmed", "done"),
        ("sendSms", "done"),
        ("contactLead", "done"),
    ]
    remaining = sms_harness.database.execute("SELECT count(*) FROM process_states").fetchone()
    assert remaining == (0,)


def test_events_have_correlation_and_causation_ids(
    sms_harness: SmsHarness, twilio: FakeTwilio
) -> None:
    sms_harness.scope = replace(sms_harness.scope, command_id="confirm-1")
    confirm_appointment(sms_harness, sms_harness.lead())
    sms_harness.send_all(gateway_to(twilio))
    deliver(sms_harness, twilio)
    rows = sms_harness.database.execute(
        """SELECT topic, metadata->>'correlationId', metadata->>'causationId' FROM events
            WHERE topic LIKE 'sms.%' OR topic = 'lead.status_changed' ORDER BY position"""
    ).fetchall()
    assert {row[1] for row in rows} == {"confirm-1"}, (
        "all events have the confirmation's correlation id"
    )
    assert rows[0] == ("sms.created", "confirm-1", "confirm-1")
    assert rows[-1][0] == "lead.status_changed"


@pytest.mark.parametrize("status", ["qualified", "won", "lost"])
def test_lead_with_a_later_status_keeps_it(
    sms_harness: SmsHarness, twilio: FakeTwilio, status: str
) -> None:
    lead = sms_harness.lead(status=status)
    confirm_appointment(sms_harness, lead)
    sms_harness.send_all(gateway_to(twilio))
    deliver(sms_harness, twilio)
    assert len(twilio.messages) == 1
    assert sms_harness.lead_values(lead)["status"] == status


def test_commands_without_a_recipient_are_refused_with_a_reason(
    sms_harness: SmsHarness, twilio: FakeTwilio
) -> None:
    confirm_appointment(sms_harness, None)
    confirm_appointment(sms_harness, sms_harness.lead(smsOptOut=True))
    confirm_appointment(sms_harness, sms_harness.lead(phone=None))
    confirm_appointment(sms_harness, sms_harness.lead(), notify=False)
    gone = confirm_appointment(sms_harness, sms_harness.lead())
    with sms_harness.log.transaction(sms_harness.scope):
        appointment = sms_harness.log.load(Appointment, gone)
        appointment.cancel(at=datetime.now(UTC))
        sms_harness.log.append(appointment)
    sms_harness.send_all(gateway_to(twilio))
    assert twilio.messages == {}
    assert [row[:2] for row in sms_harness.commands()] == [("tellConfirmed", "refused")] * 4
    assert sorted(row[3] for row in sms_harness.commands()) == [
        "LeadHasNoPhone",
        "LeadOptedOut",
        "NoRecipient",
        "NoRecipient",
    ]


def test_delivery_to_a_deleted_lead_is_refused(sms_harness: SmsHarness, twilio: FakeTwilio) -> None:
    lead = sms_harness.lead()
    confirm_appointment(sms_harness, lead)
    sms_harness.send_all(gateway_to(twilio))
    sms_harness.entities.delete(sms_harness.scope, Lead, lead)
    deliver(sms_harness, twilio)
    assert sms_harness.commands()[-1] == ("contactLead", "refused", 0, "IsDeleted")


def test_messages_use_the_configured_time_zone() -> None:
    limits = sms_limits(Settings(sms_timezone="Europe/London"))
    summer = datetime(2026, 7, 1, 10, tzinfo=UTC).astimezone(limits.zone)
    assert limits.zone == ZoneInfo("Europe/London")
    assert day_and_time(summer) == {"date": "1 July 2026", "time": "11:00 BST"}
    with pytest.raises(ValueError, match="not a time zone"):
        Settings(sms_timezone="Europe/Atlantis")


# Over real processes


def test_confirmation_over_http_leads_to_a_contacted_lead(
    sms_harness: SmsHarness, urls: Urls, twilio: FakeTwilio
) -> None:
    port = free_port()
    public = {"sms_public_url": f"http://127.0.0.1:{port}", "port": port}
    more = {**twilio.settings(), **public}
    with (
        running_api(urls.owner, urls.app, urls.projector, **more) as api,
        running_sender(urls, twilio, **public),
    ):
        api_workspace = api.new_workspace()
        client = api_workspace.client()
        member = api_workspace.make("members", name="Grace").json()["id"]
        lead = api_workspace.make("leads", name="Ada Lovelace", phone="+44 20 7946 0000").json()[
            "id"
        ]
        appointment = api_workspace.make(
            "appointments", title="First call", memberId=member, leadId=lead,
            startsAt=STARTS_AT, durationMinutes=30,
        ).json()["id"]  # fmt: skip
        body = {"appointmentId": appointment, "confirmedBy": "Grace", "notify": True}
        answer = client.post("/api/bookings/confirm", json=body)
        assert answer.status_code == 200, answer.text
        wait_until(lambda: len(twilio.messages) == 1, "the gateway has taken the message")
        (message,) = twilio.messages.values()
        wait_until(
            lambda: twilio.receipt(message, "delivered").status_code == 204,
            "the receipt is accepted",
        )
        wait_until(
            lambda: client.get(f"/api/leads/{lead}").json()["status"] == "contacted",
            "the lead is contacted",
        )
        history = client.get(f"/api/leads/{lead}/sms-history").json()["sms_messages"]
        assert [(each["status"], each["templateId"]) for each in history] == [
            ("delivered", "appointment_confirmation")
        ]
        again = client.post("/api/bookings/confirm", json=body)
        assert (again.status_code, again.json()["code"]) == (409, "ALREADY_CONFIRMED")
        assert again.json()["error"] == again.json()["detail"]
    assert len(twilio.messages) == 1
    assert twilio.refusals == []
