"""SMS delivery to a failing gateway: each message is sent once, and none is lost."""

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
"""Short pauses, with the circuit breaker of production."""


def load_sms_breaker(sms_harness: SmsHarness) -> Breaker:
    return load_breaker(sms_harness.database, BREAKER)[0]


def make_probe_due(sms_harness: SmsHarness) -> None:
    """Let the wait of the breaker end, so that it admits a probe."""
    sms_harness.database.execute(
        "UPDATE circuit_breakers SET until = now() WHERE state <> 'CLOSED'"
    )


# Twilio's API


def test_request_matches_the_twilio_api(sms_harness: SmsHarness, twilio: FakeTwilio) -> None:
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
    values = sms_harness.sms_values(sms)
    assert (values["status"], values["gatewayId"]) == ("sent", message.sid)


def test_signature_matches_the_example_of_twilio() -> None:
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


def test_messaging_service_replaces_the_sender_number(twilio: FakeTwilio) -> None:
    gateway = gateway_to(twilio)
    gateway._twilio = gateway._twilio.__class__(twilio.url, ACCOUNT, TOKEN, "MG1")
    form = gateway._form(OutgoingSms(UUID(int=1), UUID(int=2), "+442079460000", "x"))
    assert form == {"To": "+442079460000", "Body": "x", "MessagingServiceSid": "MG1"}


# Retries


@pytest.mark.parametrize("fault", ["timeout", "lost", "cut", "429", "500", "503", "401"])
def test_failed_call_is_retried_and_sent_once(
    sms_harness: SmsHarness, twilio: FakeTwilio, fault: Fault
) -> None:
    sms = sms_harness.ask()
    twilio.faults = [fault]
    sms_harness.send_all(gateway_to(twilio))
    assert [outcome for _, _, outcome in twilio.calls] == [fault, "ok"]
    assert {token for _, token, _ in twilio.calls} == {str(sms)}, "one key for all attempts"
    (message,) = twilio.messages.values()
    assert (sms_harness.sms_values(sms)["status"], sms_harness.sms_values(sms)["gatewayId"]) == (
        "sent",
        message.sid,
    )


def test_message_fails_after_five_attempts(sms_harness: SmsHarness, twilio: FakeTwilio) -> None:
    sms = sms_harness.ask()
    twilio.down = "500"
    sms_harness.send_all(gateway_to(twilio))
    assert len(twilio.calls) == 5
    values = sms_harness.sms_values(sms)
    assert values["status"] == "failed"
    assert values["error"] == "given up after 5 attempts: Twilio answers 500: not now"
    assert sms_harness.commands()[0][1:3] == ("failed", 5)


def test_message_refused_by_the_gateway_is_not_retried(
    sms_harness: SmsHarness, twilio: FakeTwilio
) -> None:
    sms = sms_harness.ask(sms_harness.lead(phone=INVALID_NUMBER))
    sms_harness.send_all(gateway_to(twilio))
    assert len(twilio.calls) == 1
    values = sms_harness.sms_values(sms)
    assert (values["status"], values["errorCode"]) == ("failed", "21211")
    assert load_sms_breaker(sms_harness).failures == (), (
        "a refusal does not count as a failure of the gateway"
    )


def test_pauses_double_up_to_four_seconds_with_jitter() -> None:
    for attempt, least_s in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0), (20, 4.0)]:
        pauses = [RetryPolicy().pause_s(attempt) for _ in range(50)]
        assert min(pauses) >= least_s
        assert max(pauses) <= least_s + 0.5
        assert len(set(pauses)) > 1, "pauses are jittered"


def test_retry_after_of_the_gateway_is_respected(
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


def test_message_older_than_a_day_is_not_sent(sms_harness: SmsHarness, twilio: FakeTwilio) -> None:
    sms = sms_harness.ask()
    sms_harness.react()
    sms_harness.database.execute("UPDATE process_commands SET created_at = now() - interval '25 h'")
    sms_harness.send_all(gateway_to(twilio))
    assert twilio.calls == []
    assert sms_harness.sms_values(sms)["error"] == "not sent within 86400 s"


def test_concurrent_senders_send_each_message_once(sms_harness: SmsHarness) -> None:
    lead = sms_harness.lead()
    sms_harness.limits = sms_harness.limits.__class__(lead_daily_max=100)
    requested = {sms_harness.ask(lead, message=f"number {number}") for number in range(30)}
    sms_harness.react()
    gateway = CountingGateway()

    def send_messages() -> None:
        sending = sms_harness.delivery(gateway)
        while sending.send_next():
            pass

    threads = [threading.Thread(target=send_messages) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.id for each in gateway.taken) == sorted(requested)
    assert {sms_harness.sms_values(sms)["status"] for sms in requested} == {"sent"}


def test_sender_whose_lease_expired_changes_nothing(sms_harness: SmsHarness) -> None:
    sms = sms_harness.ask()
    sms_harness.react()
    late, quick = sms_harness.delivery(CountingGateway()), sms_harness.delivery(CountingGateway())
    expired = late.claim()
    assert expired is not None
    assert not quick.send_next(), "the other sender holds the lease"
    sms_harness.skip_waits()
    assert quick.send_next()
    late.end(expired, "done", SmsStatus.SENT, gateway_id="late")
    assert sms_harness.sms_values(sms)["gatewayId"] == "count-1"
    assert sms_harness.commands() == [("sendSms", "done", 2, "")]


def test_message_deleted_while_waiting_is_not_sent(sms_harness: SmsHarness) -> None:
    sms, gateway = sms_harness.ask(), CountingGateway()
    sms_harness.react()
    sms_harness.entities.delete(sms_harness.scope, Sms, sms)
    sms_harness.send_all(gateway)
    assert gateway.taken == []
    assert sms_harness.commands() == [("sendSms", "done", 1, "")]


def test_malformed_gateway_id_counts_as_sent(sms_harness: SmsHarness) -> None:
    class MalformedIdGateway(CountingGateway):
        def send(self, sms: OutgoingSms) -> str:
            super().send(sms)
            return "\x00\n" + "x" * 5_000

    sms, gateway = sms_harness.ask(), MalformedIdGateway()
    sms_harness.send_all(gateway)
    assert len(gateway.taken) == 1
    assert sms_harness.sms_values(sms)["status"] == "sent"


# Circuit breaker


def test_breaker_stops_calls_to_a_failing_gateway_and_probes_it(
    sms_harness: SmsHarness, twilio: FakeTwilio
) -> None:
    lead = sms_harness.lead()
    requested = [sms_harness.ask(lead, message=f"number {number}") for number in range(8)]
    gateway, twilio.down = gateway_to(twilio), "503"
    sms_harness.send_all(gateway, STRICT)
    assert len(twilio.calls) == 5
    assert load_sms_breaker(sms_harness).state is State.OPEN
    for wait_s in (60, 120):
        make_probe_due(sms_harness)
        sms_harness.skip_waits()
        sms_harness.send_all(gateway, STRICT)
        assert (load_sms_breaker(sms_harness).state, load_sms_breaker(sms_harness).wait_s) == (
            State.OPEN,
            wait_s,
        )
    assert len(twilio.calls) == 7, "one probe each time"
    twilio.down = None
    make_probe_due(sms_harness)
    sms_harness.send_all(gateway, STRICT)
    assert load_sms_breaker(sms_harness).state is State.CLOSED
    assert {sms_harness.sms_values(sms)["status"] for sms in requested} == {"sent"}
    assert all(message.calls == 1 for message in twilio.messages.values())


def test_probe_that_sends_nothing_leaves_the_breaker_open(sms_harness: SmsHarness) -> None:
    lead = sms_harness.lead()
    sms_harness.ask(lead)
    sms_harness.react()
    sms_harness.entities.revise(
        sms_harness.scope, Lead, lead, lambda values: {**values, "smsOptOut": True}
    )
    sms_harness.database.execute(
        """UPDATE circuit_breakers
              SET state = 'OPEN', until = now(), wait_s = 30, epoch = epoch + 1"""
    )
    gateway = CountingGateway()
    assert sms_harness.delivery(gateway, STRICT).send_next()
    assert load_sms_breaker(sms_harness).state is State.OPEN
    sms = sms_harness.ask()
    sms_harness.send_all(gateway, STRICT)
    assert [each.id for each in gateway.taken] == [sms]
    assert load_sms_breaker(sms_harness).state is State.CLOSED


# Opt-outs and limits


def test_waiting_message_is_not_sent_after_an_opt_out(sms_harness: SmsHarness) -> None:
    lead, gateway = sms_harness.lead(), CountingGateway()
    sms = sms_harness.ask(lead)
    sms_harness.entities.revise(
        sms_harness.scope, Lead, lead, lambda values: {**values, "smsOptOut": True}
    )
    sms_harness.send_all(gateway)
    assert gateway.taken == []
    assert sms_harness.sms_values(sms)["status"] == "failed"
    assert sms_harness.sms_values(sms)["error"] == "The lead has opted out of text messages."


def test_message_to_a_lead_without_phone_or_consent_is_refused(sms_harness: SmsHarness) -> None:
    opted_out, without_phone = sms_harness.lead(smsOptOut=True), sms_harness.lead(phone=None)
    with pytest.raises(LeadOptedOut):
        sms_harness.ask(opted_out)
    with pytest.raises(LeadHasNoPhone):
        sms_harness.ask(without_phone)


def test_daily_limits_hold_under_concurrent_requests(sms_harness: SmsHarness) -> None:
    sms_harness.limits = sms_harness.limits.__class__(lead_daily_max=3, workspace_daily_max=5)
    leads = [sms_harness.lead() for _ in range(3)]
    outcomes: list[str] = []

    def request(lead: UUID) -> None:
        for _ in range(4):
            try:
                sms_harness.ask(lead)
                outcomes.append("requested")
            except (LeadDailyLimitReached, WorkspaceDailyLimitReached) as refused:
                outcomes.append(type(refused).__name__)

    threads = [threading.Thread(target=request, args=(lead,)) for lead in leads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("requested") == 5
    counted = sms_harness.database.execute(
        "SELECT n FROM sms_counts WHERE lead_id IS NULL"
    ).fetchall()
    assert counted == [(5,)], "refused messages are not counted"
    largest = sms_harness.database.execute(
        "SELECT max(n) FROM sms_counts WHERE lead_id IS NOT NULL"
    )
    assert largest.fetchone() <= (3,)  # type: ignore[operator]


def test_counts_of_past_days_are_deleted(sms_harness: SmsHarness) -> None:
    lead = sms_harness.lead()
    sms_harness.ask(lead)
    sms_harness.database.execute("UPDATE sms_counts SET day = day - 1")
    sms_harness.ask(lead)
    days = sms_harness.database.execute(
        "SELECT count(DISTINCT day), sum(n) FROM sms_counts"
    ).fetchone()
    assert days == (1, 2)


def test_counts_of_another_workspace_are_invisible(sms_harness: SmsHarness, urls: Urls) -> None:
    sms_harness.ask()
    with psycopg.connect(urls.app) as connection:
        connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [str(UUID(int=1))])
        assert connection.execute("SELECT count(*) FROM sms_counts").fetchone() == (0,)
