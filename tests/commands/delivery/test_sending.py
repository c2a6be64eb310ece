"""Handing messages to a gateway that fails: each is sent once, none is forgotten."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from commands.delivery.breakers import load_breaker
from commands.delivery.gateway import OutgoingSms
from commands.delivery.sending import BREAKER, RetryPolicy
from domain.lead import Lead
from domain.shared.breaker import Breaker, State
from domain.sms import (
    LeadDailyLimitReached,
    LeadHasNoPhone,
    LeadOptedOut,
    Sms,
    SmsStatus,
    WorkspaceDailyLimitReached,
)
from runtime.gateways.twilio import signature
from tests.support.databases import Urls
from tests.support.sms_harness import CountingGateway, SmsHarness, gateway_to
from tests.support.twilio_server import (
    ACCOUNT,
    INVALID_NUMBER,
    NUMBER,
    TOKEN,
    FakeTwilio,
    Fault,
    sign,
)

STRICT = RetryPolicy(backoff_first_s=0.001, backoff_max_s=0.004, jitter_s=0.001)
"""With the breaker as it is for real."""


def breaker(sms_harness: SmsHarness) -> Breaker:
    return load_breaker(sms_harness.database, BREAKER)[0]


def probe_is_due(sms_harness: SmsHarness) -> None:
    """Time goes by until the breaker lets a probe through."""
    sms_harness.database.execute(
        "UPDATE circuit_breakers SET until = now() WHERE state <> 'CLOSED'"
    )


# Twilio's API


def test_twilio_gets_what_its_api_asks_for(sms_harness: SmsHarness, twilio: FakeTwilio) -> None:
    sms = sms_harness.ask(message="Grüße & more")
    sms_harness.send_all(gateway_to(twilio, public_url="https://crm.example"))
    (message,) = twilio.messages.values()
    assert twilio.refusals == []
    assert message.token == str(sms)
    query = f"workspaceId={sms_harness.scope.workspace_id}&smsId={sms}"
    assert message.form == {
        "To": "+442079460000",
        "From": NUMBER,
        "Body": "Grüße & more",
        "StatusCallback": f"https://crm.example/api/sms/receipts?{query}",
    }
    facts = sms_harness.sms_values(sms)
    assert (facts["status"], facts["gatewayId"]) == ("sent", message.sid)


def test_the_signature_is_the_one_of_twilios_own_example() -> None:
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    assert signature("12345", url, form.items()) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    assert sign("12345", url, form) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


def test_a_messaging_service_sends_in_the_place_of_a_number(twilio: FakeTwilio) -> None:
    gateway = gateway_to(twilio)
    gateway._twilio = gateway._twilio.__class__(twilio.url, ACCOUNT, TOKEN, "MG1")
    form = gateway._form(OutgoingSms(UUID(int=1), UUID(int=2), "+442079460000", "x"))
    assert form == {"To": "+442079460000", "Body": "x", "MessagingServiceSid": "MG1"}


# Failing and trying again


@pytest.mark.parametrize("fault", ["timeout", "lost", "cut", "429", "500", "503", "401"])
def test_whatever_fails_is_tried_again_and_sent_once(
    sms_harness: SmsHarness, twilio: FakeTwilio, fault: Fault
) -> None:
    sms = sms_harness.ask()
    twilio.faults = [fault]
    sms_harness.send_all(gateway_to(twilio))
    assert [what for _, _, what in twilio.calls] == [fault, "ok"]
    assert {token for _, token, _ in twilio.calls} == {str(sms)}, "one key for all attempts"
    (message,) = twilio.messages.values()
    assert (sms_harness.sms_values(sms)["status"], sms_harness.sms_values(sms)["gatewayId"]) == (
        "sent",
        message.sid,
    )


def test_after_five_attempts_a_message_is_given_up(
    sms_harness: SmsHarness, twilio: FakeTwilio
) -> None:
    sms = sms_harness.ask()
    twilio.down = "500"
    sms_harness.send_all(gateway_to(twilio))
    assert len(twilio.calls) == 5
    facts = sms_harness.sms_values(sms)
    assert facts["status"] == "failed"
    assert facts["error"] == "given up after 5 attempts: Twilio answers 500: not now"
    assert sms_harness.commands()[0][1:3] == ("failed", 5)


def test_what_the_gateway_refuses_is_not_tried_again(
    sms_harness: SmsHarness, twilio: FakeTwilio
) -> None:
    sms = sms_harness.ask(sms_harness.lead(phone=INVALID_NUMBER))
    sms_harness.send_all(gateway_to(twilio))
    assert len(twilio.calls) == 1
    facts = sms_harness.sms_values(sms)
    assert (facts["status"], facts["errorCode"]) == ("failed", "21211")
    assert breaker(sms_harness).failures == (), "a gateway that refuses is there"


def test_pauses_are_one_two_and_four_seconds_and_a_little_more() -> None:
    for attempt, least_s in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0), (20, 4.0)]:
        pauses = [RetryPolicy().pause_s(attempt) for _ in range(50)]
        assert min(pauses) >= least_s
        assert max(pauses) <= least_s + 0.5
        assert len(set(pauses)) > 1, "not all at once"


def test_a_gateway_that_wants_to_be_left_alone_is(
    sms_harness: SmsHarness, twilio: FakeTwilio
) -> None:
    sms_harness.ask()
    twilio.faults, twilio.retry_after_s = ["429"], 120
    sms_harness.react()
    assert sms_harness.delivery(gateway_to(twilio)).send_next()
    (pause,) = sms_harness.database.execute(
        "SELECT next_attempt_at - clock_timestamp() FROM process_commands"
    ).fetchall()[0]
    assert timedelta(seconds=60) < pause <= timedelta(seconds=120)


def test_a_message_that_is_too_old_is_not_sent_any_more(
    sms_harness: SmsHarness, twilio: FakeTwilio
) -> None:
    sms = sms_harness.ask()
    sms_harness.react()
    sms_harness.database.execute("UPDATE process_commands SET created_at = now() - interval '25 h'")
    sms_harness.send_all(gateway_to(twilio))
    assert twilio.calls == []
    assert sms_harness.sms_values(sms)["error"] == "not sent within 86400 s"


def test_many_senders_share_the_work(sms_harness: SmsHarness) -> None:
    lead = sms_harness.lead()
    sms_harness.limits = sms_harness.limits.__class__(lead_daily_max=100)
    asked = {sms_harness.ask(lead, message=f"number {number}") for number in range(30)}
    sms_harness.react()
    gateway = CountingGateway()

    def work() -> None:
        sending = sms_harness.delivery(gateway)
        while sending.send_next():
            pass

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.id for each in gateway.taken) == sorted(asked)
    assert {sms_harness.sms_values(sms)["status"] for sms in asked} == {"sent"}


def test_one_who_outlived_its_lease_disturbs_nobody(sms_harness: SmsHarness) -> None:
    sms = sms_harness.ask()
    sms_harness.react()
    late, quick = sms_harness.delivery(CountingGateway()), sms_harness.delivery(CountingGateway())
    slow = late.claim()
    assert slow is not None
    assert not quick.send_next(), "it is somebody else's"
    sms_harness.skip_waits()
    assert quick.send_next()
    late.end(slow, "done", SmsStatus.SENT, gateway_id="late")
    assert sms_harness.sms_values(sms)["gatewayId"] == "count-1"
    assert sms_harness.commands() == [("sendSms", "done", 2, "")]


def test_a_message_that_was_deleted_meanwhile_is_not_sent(sms_harness: SmsHarness) -> None:
    sms, gateway = sms_harness.ask(), CountingGateway()
    sms_harness.react()
    sms_harness.entities.delete(sms_harness.scope, Sms, sms)
    sms_harness.send_all(gateway)
    assert gateway.taken == []
    assert sms_harness.commands() == [("sendSms", "done", 1, "")]


def test_an_answer_that_says_odd_things_is_an_answer(sms_harness: SmsHarness) -> None:
    class Odd(CountingGateway):
        def send(self, sms: OutgoingSms) -> str:
            super().send(sms)
            return "\x00\n" + "x" * 5_000

    sms, gateway = sms_harness.ask(), Odd()
    sms_harness.send_all(gateway)
    assert len(gateway.taken) == 1
    assert sms_harness.sms_values(sms)["status"] == "sent"


# The breaker


def test_a_gateway_that_is_down_is_left_alone_and_probed(
    sms_harness: SmsHarness, twilio: FakeTwilio
) -> None:
    lead = sms_harness.lead()
    asked = [sms_harness.ask(lead, message=f"number {number}") for number in range(8)]
    gateway, twilio.down = gateway_to(twilio), "503"
    sms_harness.send_all(gateway, STRICT)
    assert len(twilio.calls) == 5
    assert breaker(sms_harness).state is State.OPEN
    for wait_s in (60, 120):
        probe_is_due(sms_harness)
        sms_harness.skip_waits()
        sms_harness.send_all(gateway, STRICT)
        assert (breaker(sms_harness).state, breaker(sms_harness).wait_s) == (State.OPEN, wait_s)
    assert len(twilio.calls) == 7, "one probe each time"
    twilio.down = None
    probe_is_due(sms_harness)
    sms_harness.send_all(gateway, STRICT)
    assert breaker(sms_harness).state is State.CLOSED
    assert {sms_harness.sms_values(sms)["status"] for sms in asked} == {"sent"}
    assert all(message.calls == 1 for message in twilio.messages.values())


def test_a_probe_that_has_nothing_to_send_is_no_probe(sms_harness: SmsHarness) -> None:
    lead = sms_harness.lead()
    sms_harness.ask(lead)
    sms_harness.react()
    sms_harness.entities.revise(
        sms_harness.scope, Lead, lead, lambda facts: {**facts, "smsOptOut": True}
    )
    sms_harness.database.execute(
        """UPDATE circuit_breakers
              SET state = 'OPEN', until = now(), wait_s = 30, epoch = epoch + 1"""
    )
    gateway = CountingGateway()
    assert sms_harness.delivery(gateway, STRICT).send_next()
    assert breaker(sms_harness).state is State.OPEN
    sms = sms_harness.ask()
    sms_harness.send_all(gateway, STRICT)
    assert [each.id for each in gateway.taken] == [sms]
    assert breaker(sms_harness).state is State.CLOSED


# What may be sent


def test_one_who_opted_out_while_the_message_waited_gets_none(sms_harness: SmsHarness) -> None:
    lead, gateway = sms_harness.lead(), CountingGateway()
    sms = sms_harness.ask(lead)
    sms_harness.entities.revise(
        sms_harness.scope, Lead, lead, lambda facts: {**facts, "smsOptOut": True}
    )
    sms_harness.send_all(gateway)
    assert gateway.taken == []
    assert sms_harness.sms_values(sms)["status"] == "failed"
    assert sms_harness.sms_values(sms)["error"] == "The lead has opted out of text messages."


def test_who_cannot_be_sent_to_is_refused(sms_harness: SmsHarness) -> None:
    out, without = sms_harness.lead(smsOptOut=True), sms_harness.lead(phone=None)
    with pytest.raises(LeadOptedOut):
        sms_harness.ask(out)
    with pytest.raises(LeadHasNoPhone):
        sms_harness.ask(without)


def test_the_caps_hold_against_many_at_once(sms_harness: SmsHarness) -> None:
    sms_harness.limits = sms_harness.limits.__class__(lead_daily_max=3, workspace_daily_max=5)
    leads = [sms_harness.lead() for _ in range(3)]
    came: list[str] = []

    def ask(lead: UUID) -> None:
        for _ in range(4):
            try:
                sms_harness.ask(lead)
                came.append("asked")
            except (LeadDailyLimitReached, WorkspaceDailyLimitReached) as refused:
                came.append(type(refused).__name__)

    threads = [threading.Thread(target=ask, args=(lead,)) for lead in leads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert came.count("asked") == 5
    counted = sms_harness.database.execute(
        "SELECT n FROM sms_counts WHERE lead_id IS NULL"
    ).fetchall()
    assert counted == [(5,)], "what is refused is not counted"
    most = sms_harness.database.execute("SELECT max(n) FROM sms_counts WHERE lead_id IS NOT NULL")
    assert most.fetchone() <= (3,)  # type: ignore[operator]


def test_counts_of_days_gone_by_are_forgotten(sms_harness: SmsHarness) -> None:
    lead = sms_harness.lead()
    sms_harness.ask(lead)
    sms_harness.database.execute("UPDATE sms_counts SET day = day - 1")
    sms_harness.ask(lead)
    days = sms_harness.database.execute(
        "SELECT count(DISTINCT day), sum(n) FROM sms_counts"
    ).fetchone()
    assert days == (1, 2)


def test_counts_of_another_workspace_are_not_seen(sms_harness: SmsHarness, urls: Urls) -> None:
    sms_harness.ask()
    with psycopg.connect(urls.app) as connection:
        connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [str(UUID(int=1))])
        assert connection.execute("SELECT count(*) FROM sms_counts").fetchone() == (0,)
