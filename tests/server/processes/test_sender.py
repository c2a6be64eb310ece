"""The sender: killed at each step of a send, run several times at once, stopped and restarted."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from commands.delivery.breakers import load_breaker
from commands.delivery.sending import BREAKER
from commands.process import Process, Reaction
from commands.processes import PROCESSES
from domain.shared.breaker import State
from eventlog.reading import RecordedEvent
from runtime.gateways import GatewaySettingsError, gateway_of
from runtime.gateways.log_only import LoggingGateway
from runtime.settings import Settings
from server.processes.sender import Sender
from tests.support.crashing_sender import PLACES
from tests.support.databases import Urls
from tests.support.processes import STOP_TIMEOUT_S
from tests.support.senders import SHORT_WAITS, running_sender, sender_process
from tests.support.sms_harness import CountingGateway, SmsHarness
from tests.support.twilio_server import MESSAGES_PATH, FakeTwilio
from tests.support.waiting import TIMEOUT_S, wait_until

pytestmark = pytest.mark.long(seconds=15)


def is_sent(sms_harness: SmsHarness, sms: UUID) -> bool:
    return bool(sms_harness.sms_values(sms)["status"] == "sent")


@pytest.mark.parametrize("when", PLACES)
def test_kill_9_at_any_step_neither_loses_nor_repeats_a_message(
    sms_harness: SmsHarness, urls: Urls, twilio: FakeTwilio, tmp_path: Path, when: str
) -> None:
    sms = sms_harness.ask()
    with sender_process(urls, twilio, tmp_path / "sender.log", when) as crashing:
        assert crashing.wait(TIMEOUT_S) == -signal.SIGKILL
    assert is_sent(sms_harness, sms) == (when == "end")
    taken = {"react": 0, "claim": 0, "call": 1, "record": 1, "end": 1}[when]
    assert len(twilio.messages) == taken
    with running_sender(urls, twilio):
        wait_until(lambda: is_sent(sms_harness, sms), "the message is sent")
        other = sms_harness.ask()
        wait_until(lambda: is_sent(sms_harness, other), "the message is sent")
        wait_until(
            lambda: {row[1] for row in sms_harness.commands()} == {"done"}, "all commands are done"
        )
    assert twilio.refusals == []
    assert sorted(twilio.messages) == sorted([str(sms), str(other)])
    assert len(twilio.calls) <= 3, "at most one repeated call, with the same key"
    events = sms_harness.database.execute(
        "SELECT topic, count(*) FROM events WHERE stream_id = %s GROUP BY topic", (sms,)
    ).fetchall()
    assert dict(events) == {"sms.created": 1, "sms.updated": 1, "sms.status_changed": 1}
    assert len(sms_harness.commands()) == 2


def test_several_senders_send_each_message_once_despite_kills(
    sms_harness: SmsHarness, urls: Urls, twilio: FakeTwilio, tmp_path: Path
) -> None:
    output = tmp_path / "sender.log"
    with (
        sender_process(urls, twilio, output) as first,
        sender_process(urls, twilio, output, "call") as second,
    ):
        asked = [sms_harness.ask() for _ in range(20)]
        wait_until(lambda: len(twilio.messages) > 3, "some messages are sent")
        first.kill()
        with running_sender(urls, twilio):
            wait_until(
                lambda: all(is_sent(sms_harness, sms) for sms in asked), "all messages are sent"
            )
        second.kill()
    assert sorted(twilio.messages) == sorted(map(str, asked))
    assert twilio.refusals == []


def test_truncated_call_of_a_killed_sender_is_not_counted(twilio: FakeTwilio) -> None:
    address = urlsplit(twilio.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST {MESSAGES_PATH} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 40\r\n\r\n"
        connection.sendall(head.encode() + b"To=%2B1500")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert twilio.calls == []
    assert twilio.refusals == []


def test_senders_share_a_persistent_breaker(
    sms_harness: SmsHarness, urls: Urls, twilio: FakeTwilio, tmp_path: Path
) -> None:
    twilio.down = "503"
    asked = [sms_harness.ask() for _ in range(9)]
    with (
        sender_process(urls, twilio, tmp_path / "sender.log") as first,
        running_sender(urls, twilio),
    ):
        wait_until(
            lambda: load_breaker(sms_harness.database, BREAKER)[0].state is State.OPEN,
            "the breaker is open",
        )
        first.kill()
    called = len(twilio.calls)
    twilio.down = None
    with running_sender(urls, twilio), running_sender(urls, twilio):
        one_more = sms_harness.ask()
        commands = "SELECT count(*) FROM process_commands"
        wait_until(
            lambda: sms_harness.database.execute(commands).fetchone() == (10,),
            "all ten commands are given",
        )
        assert len(twilio.calls) == called, "the breaker is still open"
        sms_harness.database.execute("UPDATE circuit_breakers SET until = now()")
        wait_until(
            lambda: all(is_sent(sms_harness, sms) for sms in (*asked, one_more)),
            "all messages are sent",
        )
    assert load_breaker(sms_harness.database, BREAKER)[0].state is State.CLOSED
    assert all(message.calls == 1 for message in twilio.messages.values())


def test_sender_reconnects_after_its_connections_are_terminated(
    sms_harness: SmsHarness, urls: Urls, twilio: FakeTwilio
) -> None:
    with running_sender(urls, twilio):
        first = sms_harness.ask()
        wait_until(lambda: is_sent(sms_harness, first), "the message is sent")
        sms_harness.database.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE usename = 'annals_sender' AND datname = current_database()
                  AND application_name IN ('annals-send', 'annals-hinter')"""
        )
        second = sms_harness.ask()
        wait_until(lambda: is_sent(sms_harness, second), "the message is sent")


def test_stuck_process_does_not_block_the_others(
    sms_harness: SmsHarness, urls: Urls, twilio: FakeTwilio, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(state: None, event: RecordedEvent) -> Reaction[None]:
        raise ZeroDivisionError

    broken = Process("broken", frozenset({"lead.created"}), fail, type(None))
    settings = Settings(sender_url=urls.sender, **twilio.settings(), **SHORT_WAITS)
    sender = Sender(settings, gateway_of(settings), [broken, *PROCESSES.values()])
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        position = "SELECT position FROM process_inboxes WHERE process = 'broken'"
        wait_until(
            lambda: sms_harness.database.execute(position).fetchone() is not None,
            "the process has an inbox",
        )
        start = sms_harness.database.execute(position).fetchone()
        sms = sms_harness.ask()
        wait_until(lambda: is_sent(sms_harness, sms), "the message is sent")
        assert sms_harness.database.execute(position).fetchone() == start
    finally:
        sender.stop()
        thread.join(STOP_TIMEOUT_S)
    assert "process broken is stuck at an event" in caplog.text


def test_sender_stops_on_sigterm(
    sms_harness: SmsHarness, urls: Urls, twilio: FakeTwilio, tmp_path: Path
) -> None:
    with sender_process(urls, twilio, tmp_path / "sender.log") as running:
        sms = sms_harness.ask()
        wait_until(lambda: is_sent(sms_harness, sms), "the message is sent")
        running.send_signal(signal.SIGTERM)
        assert running.wait(STOP_TIMEOUT_S) == 0


def test_sender_requires_its_url_and_a_complete_account() -> None:
    with pytest.raises(LookupError, match="ANNALS_SENDER_URL"):
        Sender(Settings(), CountingGateway())
    with pytest.raises(GatewaySettingsError, match="ANNALS_SMS_TWILIO_ACCOUNT"):
        gateway_of(Settings(sms_gateway="twilio"))
    assert isinstance(gateway_of(Settings()), LoggingGateway)
